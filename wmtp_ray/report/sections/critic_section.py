"""The critic's health on held-out problems, beside the baselines that it must beat, shortcuts included.

Names and definitions are those of `objective/critic_health.py`; every number is one that a stage recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.intervals import normal_half_width
from wmtp_ray.objective.baseline_standing import gate_words
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import (
    Block,
    Bullets,
    Figure,
    Missing,
    Section,
    Table,
    Trace,
    arm_colour,
    categories,
    figures,
)
from wmtp_ray.report.curves import curve_figure
from wmtp_ray.report.sections.critic_audits import critic_audit_blocks
from wmtp_ray.report.sections.kept_critics import kept_critic_blocks
from wmtp_ray.tracking.stage_health import Health

PERCENTS = (25, 50, 75, 100)
BASELINES = (
    ("length", "length only"),
    ("problem_base_rate", "problem only"),
    ("position", "position only"),
    ("bag_of_tokens", "bag of tokens"),
    ("token_identity", "token identity"),
    ("log_likelihood", "policy's likelihood"),
)
_ROWS = (
    ("num_problems", "held-out problems"),
    ("num_responses", "programs"),
    ("explained_variance", "explained variance"),
    ("explained_variance_ceiling", "… its ceiling: knowing every prefix"),
    ("explained_variance_problem", "… of the problems' base rates"),
    ("auc_100", "AUC of V at the end"),
    ("auc_mean", "AUC of the mean V"),
    ("pair_accuracy", "pairs: correct above incorrect"),
    ("pair_accuracy_length_matched", "… of like length"),
    ("minimal_num_pairs", "minimal pairs: programs one edit apart"),
    ("minimal_first_difference_drops", "… first wrong token drops more"),
    ("minimal_drop_at_edit_auc", "… AUC: drop of V at the edit"),
    ("minimal_drop_at_edit_auc_standard_error", "… its standard error"),
    ("minimal_drop_at_edit_auc_twin", "… same place, correct program"),
    ("minimal_largest_drop_in_edit", "… largest drop lies in the edit"),
    ("minimal_largest_drop_in_edit_chance", "… by chance"),
    ("std_within_response", "std of V within a program"),
    ("disagreement", "disagreement of an ensemble's critics"),
    ("outside_unit_frac", "fraction of V outside [0, 1]"),
    ("correlation_length", "correlation of V with length"),
    ("correlation_position", "correlation of V with position"),
    ("value_between_problem_share", "variance of V that only tells problems apart"),
)
_DRIFT = "On fixed held-out rows (critic.drift_rows), every critic.drift_every steps. A frozen critic has none."
_CURVES = (  # metric, title, y axis, caption
    (
        "critic/explained_variance",
        "Explained variance during training",
        "explained variance",
        "Of the critic that scores, on each training batch before it is learned. Far below its ceiling is usual; below "
        "0 is collapse.",
    ),
    (
        "critic/disagreement",
        "Disagreement of the critics of an ensemble",
        "standard deviation of V",
        "Between the members of critic.ensemble, mean over the states of each training batch.",
    ),
    (
        "critic/anchor_distance",
        "Drift of V since the critic that scored",
        "mean |ΔV|",
        "How far the value head has moved since the version whose scores are in use was published.",
    ),
    (
        "critic/drift_kl",
        "Drift of V since the start of stage 2: KL",
        "nats",
        f"{_DRIFT} KL of V at the start from V now, both read as the chance of a correct program and clipped to "
        "[0.01, 0.99].",
    ),
    ("critic/drift_value", "Drift of V since the start of stage 2: distance", "mean |ΔV|", _DRIFT),
    (
        "critic/drift_correlation",
        "Drift of V since the start of stage 2: correlation",
        "Pearson's r",
        f"{_DRIFT} 1 where V has kept its order and scale.",
    ),
    (
        "critic/drift_cosine",
        "Drift of the states below V since the start of stage 2",
        "1 - cos",
        f"{_DRIFT} How far the hidden states that V is read from have turned.",
    ),
    (
        "policy_head/explained_variance",
        "Explained variance of the policy's own head, which scores nothing",
        "explained variance",
        "A frozen critic scores in this arm; the head is trained because train.value_coef asks for it.",
    ),
    (
        "policy_head/anchor_distance",
        "Distance of the policy's own head from the frozen critic",
        "mean |ΔV|",
        "Two value paths that read two trunks, on the same states.",
    ),
)


@dataclass(frozen=True)
class _Measured:
    """A critic that was measured: its name, its arm's place, and the health of each run that has it."""

    name: str
    number: int
    health: tuple[Health, ...]

    def mean(self, metric: str) -> float | None:
        values = [each.metrics[f"critic/{metric}"] for each in self.health if f"critic/{metric}" in each.metrics]
        return float(np.mean(values)) if values else None


def critic_section(arms: Sequence[Arm]) -> Section:
    """Return the section: health of each arm's critic, along the response, against baselines, over time."""
    measured = list(_measured(arms))
    blocks: list[Block] = []
    if measured:
        blocks += [_health_table(measured), _along_response(measured)]
        blocks += [_beside_baselines(measured, "auc", "auc_mean", "AUC"), _beside_baselines(
            measured, "pair_accuracy", "pair_accuracy", "Pair accuracy"
        )]  # fmt: skip
        blocks += [drops] if (drops := _drop_at_edit(measured)) is not None else []
        blocks.append(Bullets(tuple(_gate_words(each) for each in measured)))
    else:
        what = "The critic's health: no run measured a critic on held-out problems"
        blocks.append(Missing(what, "train a critic with stage 1", "wmtp launch recipe=verifiable stages=[0,1,2]"))
    blocks += critic_audit_blocks(arms)
    blocks += kept_critic_blocks(arms)
    over_time = (curve_figure(arms, metric, title=title, y_title=y, caption=text) for metric, title, y, text in _CURVES)
    blocks += [figure for figure in over_time if figure is not None]
    return Section("critic", "Critic health", tuple(blocks))


def _measured(arms: Sequence[Arm]) -> list[_Measured]:
    found = []
    for number, arm in enumerate(arms):
        for stage, when in ((1, "before"), (2, "after")):
            health = tuple(run.health[stage] for run in arm.runs if stage in run.health and run.health[stage].metrics)
            if health:
                found.append(_Measured(f"{arm.name}, {when} stage 2", number, health))
    return found


def _gate_words(measured: _Measured) -> str:
    """The gate's verdict on the critics of all seeds, and the baselines that their mean does not beat."""
    failures = list(dict.fromkeys(failure for health in measured.health for failure in health.failures))
    means = {name: measured.mean(name.removeprefix("critic/")) for name in measured.health[0].metrics}
    return f"{measured.name}: {gate_words(failures, {name: mean for name, mean in means.items() if mean is not None})}"


def _health_table(measured: Sequence[_Measured]) -> Block:
    rows = [
        (label, *(figures(each.mean(name), 0 if "num_" in name else 3) for each in measured))
        for name, label in _ROWS
        if any(each.mean(name) is not None for each in measured)
    ]
    caption = (
        "The critics on problems they have never seen, mean over seeds. Chance is 0.5 for AUC and pairs, 0 for "
        "explained variance. Explained variance misleads alone: nothing can be known before two programs differ."
    )
    return Table(caption, ("", *(each.name for each in measured)), tuple(rows))


def _along_response(measured: Sequence[_Measured]) -> Figure:
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": each.name,
            "x": list(PERCENTS),
            "y": [each.mean(f"auc_{percent}") for percent in PERCENTS],
            "line": {"color": arm_colour(each.number), "dash": "dot" if "before" in each.name else "solid"},
            "marker": {"color": arm_colour(each.number), "size": 7},
        }
        for each in measured
    ]
    traces.append(_chance_line([PERCENTS[0], PERCENTS[-1]]))
    caption = (
        "How well V tells correct from incorrect programs after a part of them. Above 0.56 at 25 % hints at leakage."
    )
    return Figure(
        "AUC of V along the program", caption, tuple(traces), "part of the program read (%)", "AUC",
        {"xaxis": {"tickvals": list(PERCENTS)}},
    )  # fmt: skip


def _beside_baselines(measured: Sequence[_Measured], suffix: str, own: str, name: str) -> Figure:
    """Draw as dots the critic's measures and those of baselines that see almost nothing of the program."""
    labels = ["critic: mean V", *(label for _, label in BASELINES)]
    metrics = [own, *(f"baseline_{baseline}_{suffix}" for baseline, _ in BASELINES)]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": each.name,
            "x": [each.mean(metric) for metric in metrics],
            "y": labels,
            "marker": {
                "color": arm_colour(each.number),
                "size": [13] + [9] * len(BASELINES),
                "symbol": "circle-open" if "before" in each.name else "circle",
                "line": {"width": 2, "color": arm_colour(each.number)},
            },
        }
        for each in measured
    ]
    caption = (
        f"{name} on held-out problems beside predictors that see only what their name says; what must be fitted is "
        "fitted on one half of the problems and measured on the other. A critic left of a "
        "dot has learned less than that shortcut."
    )
    layout = {"yaxis": categories(), "shapes": [_vertical(0.5)], "height": 340 + 18 * len(measured)}
    return Figure(f"{name}: the critic and what it must beat", caption, tuple(traces), name, "", layout)


def _drop_at_edit(measured: Sequence[_Measured]) -> Figure | None:
    known = [each for each in measured if each.mean("minimal_drop_at_edit_auc") is not None]
    if not known:
        return None
    errors = [normal_half_width(each.mean("minimal_drop_at_edit_auc_standard_error") or 0.0) for each in known]
    names = [each.name for each in known]
    traces: tuple[Trace, ...] = (
        {
            "type": "scatter",
            "mode": "markers",
            "name": "incorrect program",
            "x": [each.mean("minimal_drop_at_edit_auc") for each in known],
            "y": names,
            "error_x": {"type": "data", "array": errors, "color": "@bad", "thickness": 1.5},
            "marker": {"color": "@bad", "size": 11},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "same place in the correct program",
            "x": [each.mean("minimal_drop_at_edit_auc_twin") for each in known],
            "y": names,
            "marker": {"color": "@good", "size": 11, "symbol": "diamond-open", "line": {"width": 2, "color": "@good"}},
        },
    )
    caption = (
        "Programs that differ from a correct one by one edit: does V drop more over the edit's tokens than over the "
        "others of the same program? Right of 0.5 it does. The diamond is the control for position. Bars: 95 % "
        "interval over pairs, of one seed."
    )
    layout = {"yaxis": categories(), "shapes": [_vertical(0.5)], "height": 150 + 40 * len(known)}
    return Figure("Drop of V at a known bug", caption, traces, "AUC of the drop", "", layout)


def _chance_line(x: list[int]) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "name": "chance", "x": x, "y": [0.5, 0.5], "hoverinfo": "skip",
        "line": {"color": "@faint", "width": 1, "dash": "dash"},
    }  # fmt: skip


def _vertical(x: float) -> dict[str, object]:
    return {
        "type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": "@faint", "width": 1, "dash": "dash"},
    }  # fmt: skip
