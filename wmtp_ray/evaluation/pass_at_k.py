"""Pass@K: the unbiased estimate, its interval over problems, and the difference of two evaluations.

The estimator is Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1. Intervals are over
problems (`wmtp_ray/intervals.py`). Two evaluations of the same problems are compared in pairs: a hard problem is hard
for both, so it does not widen the interval of the difference. Knows neither programs nor files.

Shape suffix: P problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.intervals import Bounds, Float64, difference_bounds, mean_bounds


@dataclass(frozen=True)
class Counts:
    """How many samples of a problem were judged, and how many passed."""

    num_samples: int
    num_correct: int


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_problems` problems and its 95 % interval."""

    value: float
    low: float
    high: float
    num_problems: int


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that one of k samples, drawn from these without replacement, is correct.

    4 samples, 1 of them correct, k = 2: of 6 pairs 3 hold the correct one, 0.5. Raises ValueError unless
    0 <= num_correct <= num_samples and 1 <= k <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} correct of {num_samples} samples: expected between 0 and {num_samples}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples: k must lie between 1 and the number of samples")
    num_wrong = num_samples - num_correct
    if num_wrong < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_wrong + 1, num_samples + 1)))


def estimate_pass_at_k(counts: Sequence[Counts], k: int) -> Estimate:
    """Return the mean over problems, which may have different numbers of samples, each at least k.

    Raises ValueError for no problem at all, and as `pass_at_k` does.
    """
    return _estimate(_per_problem(counts, k), mean_bounds)


def compare_pass_at_k(before: Sequence[Counts], after: Sequence[Counts], k: int) -> Estimate:
    """Return the mean of after - before over the same problems in the same order, compared in pairs."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} problems before and {len(after)} after: expected the same problems")
    return _estimate(_per_problem(after, k) - _per_problem(before, k), difference_bounds)


def _per_problem(counts: Sequence[Counts], k: int) -> Float64:
    return np.array([pass_at_k(each.num_samples, each.num_correct, k) for each in counts], np.float64)


def _estimate(values_P: Float64, bounds: Callable[[Float64], Bounds]) -> Estimate:
    if not len(values_P):
        raise ValueError("no problem to average over")
    low, high = bounds(values_P)
    return Estimate(float(values_P.mean()), low, high, len(values_P))
