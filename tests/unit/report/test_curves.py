"""Curves are thinned without inventing numbers."""

from pathlib import Path

import numpy as np
import pytest

from wmtp_ray.report.arms import Arm
from wmtp_ray.report.curves import MAX_POINTS, curve_figure, thinned
from wmtp_ray.report.saved_run import Curves, SavedRun


def arm(*columns: list[float]) -> Arm:
    runs = [
        SavedRun(f"r{seed}", Path(), {"seed": seed}, {2: Curves(np.arange(len(c), dtype=float), {"m": np.array(c)})})
        for seed, c in enumerate(columns)
    ]
    return Arm("arm", tuple(runs))


def test_a_short_run_keeps_every_step() -> None:
    found = thinned(arm([1.0, 2.0, 4.0]), "m")
    assert found is not None
    assert (found.steps.tolist(), found.middle.tolist(), found.steps_per_bin) == ([0.0, 1.0, 2.0], [1.0, 2.0, 4.0], 1)


def test_a_long_run_has_at_most_so_many_points_and_their_means() -> None:
    values = list(np.random.default_rng(0).normal(size=10 * MAX_POINTS + 1))
    found = thinned(arm(values), "m")
    assert found is not None
    assert len(found.steps) <= MAX_POINTS
    width = found.steps_per_bin
    assert found.middle[0] == pytest.approx(np.mean(values[:width]))
    assert found.middle[-1] == pytest.approx(np.mean(values[(len(values) - 1) // width * width :]))
    assert np.all((found.low <= found.middle) & (found.middle <= found.high))


def test_seeds_are_averaged_and_the_band_spans_them() -> None:
    found = thinned(arm([1.0, 1.0], [3.0, 5.0]), "m")
    assert found is not None
    assert (found.middle.tolist(), found.low.tolist(), found.high.tolist()) == ([2.0, 3.0], [1.0, 1.0], [3.0, 5.0])


def test_a_run_that_ended_earlier_does_not_bend_the_others() -> None:
    found = thinned(arm([1.0], [1.0, 5.0, np.nan]), "m")
    assert found is not None
    assert found.middle.tolist() == [1.0, 5.0]


def test_what_nobody_reports_has_no_figure() -> None:
    assert thinned(arm([np.nan]), "m") is None
    assert curve_figure([arm([1.0])], "absent", title="", y_title="", caption="") is None
