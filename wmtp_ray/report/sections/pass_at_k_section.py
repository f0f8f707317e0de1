"""Pass@K of every arm with intervals, and each against the reference: problem by problem and seed by seed."""

from collections.abc import Sequence

import numpy as np

from wmtp_ray.intervals import RULE, Interval
from wmtp_ray.report.arms import Arm, confounds
from wmtp_ray.report.blocks import (
    Block,
    Figure,
    Missing,
    Section,
    Table,
    Trace,
    arm_colour,
    categories,
    names_of,
    signed,
)
from wmtp_ray.report.comparison import ArmScore, DatasetComparison, Difference
from wmtp_ray.report.sections.answers_section import answer_blocks
from wmtp_ray.report.sections.evaluated_steps import step_evaluation_blocks

_MOST_CHANGED = 10


def pass_at_k_section(arms: Sequence[Arm], comparisons: Sequence[DatasetComparison], reference: Arm) -> Section:
    """Return the section; without any evaluation it says how to make one."""
    if not comparisons:
        command = f"wmtp evaluate --checkpoint {arms[0].runs[0].path.name} --dataset humaneval"
        missing = Missing("Pass@K: no run has an evaluation (eval/*/results.json)", "evaluate its policy", command)
        return Section("pass-at-k", "Pass@K", (missing, *step_evaluation_blocks(arms)))
    blocks: list[Block] = []
    for comparison in comparisons:
        blocks += _blocks(comparison, reference)
    for dataset in dict.fromkeys(each.dataset for each in comparisons):
        blocks += answer_blocks(arms, dataset)
    blocks += step_evaluation_blocks(arms)
    return Section("pass-at-k", "Pass@K", tuple(blocks))


def _blocks(comparison: DatasetComparison, reference: Arm) -> list[Block]:
    blocks: list[Block] = [_scores(comparison), _figure(comparison)]
    if comparison.differences:
        blocks += [_differences(comparison), _seed_tests(comparison), _changed(comparison)]
    elif reference.name in comparison.left_out:
        what = f"Differences on {comparison.dataset}: {reference.name} was not evaluated on it"
        command = f"wmtp evaluate --checkpoint {reference.runs[0].path.name} --dataset {comparison.dataset}"
        blocks.append(Missing(what, "evaluate it on the same problems", command))
    if comparison.left_out:
        what = f"Pass@{comparison.k} on {comparison.dataset} of {names_of(comparison.left_out)}"
        command = f"wmtp evaluate --checkpoint RUN --dataset {comparison.dataset}"
        blocks.append(Missing(what, "evaluate these runs on the same problems", command))
    return blocks


def _scores(comparison: DatasetComparison) -> Table:
    rows = tuple(
        (
            score.arm.name,
            _percent(score.interval.value),
            _interval(score.interval),
            _interval(score.seeds_interval),
            " ".join(_percent(value) for value in score.of_seeds.values()),
        )
        for score in comparison.scores
    )
    caption = (
        f"Pass@{comparison.k} on {comparison.dataset}, {comparison.num_problems} problems, mean over seeds. Intervals "
        f"are {RULE}; over seeds Student's, 95 %."
    )
    header = ("arm", f"Pass@{comparison.k}", "interval over problems", "interval over seeds", "each seed")
    return Table(caption, header, rows)


def _figure(comparison: DatasetComparison) -> Figure:
    traces: list[Trace] = []
    for number, score in enumerate(comparison.scores):
        traces += _dots(number, score)
    caption = (
        f"Large: mean over seeds with its 95 % interval over the {len(comparison.task_ids)} problems. Small: each "
        "seed. Overlapping intervals do not mean that arms are equal: the same problems are hard for all, which only "
        "the paired differences below take into account."
    )
    layout = {
        "yaxis": categories(),
        "xaxis": {"tickformat": ".0%"},
        "showlegend": False,
        "height": 90 + 42 * len(comparison.scores),
    }
    title = f"Pass@{comparison.k} on {comparison.dataset}"
    return Figure(title, caption, tuple(traces), f"Pass@{comparison.k}", "", layout, is_wide=True)


def _dots(number: int, score: ArmScore) -> list[Trace]:
    mean, colour = score.interval, arm_colour(number)
    low, high = mean.low if mean.low is not None else mean.value, mean.high if mean.high is not None else mean.value
    seeds = list(score.of_seeds.values())
    return [
        {
            "type": "scatter", "mode": "markers", "name": f"{score.arm.name}, seeds", "x": seeds,
            "y": [score.arm.name] * len(seeds), "marker": {"color": arm_colour(number, 0.45), "size": 7},
        },
        {
            "type": "scatter", "mode": "markers", "name": score.arm.name, "x": [mean.value], "y": [score.arm.name],
            "error_x": {
                "type": "data", "symmetric": False, "array": [high - mean.value], "arrayminus": [mean.value - low],
                "color": colour, "thickness": 2,
            },
            "marker": {"color": colour, "size": 12},
        },
    ]  # fmt: skip


def _differences(comparison: DatasetComparison) -> Table:
    rows = tuple(
        (
            each.score.arm.name,
            _points(each.problems.difference.value),
            _points_interval(each.problems.difference),
            str(each.problems.num_better),
            str(each.problems.num_worse),
            str(each.problems.num_equal),
            _p(each.problems.sign_p),
            {"better": "better", "worse": "worse", "undecided": "not told apart"}[each.verdict]
            + (", confounded" if confounds(each.score.arm, each.reference.arm, comparison.dataset) else ""),
        )
        for each in comparison.differences
    )
    caption = (
        f"Against {comparison.differences[0].reference.arm.name}, problem by problem (points are percentage points; "
        f"each problem's rate is its mean over seeds). Wins and losses count problems. The interval is {RULE}: arms "
        "that agree on every problem are not proved equal by it. Verdict: the interval excludes 0 and no seed points "
        "the other way. Confounded: the training differs in steps, tokens or start, see the summary."
    )
    header = ("arm", "difference", "95 % interval", "wins", "losses", "ties", "sign test p", "verdict")
    return Table(caption, header, rows, text_columns=(0, 7))


def _seed_tests(comparison: DatasetComparison) -> Block:
    rows = [_seed_row(each) for each in comparison.differences if each.seeds is not None]
    if not rows or max(len(score.of_seeds) for score in comparison.scores) < 2:
        what = f"Wilcoxon and permutation test over seeds on {comparison.dataset}: they need two seeds of both arms"
        return Missing(
            what, "train and evaluate further seeds", "wmtp launch recipe=... seed=43 train.sampling.seed=43"
        )
    caption = (
        "The same differences seed by seed. With few seeds no test can reach a small p: the last column is the "
        "smallest one that so many seeds allow."
    )
    header = ("arm", "difference", "95 % interval", "seeds +/−", "Wilcoxon p", "permutation p", "smallest p possible")
    return Table(caption, header, tuple(rows))


def _seed_row(each: Difference) -> tuple[str, ...]:
    seeds = each.seeds
    assert seeds is not None
    return (
        each.score.arm.name,
        _points(seeds.difference.value),
        _points_interval(seeds.difference),
        f"{seeds.num_positive}/{seeds.num_negative}",
        _p(seeds.wilcoxon_p),
        _p(seeds.permutation_p),
        _p(seeds.smallest_p),
    )


def _changed(comparison: DatasetComparison) -> Table:
    """The problems on which arms differ most from the reference."""
    base = comparison.differences[0].reference
    others = [each.score for each in comparison.differences]
    gaps_P = np.nan_to_num(np.abs(np.array([score.problems_P for score in others]) - base.problems_P)).max(axis=0)
    order = np.argsort(-gaps_P, kind="stable")[:_MOST_CHANGED]
    rows = tuple(
        (comparison.task_ids[place], *(_percent(score.problems_P[place], 0) for score in (base, *others)))
        for place in order
        if gaps_P[place] > 0
    )
    caption = f"The {len(rows)} problems on which an arm differs most from {base.arm.name}: Pass@{comparison.k}."
    return Table(caption, ("problem", *(score.arm.name for score in (base, *others))), rows)


def _percent(value: float, decimals: int = 1) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.{decimals}f}\u00a0%"


def _points(value: float) -> str:
    return signed(100 * value, 1)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"– ({interval.count} seed)"
    return f"{100 * max(interval.low, 0.0):.1f} to {100 * min(interval.high, 1.0):.1f} %"


def _points_interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{_points(interval.low)} to {_points(interval.high)}"


def _p(value: float | None) -> str:
    return "–" if value is None else ("< 0.001" if value < 0.001 else f"{value:.3f}")
