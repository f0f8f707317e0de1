"""What a stage draws, and how its length becomes whole steps: shared by the curriculum and the critic's stage.

Draws nothing itself. P planned rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from wmtp_ray.contracts import Int64
from wmtp_ray.errors import PlanError


@dataclass(frozen=True)
class PlannedPhase:
    """Steps [start_step, end_step) and what they hold. `wanted_rows_by_bin` is the share before any bin ran dry."""

    name: str
    start_step: int
    end_step: int
    rows_by_bin: dict[str, int]
    wanted_rows_by_bin: dict[str, int]
    weights: dict[str, float]
    tokens: int


@dataclass(frozen=True)
class RunLength:
    """Whole steps of a run, and the rows of its incomplete last step, which is left out."""

    num_steps: int
    incomplete_rows: int


@dataclass(frozen=True, eq=False)
class StageRows:
    """Rows in training order, `batch_rows` to a step, with their phases and the account of the others.

    `left_out` (by reason), `outside_bins` (by difficulty) and `available_rows` add up to the index. Of the
    available, `rows_per_epoch` are drawn; `incomplete_rows` would have made the last, incomplete step.
    """

    row_ids_P: Int64
    phases: tuple[PlannedPhase, ...]
    left_out: dict[str, int]
    outside_bins: dict[int, int]
    available_rows: int
    rows_per_epoch: int
    incomplete_rows: int
    pairs: int
    length_matched_pairs: int
    warnings: tuple[str, ...]


def run_length(
    rows_per_epoch: int, epochs: float, max_steps: int | None, batch_rows: int, *, section: str
) -> RunLength:
    """Count the whole steps of a run: steps may span two epochs, and `max_steps` cuts them short.

    A part of an epoch is rounded down to whole rows, in decimals: 0.29 epochs of 100 rows are 29 rows. Raises PlanError
    when a part of an epoch does not fill one step; `section` is "train" or "critic_stage".
    """
    num_rows = int(rows_per_epoch * Fraction(str(epochs)))
    num_steps, incomplete_rows = divmod(num_rows, batch_rows)
    if num_steps == 0:
        raise PlanError(
            f"{section}.epochs={epochs:g} of {rows_per_epoch:,} rows are {num_rows:,} rows, but a step needs "
            f"{section}.batch_rows={batch_rows}: raise {section}.epochs, lower {section}.batch_rows, or give more data"
        )
    if max_steps is not None and max_steps <= num_steps:
        return RunLength(max_steps, 0)
    return RunLength(num_steps, incomplete_rows)


def phase_boundaries(ends: Sequence[float], num_steps: int) -> list[int]:
    """Round the phases' ends (fractions of the run, the last 1.0) to steps; returns len(ends) + 1 boundaries from 0.

    With at least as many steps as phases every phase gets one: ends [0.01, 0.02, 1.0] of 10 steps -> [0, 1, 2, 10].
    """
    boundaries = [0, *(int(end * num_steps + 0.5) for end in ends)]
    boundaries[-1] = num_steps
    if num_steps >= len(ends):
        for place in range(1, len(boundaries)):
            latest = num_steps - (len(ends) - place)
            boundaries[place] = min(max(boundaries[place], boundaries[place - 1] + 1), latest)
    return boundaries
