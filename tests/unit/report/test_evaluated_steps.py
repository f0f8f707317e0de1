"""Pass@1 while the policy trained: a curve with its intervals, the best step, what was skipped."""

from pathlib import Path

import numpy as np
import pytest

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Figure, Table
from wmtp_ray.report.saved_run import Curves, SavedRun
from wmtp_ray.report.sections.evaluated_steps import step_evaluation_blocks

NAN = float("nan")


def run_of(name: str, evaluations: Curves | None) -> SavedRun:
    skipped = Curves(np.arange(6.0), {"eval/skipped": np.array([NAN, 0.0, NAN, 1.0, NAN, 0.0])})
    curves = {2: skipped} if evaluations is None else {2: skipped, 3: evaluations}
    return SavedRun(name, Path(name), {"seed": 1}, curves)


def evaluated() -> Curves:
    """As metrics.jsonl may have it: the numbers of step 6 came before those of step 2, whose set had another name."""
    return Curves(
        np.array([0.0, 6.0, 2.0, 4.0]),
        {
            "eval/mbpp/pass@1": np.array([0.0, 0.5, 0.5, NAN]),
            "eval/mbpp/pass@1/ci_low": np.array([0.0, 0.25, 0.2, NAN]),
            "eval/mbpp/pass@1/ci_high": np.array([0.3, 0.75, 0.8, NAN]),
            "eval/seconds": np.array([1.0, 1.0, 1.0, 1.0]),
        },
    )


def test_a_curve_has_the_steps_in_their_order_with_intervals():
    figure, table = step_evaluation_blocks([Arm("td", (run_of("a", evaluated()), run_of("b", None)))])
    assert isinstance(figure, Figure)
    assert figure.title == "Pass@1 on mbpp while training"
    [trace] = figure.traces
    assert (trace["x"], trace["y"]) == ([0.0, 2.0, 6.0], [0.0, 0.5, 0.5])
    assert trace["error_y"]["array"] == pytest.approx([0.3, 0.3, 0.25])
    assert trace["error_y"]["arrayminus"] == pytest.approx([0.0, 0.3, 0.25])
    assert isinstance(table, Table)
    [row] = table.rows
    assert row == ("td, a", "mbpp", "3", "1", "50.0\u00a0%", "25.0 to 75.0 %", "6"), (
        "of equal ones the last is the best"
    )


def test_runs_without_evaluations_show_nothing():
    assert step_evaluation_blocks([Arm("td", (run_of("b", None),))]) == []
