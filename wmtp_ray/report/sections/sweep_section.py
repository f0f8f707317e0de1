"""A sweep: which point is best, how certain that is, and how each swept key changes the objective."""

from collections.abc import Sequence
from typing import Any

from wmtp_ray.report.blocks import Block, Bullets, Figure, Missing, Section, Table, Trace, Words, categories, figures
from wmtp_ray.report.saved_sweep import SavedSweep
from wmtp_ray.tracking.sweep_result import SavedPoint

MOST_POINTS = 30
# More steps or tokens, or another start: said before the verdict.
_EXTENT_KEYS = {
    "model.path",
    "train.epochs",
    "train.max_steps",
    "train.batch_rows",
    "train.batch_sequences",
    "train.sampling.n_samples",
}


def sweep_section(sweep: SavedSweep, number: int) -> Section:
    """Return the section of a sweep; `number` tells the anchors of several apart."""
    title, anchor = f"Sweep {sweep.name}", f"sweep-{number}"
    ranked = [point for point in sweep.points if point.mean is not None]
    uneven = [key for key in sweep.space if key in _EXTENT_KEYS]
    blocks: list[Block] = []
    if uneven:
        text = f"The points differ in how long or from where they train ({', '.join(uneven)}), which may decide alone."
        blocks.append(Words(text))
    blocks += [Words(sweep.verdict, "lead"), Words(_what(sweep), "note")]
    if not ranked:
        what = f"A ranking: no trial has finished with {sweep.metric}"
        blocks.append(Missing(what, "continue the sweep", "wmtp sweep ... --resume"))
        return Section(anchor, title, tuple(blocks))
    blocks += [_table(sweep), _ranking(sweep, ranked[:MOST_POINTS])]
    blocks += [_by_key(sweep, ranked, key) for key in sweep.space]
    if sweep.unfinished:
        header = ("trial", "status", "reason")
        blocks.append(Table("Trials that did not finish.", header, sweep.unfinished, (0, 1, 2)))
    if sweep.shared:
        blocks += [Words("Done once for all trials:"), Bullets(sweep.shared)]
    return Section(anchor, title, tuple(blocks))


def _what(sweep: SavedSweep) -> str:
    better = "lower" if sweep.mode == "min" else "higher"
    space = "; ".join(f"{key}: {_shown(values)}" for key, values in sweep.space.items())
    return f"Search: {sweep.search}. Objective: {sweep.metric}, {better} is better. Space: {space}. {sweep.interval}."


def _table(sweep: SavedSweep) -> Table:
    keys = list(sweep.space)
    rows = tuple(
        (
            str(point.point),
            *(_shown(point.overrides.get(key, "–")) for key in keys),
            figures(point.mean),
            "–" if point.low is None or point.high is None else f"{point.low:.4f} to {point.high:.4f}",
            str(len(point.values)),
            ", ".join(f"{count} {status}" for status, count in point.statuses.items()),
        )
        for point in sweep.points[:MOST_POINTS]
    )
    hidden = len(sweep.points) - len(rows)
    caption = "Points from best to worst; those that did not finish with every seed stand behind the others."
    more = f" {hidden} more points are in sweep.json." if hidden else ""
    header = ("point", *keys, sweep.metric, "95 % interval", "seeds", "trials")
    return Table(caption + more, header, rows, (0, len(header) - 1))


def _ranking(sweep: SavedSweep, ranked: Sequence[SavedPoint]) -> Figure:
    names = [f"point {point.point}" for point in ranked]
    seeds = [(value, name) for point, name in zip(ranked, names, strict=True) for value in point.values.values()]
    traces: tuple[Trace, ...] = (
        {
            "type": "scatter", "mode": "markers", "name": "each seed", "x": [value for value, _ in seeds],
            "y": [name for _, name in seeds], "marker": {"color": "@arm-1/0.45", "size": 7},
        },
        {
            "type": "scatter", "mode": "markers", "name": "mean and 95 % interval",
            "x": [point.mean for point in ranked], "y": names,
            "error_x": {
                "type": "data", "symmetric": False, "color": "@arm-1", "thickness": 1.5,
                "array": [_half(point.high, point.mean) for point in ranked],
                "arrayminus": [_half(point.mean, point.low) for point in ranked],
            },
            "marker": {"color": "@arm-1", "size": 10},
        },
    )  # fmt: skip
    caption = "The objective at every point, best first. Where intervals overlap, chance may order the points so."
    layout = {"yaxis": categories(), "height": 160 + 20 * len(ranked)}
    return Figure("The points", caption, traces, sweep.metric, "", layout)


def _by_key(sweep: SavedSweep, ranked: Sequence[SavedPoint], key: str) -> Figure:
    values = [point.overrides.get(key) for point in ranked]
    is_range = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values if is_range else [str(value) for value in values],
        "y": [point.mean for point in ranked],
        "text": [f"point {point.point}" for point in ranked],
        "marker": {"color": "@arm-2", "size": 9, "opacity": 0.8},
    }
    caption = "Each dot is a point, mean over its seeds; the other keys vary within a column."
    layout: dict[str, Any] = {"xaxis": {} if is_range else {"type": "category"}}
    return Figure(f"{sweep.metric} by {key}", caption, (trace,), key, sweep.metric, layout)


def _half(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else high - low


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{kind} {_shown(each)}" for kind, each in value.items())
    if isinstance(value, list):
        return " ".join(_shown(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
