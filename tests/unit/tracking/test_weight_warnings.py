"""A run says of its weights that they did nothing, or left nothing, with the setting that mends it."""

import pytest

from wmtp_ray.contracts import IN_FINISH, StepReport
from wmtp_ray.tracking.weight_warnings import weight_warnings


def warnings(nano, kind, *, std, dropped=0.0, stage=2):
    words = ("recipe=rho1_weighted",) if kind == "rho1" else (f"weighting.type={kind}",)
    metrics = [{"weight/std": std + shift, "weight/dropped_frac": dropped} for shift in (-0.01, 0.01)]
    return weight_warnings(nano.load(*words).weighting, [StepReport(stage, s, m) for s, m in enumerate(metrics)])


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("td", "Lower weighting.beta (0.9), or set weighting.advantage_norm=batch"),
        ("shuffled", "Lower weighting.beta (0.9), or set weighting.advantage_norm=batch"),
        ("drop", "Lower weighting.drop_below (0.1)"),
        ("signed", "Lower weighting.beta (0.9)"),
        ("diff", "Take weighting.diff_weight (2.0) further from 1"),
    ],
)
def test_flat_weights_are_told_with_what_sharpens_them(nano, kind, remedy):
    (told,) = warnings(nano, kind, std=0.04)
    assert "standard deviation was 0.040 on average, below 0.05" in told
    assert told.endswith(f"weighting.type=uniform. {remedy}")
    assert warnings(nano, kind, std=0.06) == []
    assert warnings(nano, kind, std=0.04, stage=1) == []


def test_the_equal_weights_of_a_finish_do_not_count(nano):
    weighting = nano.load("weighting.type=td").weighting
    steps = [{"weight/std": 0.06}, *[{"weight/std": 0.0, IN_FINISH: 1.0}] * 9]
    assert weight_warnings(weighting, [StepReport(2, step, metrics) for step, metrics in enumerate(steps)]) == []


@pytest.mark.parametrize("kind", ["uniform", "dft", "rho1", "oracle_drop"])
def test_arms_without_such_a_setting_say_nothing(nano, kind):
    assert warnings(nano, kind, std=0.0) == []


def test_a_threshold_that_drops_nearly_all_is_to_be_raised(nano):
    (told,) = warnings(nano, "drop", std=0.03, dropped=0.999)
    assert "99.9% of the tokens were dropped" in told
    assert "Raise weighting.drop_below (0.1)" in told
    assert warnings(nano, "drop", std=0.5, dropped=0.5) == []
    assert warnings(nano, "rho1", std=0.2, dropped=0.95) == []
