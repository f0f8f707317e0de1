"""An overview as one PNG of four panels. Imports matplotlib, which takes most of a second: import this lazily."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wmtp_ray.data.overview import Overview
from wmtp_ray.errors import DataError
from wmtp_ray.plan.phases import PlannedPhase

CORRECT, INCORRECT, GREY, LIGHT = "#2a7f62", "#c8553d", "#8a8f98", "#d9dce1"
BINS = ("#9ecae1", "#4292c6", "#08519c", "#e0a030", "#7b5ea7", "#b5bd61")
DARK = {GREY, BINS[1], BINS[2], BINS[4]}
LENGTH_BINS = 60


def draw_overview(overview: Overview, phases: Sequence[PlannedPhase], out: Path) -> None:
    """Draw lengths by class, difficulty by source, rows per problem, and the phases' bins (empty without phases).

    Raises DataError when the picture cannot be written.
    """
    figure = Figure(figsize=(12, 8), dpi=110, layout="constrained")
    figure.suptitle(f"{Path(overview.path).name}: {overview.num_rows:,} rows of {overview.num_problems:,} problems")
    lengths, difficulty, problems, bins = figure.subplots(2, 2).flat
    _draw_lengths(lengths, overview)
    _draw_difficulties(difficulty, overview)
    _draw_problems(problems, overview)
    _draw_phases(bins, phases)
    for axes in (lengths, difficulty, problems, bins):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(out, format="png")
    except OSError as error:
        raise DataError(
            f"{out}: the picture cannot be written ({error.strerror}); name a file in a writable folder with --picture"
        ) from error


def _draw_lengths(axes: Axes, overview: Overview) -> None:
    by_class = [lengths for lengths in overview.lengths if "correct" in lengths.name]
    longest = max(lengths.quantiles[-1] for lengths in by_class)
    shortest = max(1, min(int(lengths.values_N.min()) for lengths in by_class))
    edges = np.geomspace(shortest, longest + 1, LENGTH_BINS + 1)
    for lengths in by_class:
        colour = INCORRECT if lengths.name.endswith("incorrect") else CORRECT
        shares = np.histogram(lengths.values_N, edges)[0] / len(lengths.values_N)
        axes.stairs(shares, edges, fill=True, alpha=0.35, color=colour)
        axes.stairs(shares, edges, color=colour, label=f"{lengths.name}: median {np.median(lengths.values_N):,.0f}")
        axes.axvline(float(np.median(lengths.values_N)), color=colour, linestyle=":", linewidth=1.2)
    axes.set(xscale="log", xlabel=overview.unit, ylabel="share of the class", title="Length by class")
    axes.margins(y=0.22)  # room for the legend
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)


def _draw_difficulties(axes: Axes, overview: Overview) -> None:
    """One stacked bar a source: where its rows would fall."""
    names = list(dict.fromkeys(name for difficulty in overview.difficulties for name in difficulty.rows_by_bin))
    colours = {"unknown": LIGHT, "in no bin": GREY} | dict(zip(names, BINS * len(names), strict=False))
    for place, difficulty in enumerate(overview.difficulties):
        parts = {"unknown": difficulty.num_unknown, "in no bin": difficulty.num_outside} | difficulty.rows_by_bin
        start = 0.0
        for name, rows in parts.items():
            share = rows / overview.num_rows
            axes.barh(place, share, left=start, color=colours[name], edgecolor="white", height=0.62)
            if share >= 0.06:
                ink = "white" if colours[name] in DARK else "black"
                axes.text(
                    start + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize="small", color=ink
                )
            start += share
    axes.set_yticks(range(len(overview.difficulties)), [difficulty.source for difficulty in overview.difficulties])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the rows", title="Difficulty by source: the bins of stage 2")
    _legend_below(axes, colours)


def _draw_problems(axes: Axes, overview: Overview) -> None:
    """Rows of each problem, largest first, on logarithmic axes; and the share that the first problems own."""
    rows_P = overview.ownership.rows_P
    rank_P = np.arange(1, len(rows_P) + 1)
    axes.fill_between(rank_P, rows_P, 0.8, color=BINS[1], alpha=0.35, step="mid")
    axes.step(rank_P, rows_P, where="mid", color=BINS[2])
    num_top = -(-len(rows_P) // 100)
    share = overview.ownership.rows_of_top_percent / overview.num_rows
    axes.axvline(num_top, color=GREY, linestyle=":", linewidth=1.2)
    axes.text(
        0.97, 0.93, f"the top 1 % ({num_top:,}) own {share:.0%} of the rows", transform=axes.transAxes, ha="right"
    )
    axes.set(xscale="log", yscale="log", xlabel="problem, largest first", ylabel="rows", title="Rows per problem")
    axes.set_ylim(bottom=0.8)


def _draw_phases(axes: Axes, phases: Sequence[PlannedPhase]) -> None:
    axes.set_title("Rows of each phase of stage 2, by bin")
    if not phases:
        axes.text(0.5, 0.5, "no plan could be made", ha="center", va="center", transform=axes.transAxes, color=GREY)
        axes.set_axis_off()
        return
    names = list(phases[0].rows_by_bin)
    bottoms = np.zeros(len(phases))
    for name, colour in zip(names, BINS * len(names), strict=False):
        rows = np.array([phase.rows_by_bin[name] for phase in phases])
        axes.bar(range(len(phases)), rows, bottom=bottoms, color=colour, edgecolor="white", width=0.62)
        bottoms += rows
    axes.set_xticks(range(len(phases)), [phase.name.replace(" (", "\n(") for phase in phases])
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(lambda rows, _: f"{rows:,.0f}")
    _legend_below(axes, dict(zip(names, BINS * len(names), strict=False)))


def _legend_below(axes: Axes, colours: dict[str, str]) -> None:
    handles = [axes.bar(0, 0, color=colour) for colour in colours.values()]
    axes.legend(
        handles, colours, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(colours), frameon=False,
        fontsize="small",
    )  # fmt: skip
