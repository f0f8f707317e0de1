"""The health of a critic: its measures on held-out problems, beside the baselines that they must be compared with.

Pure numpy over a list of judged responses; it neither runs a critic nor knows thresholds (the gate gets them). A
number that the data cannot give (one class only, no pair) is absent from the metrics, never 0. Definitions:
objective.md, "Critic health". The parts are `health_measures`, `health_baselines` and `minimal_pairs`.

Explained variance misleads alone: no state before two programs diverge can tell them apart, so its ceiling is far
below 1. Judge collapse by AUC, pair accuracy and the spread of V within a response.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from wmtp_ray.objective import health_baselines as baselines
from wmtp_ray.objective import health_measures as measures
from wmtp_ray.objective.health_baselines import BaselineHealth
from wmtp_ray.objective.health_measures import Bools, Floats
from wmtp_ray.objective.minimal_pairs import MinimalPairHealth, Trace, is_minimal, minimal_pair_health

RESPONSE_PERCENTS = (25, 50, 75, 100)
FEWEST_MINIMAL_PAIRS = 30  # that a criterion is judged by


@dataclass(frozen=True)
class JudgedResponse:
    """One held-out response with the critic's values and the truth.

    `tokens` are the n supervised tokens, end of sequence included. `values` has n + 1 entries: V(prompt), then V after
    each token. The last one, after the end of sequence, enters no TD error and is trained by nothing; only
    `auc_after_end` reads it. Optional: `log_likelihoods`, the policy's, per token; `anchor_values`, what the critic
    said before training, and `disagreements`, of an ensemble's members, both as long as `values`.
    """

    problem: str | int
    is_correct: bool
    values: npt.NDArray[np.floating]
    tokens: npt.NDArray[np.integer]
    log_likelihoods: npt.NDArray[np.floating] | None = None
    anchor_values: npt.NDArray[np.floating] | None = None
    disagreements: npt.NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        assert len(self.tokens) > 0, "a response has at least its end-of-sequence token"
        for values in (self.values, self.anchor_values, self.disagreements):
            assert values is None or len(values) == len(self.tokens) + 1, "values: V(prompt), then one per token"

    @property
    def states(self) -> Floats:
        """The values a TD error reads: V(prompt) .. V before the last token."""
        return self.values[:-1].astype(np.float64)


@dataclass(frozen=True)
class CriticHealth:
    """All of a critic's numbers; None where the data could not give one. Metrics are named after the fields.

    `explained_variance_ceiling` = what a predictor reaches that knows every problem and every prefix seen among the
    judged responses; `explained_variance_problem` = what the problems' base rates alone reach. `auc_<p>` and
    `brier_<p>`: V after p % of the response's tokens. `value_between_problem_share` = the part of the variance of the
    mean V that only tells problems apart. `disagreement` = mean over states of the standard deviation of the V of an
    ensemble's members; None for one critic.
    """

    num_responses: int
    num_problems: int
    explained_variance: float | None
    explained_variance_ceiling: float | None
    explained_variance_problem: float | None
    auc_at: dict[int, float | None]
    brier_at: dict[int, float | None]
    auc_after_end: float | None
    auc_mean: float | None
    auc_states: float | None
    pair_accuracy: float | None
    pair_accuracy_length_matched: float | None
    correlation_length: float | None
    correlation_position: float | None
    std_within_response: float | None
    outside_unit_frac: float
    value_between_problem_share: float | None
    value_clip_frac: float | None
    anchor_distance: float | None
    minimal_pairs: MinimalPairHealth
    baselines: tuple[BaselineHealth, ...]
    disagreement: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return every number that exists under `critic/...`, the baselines' under `critic/baseline_<name>_...`."""
        numbers: dict[str, float | None] = {}
        for name, values_at in (("auc", self.auc_at), ("brier", self.brier_at)):
            numbers |= {f"{name}_{percent}": value for percent, value in values_at.items()}
        numbers |= _numbers(self, "") | _numbers(self.minimal_pairs, "minimal_")
        for baseline in self.baselines:
            numbers |= _numbers(baseline, f"baseline_{baseline.name}_")
        return {f"critic/{name}": float(value) for name, value in numbers.items() if value is not None}


def critic_health(
    responses: Sequence[JudgedResponse],
    *,
    value_clip: float,
    length_tolerance_frac: float = 0.1,
    max_edit_frac: float = 0.25,
) -> CriticHealth:
    """Measure a critic on held-out problems.

    `value_clip` is the value loss's, in units of V. Two responses are length-matched if their lengths differ by at most
    `length_tolerance_frac` of the longer; a pair is minimal if its edit covers at most `max_edit_frac` of both.
    """
    assert responses, "no judged response"
    states = [response.states for response in responses]
    correct_R = np.array([response.is_correct for response in responses], dtype=np.bool_)
    problems_R = [response.problem for response in responses]
    lengths_R = np.array([len(response.tokens) for response in responses], dtype=np.float64)
    means_R = np.array([values.mean() for values in states])
    at = {percent: np.array([_at_percent(values, percent) for values in states]) for percent in RESPONSE_PERCENTS}
    values_S, reward_S = np.concatenate(states), np.repeat(correct_R, lengths_R.astype(np.int64))
    return CriticHealth(
        num_responses=len(responses),
        num_problems=len(set(problems_R)),
        explained_variance=measures.explained_variance(values_S, reward_S.astype(np.float64)),
        explained_variance_ceiling=_prefix_ceiling(responses),
        explained_variance_problem=_problem_ceiling(correct_R, problems_R, lengths_R),
        auc_at={percent: measures.auc(at[percent], correct_R) for percent in RESPONSE_PERCENTS},
        brier_at={percent: measures.brier(at[percent], correct_R) for percent in RESPONSE_PERCENTS},
        auc_after_end=measures.auc(np.array([float(response.values[-1]) for response in responses]), correct_R),
        auc_mean=measures.auc(means_R, correct_R),
        auc_states=measures.auc(values_S, reward_S),
        pair_accuracy=measures.pair_accuracy(means_R, correct_R, problems_R),
        pair_accuracy_length_matched=measures.pair_accuracy(
            means_R, correct_R, problems_R, lengths_R=lengths_R, length_tolerance_frac=length_tolerance_frac
        ),
        correlation_length=measures.correlation(means_R, lengths_R),
        correlation_position=measures.correlation(
            values_S, np.concatenate([np.arange(len(values), dtype=np.float64) for values in states])
        ),
        std_within_response=_mean_or_none([values.std() for values in states if len(values) > 1]),
        outside_unit_frac=float(np.mean((values_S < 0) | (values_S > 1))),
        value_between_problem_share=measures.between_problem_share(means_R, problems_R),
        **_drift(responses, value_clip),
        minimal_pairs=_minimal_pairs(responses, correct_R, problems_R, max_edit_frac),
        baselines=_baselines(responses, correct_R, problems_R, lengths_R),
        disagreement=_disagreement(responses),
    )


@dataclass(frozen=True)
class GateThresholds:
    """What a critic must reach; chance is 0.5 but for the spread. `max_auc_early` is 0.56 in objective.md."""

    min_auc_end: float
    min_pair_accuracy: float
    min_std_within_response: float
    max_auc_early: float
    min_first_difference: float


def gate_failures(health: CriticHealth, thresholds: GateThresholds) -> list[str]:
    """Name every criterion that fails, with its numbers; an empty list is a pass.

    Collapse: AUC at the end, within-problem pair accuracy, spread of V within a response; a number that could not be
    measured fails too. Shortcut: the critic's mean V orders responses no better than length, position or the problem
    does. Leakage: it knows the outcome after a quarter of the response. Blindness, where there are at least
    `FEWEST_MINIMAL_PAIRS` of programs one edit apart: it does not see the edit, so no weight can tell it.
    """
    end, early = health.auc_at[100], health.auc_at[25]
    failures = [
        _below("AUC at the end of the response", end, thresholds.min_auc_end),
        _below("within-problem pair accuracy", health.pair_accuracy, thresholds.min_pair_accuracy),
        _below("std of V within a response", health.std_within_response, thresholds.min_std_within_response),
    ]
    minimal = health.minimal_pairs
    if minimal.num_pairs >= FEWEST_MINIMAL_PAIRS:
        name = f"share of {minimal.num_pairs} minimal pairs where V drops more at the wrong program's first difference"
        failures.append(_below(name, minimal.first_difference_drops, thresholds.min_first_difference))
    for baseline in health.baselines:
        if baseline.name in ("length", "position", "problem_base_rate"):
            failures.append(_not_above(baseline.name, health.pair_accuracy, baseline.pair_accuracy))
    if early is not None and early > thresholds.max_auc_early:
        failures.append(f"AUC at 25 % of the response is {early:.3f}, above {thresholds.max_auc_early:.3f}: leakage")
    return [failure for failure in failures if failure is not None]


def _below(name: str, found: float | None, least: float) -> str | None:
    if found is None:
        return f"{name} could not be measured: the held-out problems need correct and incorrect responses"
    return None if found >= least else f"{name} is {found:.3f}, below {least:.3f}"


def _not_above(name: str, found: float | None, baseline: float | None) -> str | None:
    if found is None or baseline is None or found > baseline:
        return None
    return f"within-problem pair accuracy is {found:.3f}, not above the {name} baseline's {baseline:.3f}"


def _at_percent(states: Floats, percent: int) -> float:
    """Return V after `percent` of the tokens, rounded up; 100 is the state before the last token, the last trained.

    9 states (V(prompt) and 8 tokens): 25 % is the state after 2 tokens, 100 % after 8.
    """
    return float(states[math.ceil((len(states) - 1) * percent / 100)])


def _prefix_ceiling(responses: Sequence[JudgedResponse]) -> float | None:
    """Return the explained variance of the mean reward of all judged responses that share the state's prefix."""
    prefixes = [_prefix_keys(response) for response in responses]
    tallies: dict[tuple[object, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for response, keys in zip(responses, prefixes, strict=True):
        for key in keys:
            tallies[key][0] += response.is_correct
            tallies[key][1] += 1
    known_S = np.array([tallies[key][0] / tallies[key][1] for keys in prefixes for key in keys])
    lengths = [len(keys) for keys in prefixes]
    return measures.explained_variance(known_S, np.repeat([float(r.is_correct) for r in responses], lengths))


def _prefix_keys(response: JudgedResponse) -> list[tuple[object, ...]]:
    """Name each state by problem, number of tokens and a hash chained over them: linear in the response's length."""
    keys: list[tuple[object, ...]] = []
    chain = hash(response.problem)
    for position, token in enumerate(response.tokens.tolist()):
        keys.append((response.problem, position, chain))
        chain = hash((chain, token))
    return keys


def _problem_ceiling(correct_R: Bools, problems_R: list[str | int], lengths_R: Floats) -> float | None:
    lengths = lengths_R.astype(np.int64)
    rates_R = measures.problem_means(correct_R.astype(np.float64), problems_R)
    return measures.explained_variance(np.repeat(rates_R, lengths), np.repeat(correct_R.astype(np.float64), lengths))


def _drift(responses: Sequence[JudgedResponse], value_clip: float) -> dict[str, float | None]:
    known = [
        np.abs(response.states - response.anchor_values[:-1])
        for response in responses
        if response.anchor_values is not None
    ]
    distance_S = np.concatenate(known) if known else np.zeros(0)
    clipped = _mean_or_none([float(distance > value_clip) for distance in distance_S])
    return {"value_clip_frac": clipped, "anchor_distance": _mean_or_none(distance_S.tolist())}


def _disagreement(responses: Sequence[JudgedResponse]) -> float | None:
    """Return the mean over the states that a TD error reads."""
    known = [response.disagreements[:-1] for response in responses if response.disagreements is not None]
    return float(np.concatenate(known).astype(np.float64).mean()) if known else None


def _minimal_pairs(
    responses: Sequence[JudgedResponse], correct_R: Bools, problems_R: list[str | int], max_edit_frac: float
) -> MinimalPairHealth:
    traces = [Trace(response.tokens.astype(np.int64), response.states) for response in responses]
    candidates = [
        (traces[right], traces[wrong])
        for _, pairs in measures.problem_pairs(correct_R, problems_R)
        for right, wrong in pairs
    ]
    return minimal_pair_health([pair for pair in candidates if is_minimal(*pair, max_edit_frac=max_edit_frac)])


def _baselines(
    responses: Sequence[JudgedResponse], correct_R: Bools, problems_R: list[str | int], lengths_R: Floats
) -> tuple[BaselineHealth, ...]:
    tokens = [response.tokens.astype(np.int64) for response in responses]
    found = [
        baselines.length_baseline(lengths_R, correct_R, problems_R),
        baselines.position_baseline(lengths_R, correct_R, problems_R),
        baselines.problem_base_rate_baseline(correct_R, problems_R),
        baselines.token_identity_baseline(tokens, correct_R, problems_R),
        baselines.bag_of_tokens_baseline(tokens, correct_R, problems_R),
    ]
    likelihoods = [float(np.mean(r.log_likelihoods)) for r in responses if r.log_likelihoods is not None]
    if len(likelihoods) == len(responses):
        found.append(baselines.log_likelihood_baseline(np.array(likelihoods), correct_R, problems_R))
    return tuple(found)


def _mean_or_none(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _numbers(record: CriticHealth | MinimalPairHealth | BaselineHealth, prefix: str) -> dict[str, float | None]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {prefix + name: value for name, value in values.items() if value is None or isinstance(value, (int, float))}
