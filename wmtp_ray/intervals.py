"""Every 95 % interval that this system shows: over problems, over seeds, and of one normal estimate.

One rule for one estimate, so that tables, the report, `--compare` and the quickstart show the same bounds. Knows
neither runs nor files.

Over PROBLEMS: a percentile bootstrap over problems, since samples of one problem resemble each other; and beside it an
interval that allows for outcomes that are not in the sample. At each end the wider of the two bounds is used. The
bootstrap alone calls 0 of 3 problems certain, [0, 0].

    mean        Wilson 1927: the number of problems is the binomial's, however many samples each has, and the mean rate
                its proportion. 0 of 3 -> [0, 0.56], 3 of 3 -> [0.44, 1]
    difference  of problems that are solved or not (or that all differ by the same): Tango 1998 for paired proportions.
                No change in 3 problems -> [-0.56, 0.56]; of rates: Student's for pairs

A statistic that is no mean over problems (a rank correlation) has the percentile bootstrap over problems alone.

Over SEEDS: Student's, mean -+ t(0.975, n - 1) s / sqrt(n). One seed has no interval.

The resamples are drawn from one fixed seed: equal values in equal order give equal bounds in every process.

Shape suffix: P problems.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
NUM_RESAMPLES_OF_STATISTICS = 2_000  # each is computed in Python
RULE = "95 % over problems, at each end the wider of a bootstrap and Wilson's (differences: Tango's or Student's)"
_SEED = 0
_RESAMPLES_AT_ONCE = 250  # bounds the memory of a bootstrap over thousands of problems
_BISECTIONS = 60
_Z = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """A mean, or another statistic, over `count` values with its 95 % interval; no bounds where one value has none."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a number; unknown bounds count as shared."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def mean_bounds(rates_P: Float64) -> Bounds:
    """Return the interval of a mean of rates in [0, 1], of one problem or more."""
    return _wider(_bootstrap(rates_P), _wilson(float(rates_P.mean()), len(rates_P)))


def difference_bounds(differences_P: Float64) -> Bounds:
    """Return the interval of a mean of paired differences in [-1, 1], of one problem or more."""
    is_whole = np.isin(differences_P, (-1.0, 0.0, 1.0)).all() or np.ptp(differences_P) == 0.0
    return _wider(_bootstrap(differences_P), _tango(differences_P) if is_whole else _student(differences_P))


def over_problems(rates_P: Float64) -> Interval:
    """Return the mean of rates in [0, 1] with its interval over problems."""
    return Interval(float(rates_P.mean()), *mean_bounds(rates_P), len(rates_P))


def difference_over_problems(differences_P: Float64) -> Interval:
    """Return the mean of paired differences in [-1, 1] with its interval over problems."""
    return Interval(float(differences_P.mean()), *difference_bounds(differences_P), len(differences_P))


def statistic_over_problems(statistic: Callable[[Int64], float | None], num_problems: int) -> Interval | None:
    """Return a statistic of problems, given by their numbers, with its interval; None where it is undefined.

    Resamples in which it is undefined do not count. No bounds for one problem, whose resamples are all the same.
    """
    value = statistic(np.arange(num_problems))
    if value is None:
        return None
    if num_problems == 1:
        return Interval(value, None, None, num_problems)
    drawn = np.random.default_rng(_SEED).integers(num_problems, size=(NUM_RESAMPLES_OF_STATISTICS, num_problems))
    found = [each for problems in drawn if (each := statistic(problems)) is not None]
    if not found:
        return Interval(value, None, None, num_problems)
    low, high = np.quantile(found, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return Interval(value, float(low), float(high), num_problems)


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean and Student's interval; at least one value."""
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, None, None, count)
    low, high = _student(np.array(values, np.float64))
    return Interval(mean, low, high, count)


def normal_half_width(standard_error: float) -> float:
    """Return how far the 95 % interval of an estimate with a normal error reaches to either side."""
    return _Z * standard_error


def _wider(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), max(one[1], other[1])


def _bootstrap(values_P: Float64) -> Bounds:
    """The quantiles of the means of resampled problems; resamples of one value are that value."""
    from scipy.stats import bootstrap  # half a second; only where it is asked for

    if len(values_P) == 1:
        return float(values_P[0]), float(values_P[0])
    found = bootstrap(
        (values_P,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=_RESAMPLES_AT_ONCE,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _wilson(rate: float, trials: int) -> Bounds:
    """The proportions p with |rate - p| <= z sqrt(p (1 - p) / trials)."""
    share = _Z**2 / trials
    centre = (rate + share / 2.0) / (1.0 + share)
    half = math.sqrt(share * rate * (1.0 - rate) + share**2 / 4.0) / (1.0 + share)
    return max(0.0, centre - half), min(1.0, centre + half)


def _student(values_P: Float64) -> Bounds:
    """Student's t interval of a mean, of two values or more."""
    from scipy.stats import t

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
