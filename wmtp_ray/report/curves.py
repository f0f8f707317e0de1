"""Curves of metrics over steps, arm beside arm, thinned to what a screen can show.

Steps are put into at most `MAX_POINTS` bins of equal width. An arm's line is the mean over its seeds of the mean in
each bin; its band spans the seeds, or, for one seed, the middle 80 % of the steps in the bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Figure, Trace, arm_colour, arm_dash
from wmtp_ray.report.saved_run import Column

MAX_POINTS = 60
_ONE_SEED_BAND = (10, 90)


@dataclass(frozen=True)
class Thinned:
    """A metric of an arm by bins of steps: x the middle of the bin, line and band."""

    steps: Column
    middle: Column
    low: Column
    high: Column
    steps_per_bin: int


def thinned(arm: Arm, metric: str, stage: int = 2) -> Thinned | None:
    """Return a metric of an arm, or None where no run of it reports a finite value."""
    runs = [run.curves[stage] for run in arm.runs if stage in run.curves and metric in run.curves[stage].metrics]
    columns = [(each.steps, each.metrics[metric]) for each in runs if np.isfinite(each.metrics[metric]).any()]
    if not columns:
        return None
    last = int(max(steps.max() for steps, _ in columns))
    width = -(-(last + 1) // MAX_POINTS)
    num_bins = last // width + 1
    binned = [_bins(steps, values, width, num_bins) for steps, values in columns]
    means = np.array([[each.mean() if len(each) else np.nan for each in bins] for bins in binned])
    has_value = np.isfinite(means).any(axis=0)
    if len(columns) > 1:
        low, high = (reduce(means[:, has_value], axis=0) for reduce in (np.nanmin, np.nanmax))
    else:
        kept = [each for each in binned[0] if len(each)]
        low, high = (np.array([np.percentile(each, percent) for each in kept]) for percent in _ONE_SEED_BAND)
    centres = (np.arange(num_bins) + 0.5) * width - 0.5
    return Thinned(centres[has_value], np.nanmean(means[:, has_value], axis=0), low, high, width)


def curve_figure(
    arms: Sequence[Arm], metric: str, *, title: str, y_title: str, caption: str, stage: int = 2, **layout: Any
) -> Figure | None:
    """Draw a metric of every arm that reports it; None where none does."""
    traces: list[Trace] = []
    widths: list[int] = []
    for number, arm in enumerate(arms):
        found = thinned(arm, metric, stage)
        if found is not None:
            traces += [band_trace(found, arm_colour(number, 0.16)), line_trace(found, arm.name, number)]
            widths.append(found.steps_per_bin)
    if not traces:
        return None
    text = f"{caption} {how_thinned(arms, max(widths))}"
    return Figure(title, text, tuple(traces), "optimizer step", y_title, layout)


def _bins(steps: Column, values: Column, width: int, num_bins: int) -> list[Column]:
    """The finite values of each bin of steps."""
    is_finite = np.isfinite(values)
    places, kept = (steps[is_finite] // width).astype(np.int64), values[is_finite]
    return [kept[places == number] for number in range(num_bins)]


def how_thinned(arms: Sequence[Arm], steps_per_point: int) -> str:
    """Say in a caption what points and bands are."""
    points = "" if steps_per_point == 1 else f"A point is the mean of {steps_per_point} steps"
    has_seeds = any(len(arm.runs) > 1 for arm in arms)
    if has_seeds:
        return f"{points or 'A line is the mean'}{' and' if points else ''} over seeds; the band spans the seeds."
    return f"{points}, the band their middle 80 %." if points else ""


def line_trace(found: Thinned, name: str, number: int, **more: Any) -> Trace:
    """The line of an arm."""
    line = {"color": arm_colour(number), "width": 2, "dash": arm_dash(number)}
    return {
        "type": "scatter",
        "mode": "lines" if len(found.steps) > 1 else "markers",
        "name": name,
        "x": rounded(found.steps),
        "y": rounded(found.middle),
        "line": line,
        "marker": {"color": arm_colour(number)},
        **more,
    }


def band_trace(found: Thinned, colour: str) -> Trace:
    """The band around a line, drawn as one closed shape."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded(np.concatenate([found.steps, found.steps[::-1]])),
        "y": rounded(np.concatenate([found.high, found.low[::-1]])),
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def rounded(values: Column) -> list[float | None]:
    """Five significant digits, None for what is no number."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
