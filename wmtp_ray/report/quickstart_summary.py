"""What the quickstart found: one record of its arms, quickstart.json, and the sentences that it may claim.

Arms are compared after equal training from one start, problem by problem; the sentences say who solves more and by how
much, or that no difference is shown, and where the ceiling lies. Trains and evaluates nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wmtp_ray.config import arms
from wmtp_ray.evaluation.compare import compare, trained_policy
from wmtp_ray.evaluation.pass_at_k import Estimate
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.saved_records import write_record
from wmtp_ray.tracking.training_difference import training_difference

FILE_NAME = "quickstart.json"
METHOD, BASELINE = str(arms.METHOD.recipe), str(arms.BASELINE.recipe)
CONTROL = arms.arms_of("placement")[0].name
EXPLANATION = "docs/results/evidence.md"
# What the likeliest programs solve after 100 steps with a critic that knows every bug, as published there:
# bench/evidence.py ceiling --regime 16 --steps 100 --seeds 0 --arms oracle
PUBLISHED_CEILING = 0.647


@dataclass(frozen=True)
class CriticFindings:
    """A critic on held-out problems: its metrics, what of the gate it fails, its standing beside the baselines."""

    metrics: dict[str, float]
    failures: tuple[str, ...]
    beside_baselines: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """A share of the problems, or a difference of two, with its 95 % interval over problems."""

    estimate: float
    low: float
    high: float
    num_problems: int


@dataclass(frozen=True)
class QuickstartArm:
    """One run of the quickstart. `steps` and `supervised_tokens` are its own, without those of its start.

    `started_from` is the hash of the weights that it started from, `greedy` the share of held-out problems that its
    likeliest programs solve, `t1` that of programs drawn at temperature 1 (both None of the base), `critic_health` None
    where no critic weighs, `seconds` its wall time.
    """

    run: str
    started_from: str | None
    steps: int
    supervised_tokens: int | None
    greedy: Share | None
    t1: Share | None
    critic_health: CriticFindings | None
    seconds: float


@dataclass(frozen=True)
class QuickstartSummary:
    """quickstart.json. `base` is the run that all arms start from; differences are in pairs, "A minus B".

    `differences` are of the likeliest programs, `differences_t1` of programs drawn at temperature 1.
    """

    base: QuickstartArm
    arms: dict[str, QuickstartArm]
    differences: dict[str, Share]
    differences_t1: dict[str, Share]
    verdict: tuple[str, ...]
    seconds: float


def write_summary(path: Path, summary: QuickstartSummary) -> None:
    """Write quickstart.json."""
    write_record(path, summary)


def share_of(found: Estimate) -> Share:
    """Return an estimate under the names of quickstart.json."""
    return Share(found.value, found.low, found.high, found.num_problems)


def differences_between(results: Mapping[str, EvaluationResults]) -> dict[str, Estimate]:
    """Return Pass@1 of the method minus that of every other arm, in pairs over problems."""
    return {
        f"{METHOD} minus {name}": compare(other, results[METHOD]).differences["1"]
        for name, other in results.items()
        if name != METHOD
    }


def verdict_sentences(greedy: Mapping[str, EvaluationResults], drawn: Mapping[str, EvaluationResults]) -> list[str]:
    """Describe the last table: how equal the training was, which arm solves more, and why not to expect more."""
    differences = differences_between(greedy)
    against_baseline, against_control = (differences[f"{METHOD} minus {other}"] for other in (BASELINE, CONTROL))
    at_temperature_1 = differences_between(drawn)[f"{METHOD} minus {BASELINE}"]
    return [
        _equality(greedy),
        _who(METHOD, BASELINE, greedy, against_baseline),
        _who(METHOD, CONTROL, greedy, against_control),
        _placement(against_control),
        f"Drawn at temperature 1: {_who(METHOD, BASELINE, drawn, at_temperature_1)}",
        f"The ceiling: with a critic that knows every bug, 100 steps from such a base solved "
        f"{100 * PUBLISHED_CEILING:.1f} % ({EXPLANATION}).",
        *_why(against_baseline),
    ]


def _equality(results: Mapping[str, EvaluationResults]) -> str:
    """The same steps from the same start, or what is not the same."""
    policies = {name: trained_policy(each, name) for name, each in results.items()}
    cautions = [
        caution
        for name, policy in policies.items()
        if name != METHOD and (caution := training_difference(policy, policies[METHOD]).caution) is not None
    ]
    if cautions:
        return " ".join(cautions)
    trainings = [policy.training for policy in policies.values() if policy.training is not None]
    tokens = sorted(each.supervised_tokens or 0 for each in trainings)
    return (
        f"Equal training: every arm took {trainings[0].steps} steps from the same start, on {tokens[0]:,} to "
        f"{tokens[-1]:,} supervised tokens."
    )


def _who(name: str, other: str, results: Mapping[str, EvaluationResults], difference: Estimate) -> str:
    """The winner first: `difference` is `name` minus `other`."""
    if difference.high < 0:
        turned = replace(difference, value=-difference.value, low=-difference.high, high=-difference.low)
        return _who(other, name, results, turned)
    mine, theirs = results[name].pass_at_k["1"].value, results[other].pass_at_k["1"].value
    interval = f"95 % interval [{_points(difference.low)}, {_points(difference.high)}]"
    shares = f"{100 * mine:.1f} % against {100 * theirs:.1f} %"
    numbers = f"{shares}, difference {_points(difference.value)} points, {interval}"
    problems = f"{difference.num_problems} held-out problems"
    if difference.low > 0:
        return f"{name} solves more of the {problems} than {other}: {numbers}."
    return f"No difference is shown between {name} and {other} on {problems}: {numbers}, which holds 0."


def _placement(difference: Estimate) -> str:
    if difference.low > 0:
        return f"{CONTROL} has the same weights at other tokens of a program, so it matters where they lie."
    if difference.high < 0:
        return f"{CONTROL} has the same weights at other tokens of a program, so the placement did harm."
    return (
        f"{CONTROL} has the same weights at other tokens of a program, so nothing shows that it matters where they lie."
    )


def _why(difference: Estimate) -> list[str]:
    """What stands between the method and more, and where to read on."""
    blind = "Weights win as far as the critic sees which token is wrong: its table says how far that is."
    scope = "One seed and minutes of training show that the parts work, not what the method can do"
    return [
        *([] if difference.low > 0 else [blind]),
        f"{scope}: {EXPLANATION} has more seeds, every arm, and what to do with real data.",
    ]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
