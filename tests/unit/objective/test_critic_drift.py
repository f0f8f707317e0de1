"""Drift of a value path beside a loop over states."""

import math

import pytest
import torch

from wmtp_ray.objective.critic_drift import ValueReading, drift


def reading(values: list[float], hidden: list[list[float]]) -> ValueReading:
    return ValueReading(torch.tensor(values), torch.tensor(hidden))


START = reading([0.2, 0.5, 0.9, 1.4, -0.3], [[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
NOW = reading([0.3, 0.4, 0.9, 0.7, 0.2], [[0.0, 2.0], [2.0, 4.0], [0.0, -1.0]])


def test_nothing_has_moved_at_the_start():
    distances = drift(START, START)
    assert distances == pytest.approx(
        {"drift_kl": 0.0, "drift_value": 0.0, "drift_cosine": 0.0, "drift_correlation": 1.0}, abs=1e-9
    )


def test_each_distance_equals_a_loop_over_states():
    pairs = list(zip(START.values_S.tolist(), NOW.values_S.tolist(), strict=True))
    kl = 0.0
    for start, now in pairs:
        p, q = min(max(start, 0.01), 0.99), min(max(now, 0.01), 0.99)
        kl += (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / len(pairs)
    means = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    covariance, *variances = (
        sum((pair[i] - means[i]) * (pair[j] - means[j]) for pair in pairs) for i, j in ((0, 1), (0, 0), (1, 1))
    )
    expected = {
        "drift_kl": kl,
        "drift_value": sum(abs(now - start) for start, now in pairs) / len(pairs),
        "drift_cosine": (1.0 + 0.0 + 2.0) / 3,  # a quarter turn, the same direction, the opposite one
        "drift_correlation": covariance / math.sqrt(variances[0] * variances[1]),
    }
    assert drift(START, NOW) == pytest.approx(expected, rel=1e-6)


def test_kl_counts_from_the_start_and_is_finite_where_v_leaves_the_unit_interval():
    there, back = drift(START, NOW)["drift_kl"], drift(NOW, START)["drift_kl"]
    assert there != pytest.approx(back)
    assert math.isfinite(drift(START, reading([-5.0] * 5, [[1.0, 0.0]] * 3))["drift_kl"])


def test_a_constant_v_has_no_correlation():
    assert "drift_correlation" not in drift(reading([0.0] * 5, [[1.0, 0.0]] * 3), NOW)
