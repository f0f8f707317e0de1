"""What numbers of several runs say together: intervals over seeds, paired differences, and their tests.

Seeds are few, so every p-value stands beside the smallest one that so many seeds can give at all. Intervals over seeds
are Student's; those over problems are the ones of every evaluation (`evaluation/intervals.py`). Knows neither runs nor
files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.evaluation.intervals import CONFIDENCE, Float64, difference_bounds, mean_bounds

NUM_RESAMPLES = 5000  # of the permutation test
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A mean over `count` values with its 95 % interval; no bounds where one value alone cannot give them."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


@dataclass(frozen=True)
class SeedTest:
    """Paired differences over seeds. The p-values are two-sided, None for fewer than two seeds."""

    difference: Interval
    num_positive: int
    num_negative: int
    wilcoxon_p: float | None
    permutation_p: float | None
    smallest_p: float


@dataclass(frozen=True)
class ProblemTest:
    """Paired differences over problems: their mean, and how many problems either side has more of."""

    difference: Interval
    num_better: int
    num_worse: int
    num_equal: int
    sign_p: float


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean and Student's interval; at least one value."""
    from scipy.stats import t  # half a second; only where it is asked for

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def compare_over_seeds(before: Mapping[object, float], after: Mapping[object, float]) -> SeedTest | None:
    """Compare the seeds that both have, after - before; None where they share none.

    Wilcoxon's signed-rank test, and the exact test of the mean under all changes of signs. With n seeds neither can go
    below 2 / 2^n.
    """
    from scipy.stats import permutation_test, wilcoxon

    seeds = [seed for seed in before if seed in after]
    if not seeds:
        return None
    differences = np.array([after[seed] - before[seed] for seed in seeds])
    tests: dict[str, float | None] = {"wilcoxon_p": None, "permutation_p": None}
    if len(seeds) > 1:
        is_zero = not differences.any()
        tests["wilcoxon_p"] = 1.0 if is_zero else float(wilcoxon(differences, zero_method="zsplit").pvalue)
        flipped = permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=NUM_RESAMPLES, rng=0
        )
        tests["permutation_p"] = float(flipped.pvalue)
    return SeedTest(
        difference=over_seeds(differences.tolist()),
        num_positive=int((differences > 0).sum()),
        num_negative=int((differences < 0).sum()),
        smallest_p=min(1.0, 2.0 / 2 ** len(seeds)),
        **tests,
    )


def compare_over_problems(before_P: Float64, after_P: Float64) -> ProblemTest:
    """Compare the same problems in the same order, after - before: the mean's interval, and the sign test."""
    from scipy.stats import binomtest

    differences_P = after_P - before_P
    better, worse = int((differences_P > 0).sum()), int((differences_P < 0).sum())
    sign_p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    count = len(differences_P)
    mean = Interval(float(differences_P.mean()), *difference_bounds(differences_P, _SEED), count)
    return ProblemTest(mean, better, worse, count - better - worse, sign_p)


def over_problems(rates_P: Float64) -> Interval:
    """Return the mean of rates and its interval (`evaluation/intervals.py`)."""
    return Interval(float(rates_P.mean()), *mean_bounds(rates_P, _SEED), len(rates_P))
