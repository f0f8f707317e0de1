"""Intervals over problems: against scipy's, against the bootstrap, and against how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from wmtp_ray.evaluation.intervals import difference_bounds, mean_bounds


def solved(number: int, problems: int) -> np.ndarray:
    return np.array([1.0] * number + [0.0] * (problems - number))


@pytest.mark.parametrize("problems", [1, 3, 164])
def test_none_or_all_solved_is_wilsons_interval(problems):
    for number in (0, problems):
        expected = binomtest(number, problems).proportion_ci(method="wilson")
        low, high = mean_bounds(solved(number, problems), 0)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0.0 <= low < high <= 1.0


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_is_never_narrower_than_wilsons(case):
    number, problems = case
    expected = binomtest(number, problems).proportion_ci(method="wilson")
    low, high = mean_bounds(solved(number, problems), 0)
    assert low <= expected.low + 1e-9
    assert high >= expected.high - 1e-9


def test_an_interval_is_never_narrower_than_the_quantiles_of_resampled_means():
    rates = np.array([1.0, 0.5, 0.0, 0.5, 0.25, 0.75])
    random = np.random.default_rng(1)
    means = sorted(rates[random.integers(6, size=6)].mean() for _ in range(4000))
    low, high = mean_bounds(rates, 7)
    assert low <= means[100] + 0.02
    assert high >= means[3900] - 0.02
    assert (low, high) == mean_bounds(rates, 7)


@pytest.mark.parametrize("chance", [0.02, 0.2, 0.5, 0.97])
def test_the_interval_holds_the_chance_at_least_as_often_as_it_says(chance):
    """Weighted by how often each number of 30 problems is solved."""
    problems, held = 30, 0.0
    for number in range(problems + 1):
        low, high = mean_bounds(solved(number, problems), 0)
        if low <= chance <= high:
            held += _probability(number, problems, chance)
    assert held >= 0.93


def _probability(number: int, problems: int, chance: float) -> float:
    from scipy.stats import binom

    return float(binom.pmf(number, problems, chance))


@pytest.mark.parametrize(("problems", "most"), [(1, 0.7935), (3, 0.5615), (164, 0.0229)])
def test_problems_that_agree_leave_room_for_a_difference(problems, most):
    low, high = difference_bounds(np.zeros(problems), 0)
    assert (-low, high) == pytest.approx((most, most), abs=1e-4)


def test_a_difference_turns_round_with_its_sign_and_tells_a_clear_one_from_none():
    gains = np.array([1.0] * 10 + [-1.0] * 2 + [0.0] * 88)
    low, high = difference_bounds(gains, 0)
    back_low, back_high = difference_bounds(-gains, 0)
    assert (low, high) == pytest.approx((-back_high, -back_low), abs=0.02)
    assert 0.0 < low < 0.08 < high
    few = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert difference_bounds(few, 0)[0] < 0.0


def test_differences_of_rates_are_as_narrow_as_their_spread_and_no_narrower_than_students():
    rates = np.array([0.05, 0.1, 0.05])
    half = 4.3027 * rates.std(ddof=1) / np.sqrt(3)
    assert difference_bounds(rates, 0) == pytest.approx((rates.mean() - half, rates.mean() + half), abs=1e-4)
    low, high = difference_bounds(np.array([0.1] * 40 + [0.0] * 4), 0)
    assert 0.08 < low < high < 0.102


def test_a_difference_of_pairs_solves_tangos_equation():
    """12 gains and 4 losses among 50: at its ends the score is the normal quantile, with rates found by search."""
    gains, losses, pairs = 12, 4, 50
    values = np.array([1.0] * gains + [-1.0] * losses + [0.0] * (pairs - gains - losses))
    for end in difference_bounds(values, 0):
        rates = np.linspace(max(0.0, -end) + 1e-9, (1.0 - end) / 2.0 - 1e-9, 200_001)
        likelihood = losses * np.log(rates) + gains * np.log(rates + end)
        likelihood += (pairs - gains - losses) * np.log(1.0 - 2.0 * rates - end)
        rate = rates[likelihood.argmax()]
        score = (gains - losses - pairs * end) / np.sqrt(pairs * (2.0 * rate + end * (1.0 - end)))
        assert abs(score) >= 1.9599
