"""Learning curves: cross-entropy without weights, by horizon; the value loss; what was minimised."""

from collections.abc import Sequence

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Missing, Section
from wmtp_ray.report.curves import curve_figure

_SAME_ROWS = (
    "All targets of a training batch count alike, so arms with the same rows compare; arms that read other rows do not."
)
_NO_STEPS = "No step of stage 2 is recorded in metrics.jsonl"


def learning_section(arms: Sequence[Arm]) -> Section:
    """Return the section; horizons are found in the metrics."""
    blocks: list[Block] = []
    for horizon in horizons_of(arms):
        ahead = "the next token" if horizon == 1 else f"the token {horizon} ahead"
        figure = curve_figure(
            arms,
            f"loss/ce_h{horizon}",
            title=f"Horizon {horizon}: cross-entropy of {ahead}",
            y_title="nats per token",
            caption=_SAME_ROWS if horizon == 1 else "As for horizon 1.",
        )
        blocks += [figure] if figure is not None else []
    if not blocks:
        return Section("learning", "Learning curves", (Missing(_NO_STEPS, "train the run", _launch(arms)),))
    trained = curve_figure(
        arms,
        "train/horizons",
        title="Horizons that are trained",
        y_title="horizons",
        caption="By loss.horizon_schedule the further ones come in over the run; until then only the trunk moves them.",
    )
    minimised = curve_figure(
        arms,
        "loss/policy",
        title="Weighted cross-entropy: what was minimised",
        y_title="nats per token",
        caption="Mean over horizons. Weights scale it, so levels of different arms say nothing about quality.",
    )
    value = curve_figure(
        arms,
        "loss/value",
        title="Value loss of the policy's critic",
        y_title="squared error",
        caption="0.25 is what knowing nothing but the share of correct rows gives on balanced rows.",
    )
    own_head = curve_figure(
        arms,
        "policy_head/value_loss",
        title="Value loss of the policy's own head",
        y_title="squared error",
        caption="A frozen critic scores; this head scores nothing and was asked for by train.value_coef.",
    )
    no_value = Missing("A value loss: no arm trains one beside its policy", "set train.value_coef above 0")
    blocks += [figure for figure in (trained, minimised) if figure is not None]
    blocks += [figure for figure in (value, own_head) if figure is not None] or [no_value]
    stage_1 = curve_figure(
        arms, "loss/value", stage=1, title="Stage 1: the critic's own training", y_title="squared error",
        caption="The value loss while only the critic learns.",
    )  # fmt: skip
    blocks += [stage_1] if stage_1 is not None else []
    return Section("learning", "Learning curves", tuple(blocks))


def horizons_of(arms: Sequence[Arm]) -> list[int]:
    """Return the horizons whose cross-entropy any run reports."""
    names = {name for arm in arms for run in arm.runs if 2 in run.curves for name in run.curves[2].metrics}
    return sorted(int(name.removeprefix("loss/ce_h")) for name in names if name.startswith("loss/ce_h"))


def _launch(arms: Sequence[Arm]) -> str:
    run = arms[0].runs[0]
    return f"wmtp launch recipe={run.config.get('recipe')} run_name={run.name} --resume"
