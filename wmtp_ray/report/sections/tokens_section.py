"""Programs token by token: coloured by weight, with the curve of V and its largest drops, correct beside incorrect."""

from collections.abc import Sequence

from wmtp_ray.config.arms import most_telling_first
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Missing, Programs, Section, Words
from wmtp_ray.report.saved_run import SavedRun


def tokens_section(arms: Sequence[Arm]) -> Section:
    """Show the evidence of one run: of the method where there is one, since it has every weighting's weights."""
    runs = [run for arm in arms for run in arm.runs if run.evidence is not None and run.evidence.pairs]
    if not runs:
        what = "Token evidence: no run has a token_evidence.json with programs in it"
        remedy = (
            "stage 2 writes it at its end, from held-out problems that have correct and incorrect rows; train again"
        )
        return Section("tokens", "Tokens", (Missing(what, remedy, "wmtp launch recipe=verifiable"),))
    best = most_telling_first({each.weighting for each in runs})[0]
    run = next(each for each in runs if each.weighting == best)
    evidence = run.evidence
    assert evidence is not None
    blocks: list[Block] = [
        Words(
            f"Held-out programs as the run {run.name} sees them at its end. Blue tokens are learned less than under "
            "uniform weights, orange ones more; a line below marks a weight at its clip bound, a wavy line a negative "
            "weight, which makes the token less likely, a frame the edit in which the two programs differ. "
            f"{_values_words(run)}"
        ),
        Programs(run.name, evidence.weighting, evidence.clip_min, evidence.clip_max, evidence.pairs),
    ]
    others = [each.name for each in runs if each is not run]
    if others:
        blocks.append(Words(f"{len(others)} more runs have such programs; give one alone to see it.", "note"))
    return Section("tokens", "Tokens", tuple(blocks))


def _values_words(run: SavedRun) -> str:
    assert run.evidence is not None
    if run.evidence.pairs[0].correct.values is None:
        return "This run has no critic, so there is no V: train with recipe=verifiable to see it."
    return (
        "The curves show V after every token; triangles mark the largest drops. V(end) is left out: the reward itself "
        "takes its place."
    )
