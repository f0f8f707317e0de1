"""Does V say how likely a prefix is to become a correct program? V beside the share of judged continuations that pass.

The share is a Monte-Carlo estimate of the true value of a state under the policy: R rollouts that pass with chance p
give p -+ sqrt(p (1 - p) / R), so even the true value agrees with it in part only. Pure numpy: it decodes nothing and
judges nothing. Definitions: objective.md, "True values".

Example: V .9 .6 .2 beside 3, 3 and 0 of 4 rollouts. Rank correlation .87 (the tie costs), and of the pair (first,
third), which differ in their last token alone, V prefers the better one: accuracy 1.

Shape suffixes: N prefixes, P problems.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from wmtp_ray.intervals import Interval, over_problems, statistic_over_problems
from wmtp_ray.objective.health_measures import wins

NUM_BINS = 10
_CERTAIN = 1.96  # standard errors

Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AuditedPrefix:
    """A prompt with the first `num_tokens` tokens of a response, V of that state, and how its continuations ended.

    `at_edit`: next to the first token in which the two programs of a minimal pair differ. Two prefixes of one problem
    with the same number `pair` differ in their last token alone; None where there is no such other prefix.
    """

    problem: str
    at_edit: bool
    pair: int | None
    row_id: int
    num_tokens: int
    value: float
    num_passed: int
    num_rollouts: int

    @property
    def monte_carlo(self) -> float:
        """Return the share of continuations that pass."""
        return self.num_passed / self.num_rollouts


@dataclass(frozen=True)
class NextTokenAccuracy:
    """How often V prefers the better of two next tokens; chance is 0.5, a tie of V counts one half.

    `accuracy` is the mean over problems. Pairs whose Monte-Carlo values are equal tell nothing: they are left out, and
    `num_equal` counts them. `clear_accuracy` is of the pairs alone whose values differ by more than 1.96 standard
    errors of such a difference. None without a pair.
    """

    accuracy: Interval | None
    num_pairs: int
    num_equal: int
    num_ties: int
    clear_accuracy: Interval | None
    num_clear: int


@dataclass(frozen=True)
class CalibrationBin:
    """The prefixes with V from `low` to `high`: how many, their mean V, their mean Monte-Carlo value."""

    low: float
    high: float
    num_prefixes: int
    value: float
    monte_carlo: float


@dataclass(frozen=True)
class ValueAgreement:
    """The measures of some prefixes. A critic that knows the chances has `calibration_error` 0 but for noise.

    `rank_correlation` is Spearman's; None where all V or all Monte-Carlo values are equal.
    """

    num_prefixes: int
    num_problems: int
    mean_value: float
    mean_monte_carlo: float
    rank_correlation: Interval | None
    next_token: NextTokenAccuracy
    calibration_error: float
    bins: tuple[CalibrationBin, ...]


def value_agreement(prefixes: Sequence[AuditedPrefix]) -> ValueAgreement | None:
    """Measure prefixes with a rollout or more each; None without any."""
    if not prefixes:
        return None
    values_N = np.array([each.value for each in prefixes], np.float64)
    monte_carlo_N = np.array([each.monte_carlo for each in prefixes], np.float64)
    bins = calibration_bins(values_N, monte_carlo_N)
    return ValueAgreement(
        num_prefixes=len(prefixes),
        num_problems=len({each.problem for each in prefixes}),
        mean_value=float(values_N.mean()),
        mean_monte_carlo=float(monte_carlo_N.mean()),
        rank_correlation=_correlation_over_problems(values_N, monte_carlo_N, [each.problem for each in prefixes]),
        next_token=next_token_accuracy(prefixes),
        calibration_error=sum(each.num_prefixes * abs(each.value - each.monte_carlo) for each in bins) / len(prefixes),
        bins=bins,
    )


def rank_correlation(x_N: Floats, y_N: Floats) -> float | None:
    """Return Spearman's correlation, ties by mid-ranks; None where one side is constant."""
    from scipy.stats import rankdata  # half a second; only where it is asked for

    if len(x_N) < 2 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    return float(np.corrcoef(rankdata(x_N), rankdata(y_N))[0, 1])


def next_token_accuracy(prefixes: Sequence[AuditedPrefix]) -> NextTokenAccuracy:
    """Compare V and the Monte-Carlo value within pairs that differ in their last token."""
    members: dict[tuple[str, int], list[AuditedPrefix]] = defaultdict(list)
    for each in prefixes:
        if each.pair is not None:
            members[each.problem, each.pair].append(each)
    pairs = [pair for group in members.values() for pair in combinations(group, 2)]
    ordered = [(a, b) if a.monte_carlo > b.monte_carlo else (b, a) for a, b in pairs if a.monte_carlo != b.monte_carlo]
    clear = [pair for pair in ordered if _differs_clearly(*pair)]
    return NextTokenAccuracy(
        accuracy=_accuracy(ordered),
        num_pairs=len(ordered),
        num_equal=len(pairs) - len(ordered),
        num_ties=sum(better.value == worse.value for better, worse in ordered),
        clear_accuracy=_accuracy(clear),
        num_clear=len(clear),
    )


def calibration_bins(values_N: Floats, monte_carlo_N: Floats) -> tuple[CalibrationBin, ...]:
    """Put prefixes into ten bins of V of equal width, without the empty ones; V outside [0, 1] is in the nearest."""
    places_N = np.clip(np.floor(values_N * NUM_BINS), 0, NUM_BINS - 1).astype(np.int64)
    return tuple(
        CalibrationBin(
            low=place / NUM_BINS,
            high=(place + 1) / NUM_BINS,
            num_prefixes=int((places_N == place).sum()),
            value=float(values_N[places_N == place].mean()),
            monte_carlo=float(monte_carlo_N[places_N == place].mean()),
        )
        for place in np.unique(places_N).tolist()
    )


def _correlation_over_problems(values_N: Floats, monte_carlo_N: Floats, problems: Sequence[str]) -> Interval | None:
    """A resample holds all prefixes of each problem that it draws."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, problem in enumerate(problems):
        rows[problem].append(number)
    of_problem = [np.array(numbers, np.int64) for numbers in rows.values()]

    def of_problems(drawn: Int64) -> float | None:
        chosen_N = np.concatenate([of_problem[problem] for problem in drawn])
        return rank_correlation(values_N[chosen_N], monte_carlo_N[chosen_N])

    return statistic_over_problems(of_problems, len(of_problem))


def _accuracy(ordered: Sequence[tuple[AuditedPrefix, AuditedPrefix]]) -> Interval | None:
    """The mean over problems of how often the better one, which stands first, has the larger V."""
    hits: dict[str, list[float]] = defaultdict(list)
    for better, worse in ordered:
        hits[better.problem].append(wins(better.value, worse.value))
    return over_problems(np.array([np.mean(each) for each in hits.values()], np.float64)) if hits else None


def _differs_clearly(one: AuditedPrefix, other: AuditedPrefix) -> bool:
    """Whether two shares differ by more than chance, by the pooled test of two proportions."""
    pooled = (one.num_passed + other.num_passed) / (one.num_rollouts + other.num_rollouts)
    variance = pooled * (1.0 - pooled) * (1.0 / one.num_rollouts + 1.0 / other.num_rollouts)
    return abs(one.monte_carlo - other.monte_carlo) > _CERTAIN * float(np.sqrt(variance))
