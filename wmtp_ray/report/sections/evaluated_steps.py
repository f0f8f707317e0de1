"""Pass@1 of policies while they trained: a curve with intervals over problems, the best step, what was left out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wmtp_ray.intervals import RULE
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Figure, Table, Trace, arm_colour, arm_dash
from wmtp_ray.report.curves import rounded
from wmtp_ray.report.saved_run import Curves, SavedRun
from wmtp_ray.run_folder import EVALUATION_STAGE, TRAIN_STAGE

_BEGIN, _END = "eval/", "/pass@1"
_SKIPPED = "eval/skipped"


def step_evaluation_blocks(arms: Sequence[Arm]) -> list[Block]:
    """Return a figure for each data set and a table of the runs; nothing where no policy was evaluated."""
    found = [
        (number, arm, run) for number, arm in enumerate(arms) for run in arm.runs if EVALUATION_STAGE in run.curves
    ]
    datasets = dict.fromkeys(name for _, _, run in found for name in _datasets(run.curves[EVALUATION_STAGE]))
    blocks: list[Block] = [_figure(name, found) for name in datasets]
    rows = tuple(row for _, arm, run in found for row in _rows(arm, run))
    if not rows:
        return []
    caption = (
        "Evaluations while the policy trained (evaluation.every_steps): few problems, the same at every step. The "
        "highest of many values is too high as an estimate; evaluate that checkpoint on other problems."
    )
    header = ("run", "problems", "evaluated", "skipped", "highest Pass@1", "95 % interval", "after step")
    return [*blocks, Table(caption, header, rows, text_columns=(0, 1))]


def _figure(dataset: str, found: Sequence[tuple[int, Arm, SavedRun]]) -> Figure:
    traces = [
        _trace(number, arm, run, values)
        for number, arm, run in found
        if (values := _values(run.curves[EVALUATION_STAGE], dataset)) is not None
    ]
    caption = f"Every point is one policy; bars are {RULE}. A step without a point skipped its turn, or was not due."
    layout: dict[str, Any] = {"yaxis": {"tickformat": ".0%", "rangemode": "tozero"}}
    return Figure(f"Pass@1 on {dataset} while training", caption, tuple(traces), "optimizer steps", "Pass@1", layout)


def _trace(number: int, arm: Arm, run: SavedRun, values: dict[str, Any]) -> Trace:
    colour = arm_colour(number)
    name = arm.name if len(arm.runs) == 1 else f"{arm.name}, {run.name}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": rounded(values["steps"]),
        "y": rounded(values["value"]),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(values["high"] - values["value"]),
            "arrayminus": rounded(values["value"] - values["low"]),
            "color": colour,
            "thickness": 1,
        },
        "line": {"color": colour, "width": 2, "dash": arm_dash(number)},
        "marker": {"color": colour},
    }


def _rows(arm: Arm, run: SavedRun) -> Iterator[tuple[str, ...]]:
    training = run.curves.get(TRAIN_STAGE)
    told = None if training is None else training.metrics.get(_SKIPPED)
    skipped = 0 if told is None else int(np.nansum(told))
    for dataset in _datasets(run.curves[EVALUATION_STAGE]):
        values = _values(run.curves[EVALUATION_STAGE], dataset)
        if values is None:
            continue
        best = len(values["value"]) - 1 - int(np.argmax(values["value"][::-1]))  # of equal ones the last
        interval = f"{100 * values['low'][best]:.1f} to {100 * values['high'][best]:.1f} %"
        yield (
            f"{arm.name}, {run.name}",
            dataset,
            f"{len(values['value'])}",
            f"{skipped}",
            f"{100 * values['value'][best]:.1f}\u00a0%",
            interval,
            f"{int(values['steps'][best]):,}",
        )


def _datasets(curves: Curves) -> list[str]:
    return [
        name[len(_BEGIN) : -len(_END)] for name in curves.metrics if name.startswith(_BEGIN) and name.endswith(_END)
    ]


def _values(curves: Curves, dataset: str) -> dict[str, Any] | None:
    """Steps in order, Pass@1 and its bounds; None where there is none."""
    name = f"{_BEGIN}{dataset}{_END}"
    columns = {"steps": curves.steps, "value": curves.metrics.get(name)}
    columns |= {"low": curves.metrics.get(f"{name}/ci_low"), "high": curves.metrics.get(f"{name}/ci_high")}
    if any(column is None for column in columns.values()):
        return None
    known = {key: column for key, column in columns.items() if column is not None}
    is_there = np.isfinite(known["value"])
    order = np.argsort(known["steps"][is_there], kind="stable")
    return {key: column[is_there][order] for key, column in known.items()} if is_there.any() else None
