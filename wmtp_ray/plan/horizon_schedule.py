"""The forward curriculum over horizons (`loss.horizon_schedule`): further ones come in as the run goes on.

The steps of stage 2 are cut into as many equal parts as the model has horizons; in part k the first k are trained
(Aynetdinov and Akbik 2025, arXiv 2505.22757, section 3: a forward curriculum helps small models).
"""

from collections.abc import Sequence


def horizon_starts(num_horizons: int, num_steps: int) -> tuple[int, ...]:
    """Return the step from which each horizon is trained, rounded down: 4 horizons over 10 steps give 0, 2, 5, 7."""
    return tuple(k * num_steps // num_horizons for k in range(num_horizons))


def horizons_at(starts: Sequence[int], step: int) -> int:
    """Return how many horizons a step trains."""
    return sum(start <= step for start in starts)
