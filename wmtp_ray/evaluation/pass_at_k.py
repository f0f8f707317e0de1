"""Pass@K: the unbiased estimate, its interval over problems, and the difference of two evaluations.

The estimator is Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1. Intervals are
percentile bootstraps over PROBLEMS, since samples of one problem resemble each other. Two evaluations of the same
problems are compared in pairs: a hard problem is hard for both, so it does not widen the interval of the difference.
Knows neither programs nor files.

Shape suffixes: P problems, S resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
_RESAMPLES_AT_ONCE = 250  # bounds the memory of a bootstrap over thousands of problems

Float64 = npt.NDArray[np.float64]


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


def estimate_pass_at_k(counts: Sequence[Counts], k: int, *, seed: int) -> Estimate:
    """Return the mean over problems, which may have different numbers of samples, each at least k.

    Raises ValueError for no problem at all, and as `pass_at_k` does.
    """
    return _bootstrap(_per_problem(counts, k), seed)


def compare_pass_at_k(before: Sequence[Counts], after: Sequence[Counts], k: int, *, seed: int) -> Estimate:
    """Return the mean of after - before over the same problems in the same order, resampled in pairs."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} problems before and {len(after)} after: expected the same problems")
    return _bootstrap(_per_problem(after, k) - _per_problem(before, k), seed)


def _per_problem(counts: Sequence[Counts], k: int) -> Float64:
    return np.array([pass_at_k(each.num_samples, each.num_correct, k) for each in counts], np.float64)


def _bootstrap(values_P: Float64, seed: int) -> Estimate:
    """The mean, and the quantiles of the means of resampled problems."""
    num_problems = len(values_P)
    if num_problems == 0:
        raise ValueError("no problem to average over")
    random = np.random.default_rng(seed)
    means_S = np.concatenate(
        [
            values_P[random.integers(num_problems, size=(_RESAMPLES_AT_ONCE, num_problems))].mean(axis=1)
            for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE)
        ]
    )
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means_S, (tail, 1.0 - tail))
    return Estimate(float(values_P.mean()), float(low), float(high), num_problems)
