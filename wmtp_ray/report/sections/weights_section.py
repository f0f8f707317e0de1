"""The token weights: their distribution over time, how many tokens they leave effective, and what they clip."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from wmtp_ray.config.arms import arm_named
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Figure, Missing, Section, Table, Trace, arm_colour, arm_dash, figures, share
from wmtp_ray.report.curves import curve_figure, how_thinned, rounded, thinned

_BELOW, _FRAC = "weight/below_", "_frac"
_COLUMNS = (
    ("weight/mean", "mean"),
    ("weight/std", "std"),
    ("weight/terminal_mean", "mean, last token"),
    ("weight/other_mean", "mean, others"),
    ("weight/terminal_share", "share of Σ|w − 1| in last tokens"),
    ("weight/ess_frac", "effective sample"),
    ("weight/clip_min_frac", "at lower clip"),
    ("weight/clip_max_frac", "at upper clip"),
    ("weight/dropped_frac", "dropped"),
    ("weight/negative_frac", "pushed down"),
    ("weight/doubtful_frac", "doubtful"),
    ("edits/partner_frac", "rows compared"),
    ("edits/differing_frac", "tokens that differ"),
)
# Columns where an arm has them.
_OF_SOME_ARMS = {"weight/negative_frac", "weight/doubtful_frac", "edits/partner_frac", "edits/differing_frac"}
_SHARES = {name for name, _ in _COLUMNS if name.endswith(("_share", "_frac"))}


def weights_section(arms: Sequence[Arm]) -> Section:
    """Return the section; uniform arms have no distribution to draw."""
    blocks: list[Block] = [_table(arms)]
    weighted = [arm for arm in arms if not _is_uniform(arm)]
    distributions = [figure for arm in weighted if (figure := _distribution(arm)) is not None]
    if weighted and not distributions:
        what = "The distribution of the weights over time: metrics.jsonl has no weight/below_<x>_frac"
        blocks.append(Missing(what, "the runs are older than this metric; train again to have it"))
    blocks += distributions
    effective = curve_figure(
        arms,
        "weight/ess_frac",
        title="Effective sample size of the weights",
        y_title="fraction of the tokens",
        caption="(Σw)² / (n Σw²): 1 for equal weights. At 0.8 a step learns as from 80 % of its tokens.",
        yaxis={"rangemode": "tozero"},
    )
    blocks += [effective] if effective is not None else []
    clipped = [arm for arm in weighted if arm_named(arm.weighting).shape == "beta"]  # others drop tokens instead
    blocks += [clips] if (clips := _clip_figure(clipped, arms)) is not None else []
    return Section("weights", "Token weights", tuple(blocks))


def _is_uniform(arm: Arm) -> bool:
    stds = [run.curves[2].metrics["weight/std"] for run in arm.runs if _has(run.curves, "weight/std")]
    return all(not np.nan_to_num(each).any() for each in stds)


def _has(curves: dict[int, Any], metric: str) -> bool:
    return 2 in curves and metric in curves[2].metrics


def _table(arms: Sequence[Arm]) -> Block:
    rows, columns = [], [each for each in _COLUMNS if each[0] not in _OF_SOME_ARMS or _is_reported(arms, each[0])]
    for arm in arms:
        means = [_mean(arm, metric) for metric, _ in columns]
        if any(mean is not None for mean in means):
            cells = (share(m) if name in _SHARES else figures(m) for m, (name, _) in zip(means, columns, strict=True))
            rows.append((arm.name, *cells))
    if not rows:
        return Missing("The token weights: no step of stage 2 is recorded", "train the run with stage 2 in stages")
    caption = (
        "Token weights, mean over all steps and seeds. A standard deviation below 0.05 can hardly be told from uniform "
        "weights; a mean far from 1 is a hidden change of the learning rate, unless tokens are dropped: they count as "
        "weight 0, and as one at the lower clip."
    )
    if ("weight/negative_frac", "pushed down") in columns:
        caption += " A token that is pushed down counts with the size of its weight, before its probability."
    return Table(caption, ("arm", *(label for _, label in columns)), tuple(rows))


def _is_reported(arms: Sequence[Arm], metric: str) -> bool:
    return any(_has(run.curves, metric) for arm in arms for run in arm.runs)


def _mean(arm: Arm, metric: str) -> float | None:
    values = [np.nanmean(run.curves[2].metrics[metric]) for run in arm.runs if _has(run.curves, metric)]
    return float(np.mean(values)) if values else None


def _distribution(arm: Arm) -> Figure | None:
    """Stacked shares of the tokens by weight, from the lightest up."""
    names = {name for run in arm.runs if 2 in run.curves for name in run.curves[2].metrics if name.startswith(_BELOW)}
    edges = sorted(float(name.removeprefix(_BELOW).removesuffix(_FRAC)) for name in names)
    found = [thinned(arm, f"{_BELOW}{edge:g}{_FRAC}") for edge in edges]
    kept = [each for each in found if each is not None]
    if not kept:
        return None
    below = np.array([np.zeros_like(kept[0].middle), *(each.middle for each in kept), np.ones_like(kept[0].middle)])
    labels = [f"below {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges))]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "weights",
            "name": label,
            "x": rounded(kept[0].steps),
            "y": rounded(part),
            "line": {"width": 0.5, "color": "@paper"},
            "fillcolor": f"@scale-{place}",
        }
        for place, (label, part) in enumerate(
            zip([*labels, f"{edges[-1]:g} and above"], np.diff(below, axis=0), strict=True)
        )
    ]
    steps_per_point = kept[0].steps_per_bin * len(arm.runs)
    caption = (
        "Share of the supervised tokens by weight. The pale band holds weights that hardly differ from 1; "
        "blue tokens are learned less, orange ones more."
        + ("" if steps_per_point == 1 else f" A point is the mean of {steps_per_point} steps.")
    )
    layout = {"yaxis": {"range": [0, 1], "tickformat": ".0%"}, "legend": {"traceorder": "reversed"}}
    return Figure(
        f"Distribution of the weights: {arm.name}", caption, tuple(traces), "optimizer step", "tokens", layout
    )


def _clip_figure(weighted: Sequence[Arm], arms: Sequence[Arm]) -> Figure | None:
    traces: list[Trace] = []
    steps_per_bin = 1
    for arm in weighted:
        number = list(arms).index(arm)
        for bound, label, symbol in (("min", "lower", "triangle-down"), ("max", "upper", "triangle-up")):
            found = thinned(arm, f"weight/clip_{bound}_frac")
            if found is None:
                continue
            steps_per_bin = max(steps_per_bin, found.steps_per_bin)
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{arm.name}, {label}",
                    "x": rounded(found.steps),
                    "y": rounded(found.middle),
                    "line": {"color": arm_colour(number), "width": 1.5, "dash": arm_dash(number)},
                    "marker": {"color": arm_colour(number), "symbol": symbol, "size": 7, "maxdisplayed": 8},
                }
            )
    if not traces:
        return None
    caption = (
        "Tokens whose weight lies at a clip bound. With a value head near 0.5 mostly the last token of a program "
        f"clips: there the reward itself arrives. {how_thinned(weighted, steps_per_bin)}"
    )
    layout = {"yaxis": {"rangemode": "tozero", "tickformat": ".1%"}}
    return Figure("Clipped weights", caption, tuple(traces), "optimizer step", "tokens", layout)
