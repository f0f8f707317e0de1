"""Intervals: against scipy's, against the bootstrap, and against how often they hold the truth."""

import math
import subprocess
import sys
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from wmtp_ray.intervals import (
    Interval,
    difference_bounds,
    mean_bounds,
    normal_half_width,
    over_problems,
    over_seeds,
    statistic_over_problems,
)


def solved(number: int, problems: int) -> np.ndarray:
    return np.array([1.0] * number + [0.0] * (problems - number))


@pytest.mark.parametrize("problems", [1, 3, 164])
def test_none_or_all_solved_is_wilsons_interval(problems):
    for number in (0, problems):
        expected = binomtest(number, problems).proportion_ci(method="wilson")
        low, high = mean_bounds(solved(number, problems))
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0.0 <= low < high <= 1.0


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_is_never_narrower_than_wilsons(case):
    number, problems = case
    expected = binomtest(number, problems).proportion_ci(method="wilson")
    low, high = mean_bounds(solved(number, problems))
    assert low <= expected.low + 1e-9
    assert high >= expected.high - 1e-9


def test_an_interval_is_never_narrower_than_the_quantiles_of_resampled_means():
    rates = np.array([1.0, 0.5, 0.0, 0.5, 0.25, 0.75])
    random = np.random.default_rng(1)
    means = sorted(rates[random.integers(6, size=6)].mean() for _ in range(4000))
    low, high = mean_bounds(rates)
    assert low <= means[100] + 0.02
    assert high >= means[3900] - 0.02
    assert (low, high) == mean_bounds(rates)


@pytest.mark.parametrize("chance", [0.02, 0.2, 0.5, 0.97])
def test_the_interval_holds_the_chance_at_least_as_often_as_it_says(chance):
    """Weighted by how often each number of 30 problems is solved."""
    problems, held = 30, 0.0
    for number in range(problems + 1):
        low, high = mean_bounds(solved(number, problems))
        if low <= chance <= high:
            held += _probability(number, problems, chance)
    assert held >= 0.93


def _probability(number: int, problems: int, chance: float) -> float:
    from scipy.stats import binom

    return float(binom.pmf(number, problems, chance))


@pytest.mark.parametrize(("problems", "most"), [(1, 0.7935), (3, 0.5615), (164, 0.0229)])
def test_problems_that_agree_leave_room_for_a_difference(problems, most):
    low, high = difference_bounds(np.zeros(problems))
    assert (-low, high) == pytest.approx((most, most), abs=1e-4)


def test_a_difference_turns_round_with_its_sign_and_tells_a_clear_one_from_none():
    gains = np.array([1.0] * 10 + [-1.0] * 2 + [0.0] * 88)
    low, high = difference_bounds(gains)
    back_low, back_high = difference_bounds(-gains)
    assert (low, high) == pytest.approx((-back_high, -back_low), abs=0.02)
    assert 0.0 < low < 0.08 < high
    few = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert difference_bounds(few)[0] < 0.0


def test_differences_of_rates_are_as_narrow_as_their_spread_and_no_narrower_than_students():
    rates = np.array([0.05, 0.1, 0.05])
    half = 4.3027 * rates.std(ddof=1) / np.sqrt(3)
    assert difference_bounds(rates) == pytest.approx((rates.mean() - half, rates.mean() + half), abs=1e-4)
    low, high = difference_bounds(np.array([0.1] * 40 + [0.0] * 4))
    assert 0.08 < low < high < 0.102


def test_a_difference_of_pairs_solves_tangos_equation():
    """12 gains and 4 losses among 50: at its ends the score is the normal quantile, with rates found by search."""
    gains, losses, pairs = 12, 4, 50
    values = np.array([1.0] * gains + [-1.0] * losses + [0.0] * (pairs - gains - losses))
    for end in difference_bounds(values):
        rates = np.linspace(max(0.0, -end) + 1e-9, (1.0 - end) / 2.0 - 1e-9, 200_001)
        likelihood = losses * np.log(rates) + gains * np.log(rates + end)
        likelihood += (pairs - gains - losses) * np.log(1.0 - 2.0 * rates - end)
        rate = rates[likelihood.argmax()]
        score = (gains - losses - pairs * end) / np.sqrt(pairs * (2.0 * rate + end * (1.0 - end)))
        assert abs(score) >= 1.9599


def test_the_interval_agrees_with_the_normal_interval_of_many_problems():
    values = np.random.default_rng(0).choice([0.0, 1.0], size=2000, p=[0.7, 0.3])
    found = over_problems(values)
    half = 1.96 * np.sqrt(0.21 / 2000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert over_problems(values) == found, "the resamples are seeded"
    assert over_problems(np.zeros(1)).high == pytest.approx(0.7935, abs=1e-4), "one problem says little"


def test_equal_values_give_equal_bounds_in_another_process():
    rates = [0.5, 0.25, 1.0, 0.0, 0.75, 0.5, 0.25]
    asked = f"import numpy; from wmtp_ray.intervals import mean_bounds; print(mean_bounds(numpy.array({rates})))"
    printed = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(mean_bounds(np.array(rates)))


def test_the_bootstrap_draws_10000_resamples_from_seed_0():
    """Wilson's interval is narrower at both ends of these rates, so the bounds are the bootstrap's own."""
    rates = np.concatenate([np.linspace(0.99, 1.0, 20), np.linspace(0.0, 0.01, 20)])
    random = np.random.default_rng(0)
    means = np.concatenate([rates[random.integers(40, size=(250, 40))].mean(axis=1) for _ in range(40)])
    assert mean_bounds(rates) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=1e-12)


def test_over_seeds_it_is_students_with_the_tables_quantiles():
    values = [1.0, 2.0, 4.0]
    half = 4.302653 * stdev(values) / math.sqrt(3)  # t(0.975, 2)
    found = over_seeds(values)
    assert (found.value, found.count) == (fmean(values), 3)
    assert (found.low, found.high) == pytest.approx((fmean(values) - half, fmean(values) + half), rel=1e-6)
    one = over_seeds([1.5])
    assert (one.value, one.low, one.high, one.count) == (1.5, None, None, 1)


@settings(max_examples=30)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.floats(-10, 10), st.floats(0.1, 10))
def test_an_interval_over_seeds_moves_and_stretches_with_the_values(values, shift, scale):
    before, after = over_seeds(values), over_seeds([scale * value + shift for value in values])
    assert after.low == pytest.approx(scale * before.low + shift, abs=1e-6)
    assert after.high == pytest.approx(scale * before.high + shift, abs=1e-6)


def test_intervals_overlap_where_they_share_a_number():
    assert Interval(1.0, 0.0, 2.0, 3).overlaps(Interval(3.0, 2.0, 4.0, 3))
    assert not Interval(1.0, 0.0, 2.0, 3).overlaps(Interval(3.0, 2.1, 4.0, 3))
    assert Interval(1.0, None, None, 1).overlaps(Interval(9.0, 8.0, 10.0, 3)), "an unknown interval excludes nothing"


def test_a_normal_interval_reaches_196_standard_errors():
    assert normal_half_width(0.5) == pytest.approx(0.98, abs=1e-4)


def test_a_statistic_of_problems_is_resampled_as_a_mean_is() -> None:
    rates_P = np.array([0.0, 0.25, 0.5, 1.0, 1.0, 0.75, 0.5, 0.0])
    found = statistic_over_problems(lambda problems: float(rates_P[problems].mean()), len(rates_P))
    assert found is not None
    assert (found.value, found.count) == (0.5, 8)
    by_scipy = bootstrap((rates_P,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(9))
    assert found.low == pytest.approx(by_scipy.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(by_scipy.confidence_interval.high, abs=0.03)


def test_a_statistic_that_is_undefined_has_no_interval_and_its_undefined_resamples_do_not_count() -> None:
    assert statistic_over_problems(lambda problems: None, 5) is None
    one = statistic_over_problems(lambda problems: 0.5, 1)
    assert one == Interval(0.5, None, None, 1)
    only_whole = statistic_over_problems(lambda problems: 1.0 if len(set(problems.tolist())) == 3 else None, 3)
    assert only_whole == Interval(1.0, 1.0, 1.0, 3)
    never_again = statistic_over_problems(lambda problems: 1.0 if problems.tolist() == list(range(12)) else None, 12)
    assert never_again == Interval(1.0, None, None, 12)
