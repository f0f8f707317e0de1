"""Pass@K against drawing every subset, its intervals against problems whose mean is known."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.evaluation.pass_at_k import Counts, compare_pass_at_k, estimate_pass_at_k, pass_at_k


@st.composite
def judged(draw: st.DrawFn) -> tuple[int, int, int]:
    num_samples = draw(st.integers(1, 9))
    return num_samples, draw(st.integers(0, num_samples)), draw(st.integers(1, num_samples))


@given(judged())
def test_it_is_the_share_of_all_subsets_that_hold_a_correct_sample(case):
    num_samples, num_correct, k = case
    samples = [n < num_correct for n in range(num_samples)]
    subsets = list(combinations(samples, k))
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("correct", "expected"), [(0, 0.0), (1, 0.5), (3, 1.0), (4, 1.0)])
def test_known_values_of_two_in_four(correct, expected):
    assert pass_at_k(4, correct, 2) == pytest.approx(expected)


def test_many_samples_do_not_overflow():
    assert pass_at_k(100_000, 1, 1) == pytest.approx(1e-5)
    assert pass_at_k(100_000, 50, 100_000) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_an_error_and_not_dropped(n, c, k):
    with pytest.raises(ValueError, match=r"k must lie between|expected between"):
        pass_at_k(n, c, k)


def test_the_interval_holds_the_true_mean_at_least_as_often_as_it_says():
    """120 evaluations of 40 problems whose probability of passing is drawn anew: the mean is 0.3."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        chances = random.beta(0.6, 1.4, size=40)
        counts = [Counts(5, int(random.binomial(5, chance))) for chance in chances]
        found = estimate_pass_at_k(counts, 1)
        covered += found.low <= 0.3 <= found.high
    assert covered / 120 >= 0.93


def test_a_pair_has_a_narrower_interval_than_its_parts():
    """Every problem differs from the others far more than from itself after a little training."""
    before = [Counts(10, n % 11) for n in range(44)]
    after = [Counts(10, min(10, n % 11 + 1)) for n in range(44)]
    alone, pair = estimate_pass_at_k(after, 1), compare_pass_at_k(before, after, 1)
    assert pair.value == pytest.approx(40 / 440)
    assert 0.0 < pair.low < pair.value < pair.high
    assert pair.high - pair.low < 0.2 * (alone.high - alone.low)


def test_the_interval_is_over_problems_however_many_samples_each_has():
    one, many = ([Counts(n, 0)] * 3 for n in (1, 20))
    found = estimate_pass_at_k(many, 1)
    assert found == estimate_pass_at_k(one, 1)
    assert (found.value, found.low, found.num_problems) == (0.0, 0.0, 3)
    assert found.high == pytest.approx(0.5615, abs=1e-4)


def test_equal_evaluations_differ_by_zero_and_are_not_proved_equal():
    counts = [Counts(3, 0)] * 3
    found = compare_pass_at_k(counts, counts, 3)
    assert found.value == 0.0
    assert -found.low == pytest.approx(found.high) == pytest.approx(0.5615, abs=1e-4)


def test_no_problem_and_unequal_problems_are_errors():
    with pytest.raises(ValueError, match="no problem"):
        estimate_pass_at_k([], 1)
    with pytest.raises(ValueError, match="2 problems before and 1 after"):
        compare_pass_at_k([Counts(1, 1)] * 2, [Counts(1, 1)], 1)
