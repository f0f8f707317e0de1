"""95 % intervals over problems: of a mean of rates, and of the mean difference of pairs. Knows neither runs nor files.

A percentile bootstrap over PROBLEMS, since samples of one problem resemble each other; and beside it an interval that
knows what the bootstrap has not seen. At each end the wider of both counts. The bootstrap alone calls 0 of 3 problems
certain, [0, 0].

    mean        Wilson 1927: the number of problems is the binomial's, however many samples each has, and the mean rate
                its proportion. 0 of 3 -> [0, 0.56], 3 of 3 -> [0.44, 1]
    difference  of problems that are solved or not (or that all differ by the same): Tango 1998 for paired proportions.
                No change in 3 problems -> [-0.56, 0.56]; of rates: Student's for pairs

Shape suffixes: P problems, S resamples.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
RULE = "95 % over problems, at each end the wider of a bootstrap and Wilson's (differences: Tango's or Student's)"
_RESAMPLES_AT_ONCE = 250  # bounds the memory of a bootstrap over thousands of problems
_BISECTIONS = 60
_Z = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)

Float64 = npt.NDArray[np.float64]
Bounds = tuple[float, float]


def mean_bounds(rates_P: Float64, seed: int) -> Bounds:
    """Return the interval of a mean of rates in [0, 1], of one problem or more."""
    return _wider(_bootstrap(rates_P, seed), _wilson(float(rates_P.mean()), len(rates_P)))


def difference_bounds(differences_P: Float64, seed: int) -> Bounds:
    """Return the interval of a mean of paired differences in [-1, 1], of one problem or more."""
    is_whole = np.isin(differences_P, (-1.0, 0.0, 1.0)).all() or np.ptp(differences_P) == 0.0
    return _wider(_bootstrap(differences_P, seed), (_tango if is_whole else _student)(differences_P))


def _wider(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), max(one[1], other[1])


def _bootstrap(values_P: Float64, seed: int) -> Bounds:
    """The quantiles of the means of resampled problems."""
    num_problems = len(values_P)
    random = np.random.default_rng(seed)
    means_S = np.concatenate(
        [
            values_P[random.integers(num_problems, size=(_RESAMPLES_AT_ONCE, num_problems))].mean(axis=1)
            for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE)
        ]
    )
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means_S, (tail, 1.0 - tail))
    return float(low), float(high)


def _wilson(rate: float, trials: int) -> Bounds:
    """The proportions p with |rate - p| <= z sqrt(p (1 - p) / trials)."""
    share = _Z**2 / trials
    centre = (rate + share / 2.0) / (1.0 + share)
    half = math.sqrt(share * rate * (1.0 - rate) + share**2 / 4.0) / (1.0 + share)
    return max(0.0, centre - half), min(1.0, centre + half)


def _student(values_P: Float64) -> Bounds:
    from scipy.stats import t  # half a second; only where it is asked for

    count = len(values_P)
    half = float(t.ppf((1.0 + CONFIDENCE) / 2.0, count - 1) * values_P.std(ddof=1) / math.sqrt(count))
    return float(values_P.mean()) - half, float(values_P.mean()) + half


def _tango(differences_P: Float64) -> Bounds:
    """The differences d that the score test of paired proportions does not reject; gains and losses are discordant."""
    gains, losses = float(differences_P.clip(min=0.0).sum()), float((-differences_P).clip(min=0.0).sum())
    pairs, mean = len(differences_P), float(differences_P.mean())

    def is_kept(difference: float) -> bool:
        return _squared_score(gains, losses, pairs, difference) <= _Z**2

    return -_edge(lambda d: is_kept(-d), -mean), _edge(is_kept, mean)


def _squared_score(gains: float, losses: float, pairs: int, difference: float) -> float:
    """Tango's statistic, squared; its likeliest rate of losses under `difference` is the root of a quadratic."""
    b = (2 * pairs - gains + losses) * difference - gains - losses
    c = -losses * difference * (1.0 - difference)
    loss_rate = (math.sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
    variance = pairs * (2 * loss_rate + difference * (1.0 - difference))
    miss = (gains - losses - pairs * difference) ** 2
    return miss / variance if variance > 0.0 else (0.0 if miss == 0.0 else math.inf)


def _edge(is_kept: Callable[[float], bool], inside: float) -> float:
    """The last kept number between `inside`, which is kept, and 1."""
    low, high = inside, 1.0
    if is_kept(high):
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if is_kept(middle) else (low, middle)
    return low
