"""What differs in training, the decision in words and numbers, and one row for each arm.

The sections below show everything in full.
"""

from collections.abc import Sequence

import numpy as np

from wmtp_ray.config.arms import METHOD, arms_of
from wmtp_ray.intervals import Interval, over_seeds
from wmtp_ray.report.arms import Arm, caution
from wmtp_ray.report.blocks import Block, Bullets, Missing, Section, Table, Words, figures, names_of, share, signed
from wmtp_ray.report.comparison import (
    DatasetComparison,
    Difference,
    difference_of,
    held_out_losses,
    held_out_margins,
)
from wmtp_ray.report.saved_run import WEIGHTING
from wmtp_ray.report.sections.training_section import training_table
from wmtp_ray.report.statistics import SeedTest, compare_over_seeds

FLAT_STD = 0.05


def summary_section(arms: Sequence[Arm], comparisons: Sequence[DatasetComparison], reference: Arm) -> Section:
    """Return the section: what differs in training, then the decision."""
    blocks: list[Block] = []
    if len(arms) == 1:
        blocks.append(Words(_alone(arms[0], comparisons), "lead"))
        blocks += [Bullets(tuple(found))] if (found := [*_fallen_back(arms), *_ceilings(arms)]) else []
    else:
        blocks.append(training_table(arms))
        sentences = _decisions(arms, comparisons, reference)
        if reference.role != "baseline":
            sentences.append(f"No arm has uniform weights, so {reference.name} is what others are compared with.")
        sentences += [*_fallen_back(arms), *_ceilings(arms)]
        blocks.append(Words(sentences[0], "lead"))
        blocks += [Bullets(tuple(sentences[1:]))] if sentences[1:] else []
    blocks.append(_table(arms, comparisons))
    if not any(held_out_margins(arm) for arm in arms):
        what = "Losses of held-out programs: no run has a token_evidence.json"
        remedy = "stage 2 writes it at its end, where held-out problems have correct and incorrect rows; train again"
        blocks.append(Missing(what, remedy, "wmtp launch recipe=..."))
    return Section("summary", "Summary", tuple(blocks))


def _fallen_back(arms: Sequence[Arm]) -> list[str]:
    return [
        f"{run.name} was asked for {WEIGHTING}={run.config.get(WEIGHTING)} and ran with {run.weighting} weights "
        f"(critic.gate): it counts as {arm.name}."
        for arm in arms
        for run in arm.runs
        if run.fell_back
    ]


def _ceilings(arms: Sequence[Arm]) -> list[str]:
    return [
        f"{arm.name} is a ceiling, not a method: its weights come from the rows of the other class of each problem, as "
        "if a critic knew them."
        for arm in arms
        if arm.role == "ceiling"
    ]


def _alone(arm: Arm, comparisons: Sequence[DatasetComparison]) -> str:
    found = [f"Pass@{each.k} on {each.dataset} is {_with_interval(each.scores[0].interval)}" for each in comparisons]
    margins = held_out_margins(arm)
    if not found and margins:
        margin = over_seeds(list(margins.values()))
        found = [f"correct held-out programs are likelier than incorrect ones by {signed(margin.value)} nats a token"]
    head = f"{arm.name}: {'; '.join(found)}." if found else f"{arm.name}: nothing of it has been evaluated."
    return f"{head} One arm cannot show that its weights help: give a run of recipe=baseline beside it."


def _decisions(arms: Sequence[Arm], comparisons: Sequence[DatasetComparison], reference: Arm) -> list[str]:
    """Sentences, the most telling first: by Pass@K where there is one, else by the loss of held-out programs."""
    compared = [each for each in comparisons if each.differences]
    if not compared:
        return _by_margin(arms, reference)
    sentences = []
    for comparison in compared:
        told = sorted(comparison.differences, key=lambda each: each.score.arm.role != "method")
        sentences += [_sentence(each, comparison) for each in told]
        sentences += _placement(comparison)
    return sentences


def _sentence(each: Difference, comparison: DatasetComparison) -> str:
    difference, name, base = each.problems.difference, each.score.arm.name, each.reference.arm.name
    what = (
        f"problems of {comparison.dataset}" if comparison.k == 1 else f"of {comparison.dataset} at Pass@{comparison.k}"
    )
    numbers = (
        f"{share(each.score.interval.value)} against {share(each.reference.interval.value)}, difference "
        f"{_points(difference)}, {each.problems.num_better} problems won and {each.problems.num_worse} lost"
    )
    seeds = "" if each.seeds is None else f"; {_seed_words(each.seeds)}"
    if each.verdict == "undecided":
        told = f"{name} and {base} cannot be told apart on the {len(comparison.task_ids)} {what}: {numbers}{seeds}."
        return f"{told}{_caution(each.score.arm, each.reference.arm, comparison.dataset)}"
    more = "more" if each.verdict == "better" else "fewer"
    few = " One seed: train others before believing it." if each.seeds is None or _one(each) else ""
    beside = _caution(each.score.arm, each.reference.arm, comparison.dataset)
    return f"{name} solves {more} {what} than {base}: {numbers}{seeds}.{beside}{few}"


def _caution(arm: Arm, base: Arm, dataset: str | None = None) -> str:
    """Return causes other than the method that may explain the verdict, after a blank; empty if there are none."""
    words = caution(arm, base, dataset)
    return "" if words is None else f" {words}"


def _one(each: Difference) -> bool:
    return each.seeds is not None and each.seeds.difference.count < 2


def _placement(comparison: DatasetComparison) -> list[str]:
    """Compare the method with its controls: does the placement of the weights help, or only their distribution?"""
    by_weighting = {each.arm.weighting: each for each in comparison.scores}
    method = by_weighting.get(METHOD.name)
    controls = [by_weighting[arm.name] for arm in arms_of("placement") if arm.name in by_weighting]
    if method is None:
        return []
    return [_placement_sentence(difference_of(method, control), comparison.dataset) for control in controls]


def _placement_sentence(each: Difference, dataset: str) -> str:
    told = {
        "better": "it matters where the weights lie",
        "worse": "the placement did harm",
        "undecided": "nothing shows that it matters where the weights lie, and not only how they are distributed",
    }
    seeds = "" if each.seeds is None else f", {_seed_words(each.seeds)}"
    difference = _points(each.problems.difference)
    arms = f"{each.score.arm.name} against its control {each.reference.arm.name}"
    return f"{arms}: {difference}{seeds}; {told[each.verdict]}.{_caution(each.score.arm, each.reference.arm, dataset)}"


def _by_margin(arms: Sequence[Arm], reference: Arm) -> list[str]:
    """Without Pass@K: how much likelier correct programs are than incorrect ones, seed by seed."""
    base = held_out_margins(reference)
    ordered = sorted(arms, key=lambda each: each.role != "method")
    tests = [(arm, compare_over_seeds(base, held_out_margins(arm))) for arm in ordered if arm is not reference]
    sentences = [_margin_sentence(arm, reference, tested) for arm, tested in tests if tested is not None]
    if not sentences:
        return ["Nothing comparable has been measured on these runs: evaluate them (wmtp evaluate) before deciding."]
    return [*sentences, "This is a likelihood, not a count of solved problems: evaluate the runs before deciding."]


def _margin_sentence(arm: Arm, reference: Arm, tested: SeedTest) -> str:
    gap = tested.difference
    direction = "better" if gap.value > 0 else "worse"
    told = f"tells correct from incorrect held-out programs {direction} than {reference.name}"
    if gap.count == 1:
        told = f"{told}, on the one seed that both have"
    elif not gap.excludes_zero:
        told = f"cannot be told apart from {reference.name} by the loss of held-out programs"
    bounds = ""
    if gap.low is not None and gap.high is not None:
        bounds = f", 95 % interval over {gap.count} seeds {signed(gap.low)} to {signed(gap.high)}"
    margin = f"the margin between their losses differs by {signed(gap.value)} nats a token{bounds}"
    return f"{arm.name} {told}: {margin}.{_caution(arm, reference)}"


def _table(arms: Sequence[Arm], comparisons: Sequence[DatasetComparison]) -> Table:
    header = ["arm", "seeds", "steps", *(f"Pass@{each.k} {each.dataset}" for each in comparisons)]
    header += ["held-out loss, correct", "margin to incorrect", "weights: std", "effective sample"]
    rows = []
    for arm in arms:
        scores = [next((s.interval for s in each.scores if s.arm is arm), None) for each in comparisons]
        losses, margins = list(held_out_losses(arm).values()), list(held_out_margins(arm).values())
        steps = dict.fromkeys(str(run.result.steps) if run.result is not None else "–" for run in arm.runs)
        rows.append(
            (
                arm.name,
                str(len(arm.runs)),
                "/".join(steps),
                *("–" if score is None else _with_interval(score) for score in scores),
                f"{np.mean(losses):.4f}" if losses else "–",
                signed(float(np.mean(margins)), 4) if margins else "–",
                _weight_std(arm),
                share(_last(arm, "weight/ess_frac")),
            )
        )
    caption = (
        "The arms. Losses in nats a token on held-out programs, without weights; a positive margin finds correct "
        f"programs likelier. Weights whose standard deviation is below {FLAT_STD} can hardly be told from uniform ones."
    )
    return Table(caption, tuple(header), tuple(rows))


def _weight_std(arm: Arm) -> str:
    return figures(_last(arm, "weight/std"))


def _last(arm: Arm, metric: str) -> float | None:
    """Mean over seeds and steps."""
    columns = [run.curves[2].metrics[metric] for run in arm.runs if 2 in run.curves and metric in run.curves[2].metrics]
    return float(np.mean([np.nanmean(column) for column in columns])) if columns else None


def _with_interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return share(interval.value)
    return f"{share(interval.value)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _points(difference: Interval) -> str:
    text = f"{signed(100 * difference.value, 1)} points"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{signed(100 * difference.low, 1)}, {signed(100 * difference.high, 1)}]"


def _seed_words(tested: SeedTest) -> str:
    count = tested.difference.count
    if count == 1:
        return "one seed"
    return f"{tested.num_positive} of {count} seeds up, {tested.num_negative} down"


def arms_in_words(arms: Sequence[Arm]) -> str:
    """Return the page's subtitle."""
    num_runs = sum(len(arm.runs) for arm in arms)
    return f"{num_runs} run{'s' * (num_runs > 1)}: {names_of([arm.name for arm in arms], 8)}"
