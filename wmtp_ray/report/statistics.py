"""Statistics over several runs: paired differences and their tests.

Seeds are few, so every p-value stands beside the smallest one that so many seeds can give at all. Intervals are those
of `wmtp_ray/intervals.py`. Knows neither runs nor files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wmtp_ray.intervals import Float64, Interval, difference_over_problems, over_seeds

_NUM_PERMUTATIONS = 5000  # all changes of signs of up to 12 seeds are fewer: the test is exact


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
            (differences,), np.mean, permutation_type="samples", n_resamples=_NUM_PERMUTATIONS, rng=0
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
    equal = len(differences_P) - better - worse
    return ProblemTest(difference_over_problems(differences_P), better, worse, equal, sign_p)
