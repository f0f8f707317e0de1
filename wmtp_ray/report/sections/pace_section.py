"""What a step waited for, how old its scores were, and how fast it was: two sections."""

from collections.abc import Sequence

import numpy as np

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Figure, Missing, Section, Table, Trace, arm_colour, figures, share
from wmtp_ray.report.curves import curve_figure
from wmtp_ray.report.saved_run import Column, SavedRun


def waiting_section(arms: Sequence[Arm]) -> Section:
    """Return staleness of the scores, waiting for them, and waiting for rows."""
    blocks: list[Block] = []
    rows = []
    for arm in arms:
        staleness, wait, data = (
            _all_steps(arm.runs, f"{name}") for name in ("score/staleness_steps", "score/wait_s", "perf/data_wait_frac")
        )
        if len(staleness):
            rows.append(
                (
                    arm.name,
                    figures(float(np.nanmean(staleness))),
                    figures(float(np.nanmax(staleness))),
                    f"{1000 * float(np.nanmedian(wait)):.1f}",
                    f"{1000 * float(np.nanpercentile(wait, 95)):.1f}",
                    share(float(np.nanmean(data))),
                )
            )
    if not rows:
        return Section("waiting", "Staleness and waiting", (_no_steps(),))
    caption = (
        "Staleness: by how many steps the critic that scored a batch lags the policy; the schedule pins it, so it does "
        "not depend on timing. Waiting for scores is what the lookahead did not hide."
    )
    header = ("arm", "staleness, mean", "most", "wait for scores (ms), median", "95 %", "step spent waiting for rows")
    blocks.append(Table(caption, header, tuple(rows)))
    staleness_figure = _staleness_figure(arms)
    blocks += [staleness_figure] if staleness_figure is not None else []
    wait_figure = curve_figure(
        arms, "score/wait_s", title="Waiting for scores", y_title="seconds in a step",
        caption="Time a step waited for the critic or the reference. The first step waits for the models to load.",
        yaxis={"rangemode": "tozero"},
    )  # fmt: skip
    blocks += [wait_figure] if wait_figure is not None else []
    return Section("waiting", "Staleness and waiting", tuple(blocks))


def throughput_section(arms: Sequence[Arm]) -> Section:
    """Return tokens a second, utilisation, and the seconds of each stage."""
    blocks: list[Block] = []
    rows = []
    for arm in arms:
        tokens, step_s, used = (
            _all_steps(arm.runs, name) for name in ("perf/supervised_tokens_per_s", "perf/step_s", "perf/mfu")
        )
        if len(tokens):
            seconds = [_stage_seconds(arm.runs, stage) for stage in (1, 2, 3)]
            rows.append(
                (
                    arm.name,
                    f"{float(np.nanmedian(tokens)):,.0f}",
                    f"{float(np.nanmedian(step_s)):.3g}",
                    share(float(np.nanmedian(used))) if len(used) else "–",
                    *seconds,
                )
            )
    if not rows:
        return Section("throughput", "Throughput", (_no_steps(),))
    caption = (
        "Medians over steps. Utilisation: the model's floating-point operations over a measured peak. Arms ran on "
        "whatever the machine had free: compare speeds only if nothing else did."
    )
    header = ("arm", "supervised tokens / s", "step (s)", "utilisation", "stage 1 (s)", "stage 2 (s)", "stage 3 (s)")
    blocks.append(Table(caption, header, tuple(rows)))
    figure = curve_figure(
        arms, "perf/supervised_tokens_per_s", title="Supervised tokens per second", y_title="tokens / s",
        caption="Tokens that are targets; prompts are read on top.", yaxis={"rangemode": "tozero"},
    )  # fmt: skip
    blocks += [figure] if figure is not None else []
    return Section("throughput", "Throughput", tuple(blocks))


def _staleness_figure(arms: Sequence[Arm]) -> Figure | None:
    """Share of the steps by staleness, for arms whose scores can age."""
    traces: list[Trace] = []
    for number, arm in enumerate(arms):
        staleness = _all_steps(arm.runs, "score/staleness_steps")
        if len(staleness) and np.nanmax(staleness) > 0:
            values, counts = np.unique(staleness[np.isfinite(staleness)], return_counts=True)
            marker = {"color": arm_colour(number), "pattern": {"shape": ("", "/", "x", ".", "-", "|")[number % 6]}}
            traces.append(
                {
                    "type": "bar", "name": arm.name, "x": values.tolist(), "y": (counts / counts.sum()).tolist(),
                    "marker": marker,
                }
            )  # fmt: skip
    if not traces:
        return None
    caption = "Share of the steps by the age of their scores. The bound is lookahead + publish_every − 1 steps."
    layout = {"barmode": "group", "yaxis": {"tickformat": ".0%"}, "xaxis": {"dtick": 1}}
    return Figure("Staleness of the scores", caption, tuple(traces), "steps behind the policy", "steps", layout)


def _all_steps(runs: Sequence[SavedRun], metric: str) -> Column:
    found = [run.curves[2].metrics[metric] for run in runs if 2 in run.curves and metric in run.curves[2].metrics]
    return np.concatenate(found) if found else np.zeros(0)


def _stage_seconds(runs: Sequence[SavedRun], stage: int) -> str:
    found = [run.result.seconds_per_stage.get(f"stage_{stage}") for run in runs if run.result is not None]
    known = [seconds for seconds in found if seconds is not None]
    return f"{float(np.mean(known)):,.0f}" if known else "–"


def _no_steps() -> Missing:
    return Missing("No step of stage 2 is recorded in metrics.jsonl", "train the run with stage 2 in stages")
