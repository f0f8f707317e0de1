"""Runs in rounds: what each round collected, how the policy stands after it, and whether the critic keeps up."""

from collections.abc import Callable, Sequence

from wmtp_ray.report.blocks import Block, Figure, Missing, Section, Table, Trace, Words, arm_colour, figures, share
from wmtp_ray.report.saved_rounds import SavedRounds
from wmtp_ray.report.saved_run import SavedRun
from wmtp_ray.rounds.rounds_record import CollectedRows, Round
from wmtp_ray.run_folder import CRITIC_STAGE

_HEALTH = (
    ("auc_100", "AUC of V at the end"),
    ("pair_accuracy", "pairs: correct above incorrect"),
    ("explained_variance", "explained variance"),
    ("minimal_first_difference_drops", "first wrong token drops more"),
)


def rounds_section(rounds: Sequence[SavedRounds]) -> Section:
    """Return the section; it compares what was measured and says where the extents differ."""
    blocks: list[Block] = [Words(_extents(rounds), "note")]
    if not any(each.record.rounds for each in rounds):
        blocks.append(Missing("Rounds: none is done", "continue the run", "python -m wmtp_ray.launch ... --resume"))
        return Section("rounds", "Rounds", tuple(blocks))
    datasets = dict.fromkeys(name for each in rounds for run in each.runs for name in run.evaluations)
    blocks.append(_done_table(rounds, list(datasets)))
    blocks += [_pass_figure(rounds, name) for name in datasets]
    collecting = [each for each in rounds if any(one.collected is not None for one in each.record.rounds)]
    if collecting:
        blocks += [_collected_table(collecting), _share_figure(collecting), _distinct_figure(collecting)]
    if any(CRITIC_STAGE in run.health for each in rounds for run in each.runs):
        blocks.append(_health_table(rounds))
    return Section("rounds", "Rounds", tuple(blocks))


def _extents(rounds: Sequence[SavedRounds]) -> str:
    """Say how far each run has come, and whether they may be compared by it."""
    told = "; ".join(
        f"{each.name}: {len(each.record.rounds)} of {each.count} rounds, {each.record.steps:,} steps, "
        f"{each.record.judged:,} judged programs"
        for each in rounds
    )
    extents = {(each.record.steps, each.record.judged) for each in rounds}
    if len(extents) < 2:
        return f"{told}."
    return f"{told}. The runs differ in steps or judged programs, which may decide alone."


def _done_table(rounds: Sequence[SavedRounds], datasets: Sequence[str]) -> Table:
    rows = [
        (
            run.name,
            f"{done.steps:,}",
            f"{done.critic_steps:,}",
            *(("–", "–") if done.mixed is None else (f"{done.mixed.from_file:,}", f"{done.mixed.collected:,}")),
            *(_passed(run, name) for name in datasets),
            done.policy_sha256[:12],
        )
        for _, run, done in _done(rounds)
    ]
    caption = "What each round trained on, and its policy. Pass@K with 95 % intervals over problems."
    passed = [f"Pass@{_k(rounds, name)} on {name}" for name in datasets]
    header = ("round", "steps", "critic's steps", "rows of the file", "collected rows", *passed, "policy")
    return Table(caption, header, tuple(rows), (0, len(header) - 1))


def _collected_table(rounds: Sequence[SavedRounds]) -> Table:
    rows = [
        (
            run.name,
            f"{one.judged:,}",
            share(one.correct / one.judged if one.judged else None),
            figures(one.different_programs / one.problems if one.problems else None, 2),
            f"{one.correct_rows:,}",
            f"{one.incorrect_rows:,}",
            share(one.problems_with_correct / one.problems if one.problems else None),
        )
        for _, run, done in _done(rounds)
        if (one := done.collected) is not None
    ]
    caption = (
        "What each round collected, with the policy that it began with: round 0 with the one that the run was given. "
        "The same program of a problem counts once."
    )
    header = (
        "round", "judged answers", "correct", "different programs a problem", "correct rows", "incorrect rows",
        "problems with a correct row",
    )  # fmt: skip
    return Table(caption, header, tuple(rows))


def _health_table(rounds: Sequence[SavedRounds]) -> Table:
    rows = []
    for _, run, _ in _done(rounds):
        if (health := run.health.get(CRITIC_STAGE)) is not None:
            metrics = health.metrics
            numbers = (figures(metrics.get(f"critic/{name}")) for name, _ in _HEALTH)
            rows.append((run.name, *numbers, ", ".join(health.failures) or "none"))
    caption = "The critic of each round on held-out problems, after its stage 1: on rows of its own round too."
    header = ("round", *(title for _, title in _HEALTH), "failed")
    return Table(caption, header, tuple(rows), (0, len(header) - 1))


def _pass_figure(rounds: Sequence[SavedRounds], dataset: str) -> Figure:
    def passed(run: SavedRun, done: Round) -> float | None:
        found = run.evaluations.get(dataset)
        return None if found is None else next(iter(found.pass_at_k.values())).value

    title = f"Pass@{_k(rounds, dataset)} on {dataset} by round"
    return _figure(rounds, title, "Of the policy after each round.", passed)


def _share_figure(rounds: Sequence[SavedRounds]) -> Figure:
    def correct(run: SavedRun, done: Round) -> float | None:
        one = done.collected
        return one.correct / one.judged if one is not None and one.judged else None

    caption = "Of the answers to training problems, by the policy before each round."
    return _figure(rounds, "Share of correct answers by round", caption, correct)


def _distinct_figure(rounds: Sequence[SavedRounds]) -> Figure:
    def different(run: SavedRun, done: Round) -> float | None:
        one: CollectedRows | None = done.collected
        return one.different_programs / one.problems if one is not None and one.problems else None

    caption = "A policy that answers ever more alike has fewer; there is less to learn from its answers."
    return _figure(rounds, "Different programs of a problem by round", caption, different, percent=False)


def _figure(
    rounds: Sequence[SavedRounds],
    title: str,
    caption: str,
    value: Callable[[SavedRun, Round], float | None],
    *,
    percent: bool = True,
) -> Figure:
    traces: list[Trace] = []
    for place, each in enumerate(rounds):
        values = [value(run, done) for _, run, done in _done([each])]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": each.name, "x": list(range(len(values))),
                "y": values, "line": {"color": arm_colour(place)}, "marker": {"color": arm_colour(place), "size": 8},
            }
        )  # fmt: skip
    layout = {"xaxis": {"dtick": 1}, "yaxis": {"tickformat": ".0%"} if percent else {}}
    return Figure(title, caption, tuple(traces), "round", "", layout)


def _done(rounds: Sequence[SavedRounds]) -> list[tuple[SavedRounds, SavedRun, Round]]:
    """Every round that is done, with its run."""
    return [(each, run, done) for each in rounds for run, done in zip(each.runs, each.record.rounds, strict=False)]


def _k(rounds: Sequence[SavedRounds], dataset: str) -> str:
    """The smallest K of Pass@K on a data set."""
    found = (run.evaluations.get(dataset) for each in rounds for run in each.runs)
    return next((next(iter(each.pass_at_k)) for each in found if each is not None), "K")


def _passed(run: SavedRun, dataset: str) -> str:
    found = run.evaluations.get(dataset)
    if found is None:
        return "–"
    estimate = next(iter(found.pass_at_k.values()))
    return f"{share(estimate.value)} ({share(estimate.low)} to {share(estimate.high)})"
