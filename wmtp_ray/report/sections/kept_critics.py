"""Which version of its critic each run kept, and the held-out losses that it was chosen by."""

from collections.abc import Sequence

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Table
from wmtp_ray.report.curves import curve_figure


def kept_critic_blocks(arms: Sequence[Arm]) -> list[Block]:
    """Return a table of the runs whose stage 1 read its held-out loss, and the curves; nothing where none did."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            kept = run.result.decisions.critic if run.result is not None and run.result.decisions is not None else None
            if kept is not None:
                readings = ", ".join(f"{reading.step}: {reading.loss:.4f}" for reading in kept.readings)
                steps = f"{kept.steps:,} of {kept.planned_steps:,}"
                rows.append((f"{arm.name}, {run.name}", f"{kept.step:,}", f"{kept.loss:.4f}", steps, readings))
    if not rows:
        return []
    caption = (
        "The critic of stage 1: the version with the lowest loss on held-out rows was kept (critic_stage.eval_every, "
        "critic_stage.patience). Losses are the stage's own; critics of other losses cannot be compared by them."
    )
    header = ("run", "kept after step", "held-out loss", "steps made", "held-out loss after each step that was read")
    curve = curve_figure(
        arms,
        "held_out/critic_loss",
        title="Held-out loss of the critic in stage 1",
        y_title="loss",
        caption="Where it turns up again, the critic learns its training rows by heart; what comes later is not kept.",
        stage=1,
    )
    return [Table(caption, header, tuple(rows), text_columns=(0, 4)), *([curve] if curve is not None else [])]
