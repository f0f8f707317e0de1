"""V beside Monte-Carlo values, on prefixes whose numbers are computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from wmtp_ray.intervals import Interval
from wmtp_ray.objective.true_values import (
    AuditedPrefix,
    calibration_bins,
    next_token_accuracy,
    rank_correlation,
    value_agreement,
)


def prefix(problem: str, value: float, passed: int, *, pair: int | None = None, rollouts: int = 4) -> AuditedPrefix:
    return AuditedPrefix(problem, True, pair, 0, 3, value, passed, rollouts)


# Of each problem a state before the token, one after the better and one after the worse token.
TRUTH = [prefix("a", 0.5, 2), prefix("a", 1.0, 4, pair=0), prefix("a", 0.0, 0, pair=0)]
TRUTH += [prefix("b", 0.5, 2), prefix("b", 0.75, 3, pair=0), prefix("b", 0.25, 1, pair=0)]


def test_a_critic_that_knows_the_chances_ranks_prefers_and_is_calibrated() -> None:
    found = value_agreement(TRUTH)
    assert found is not None
    assert found.rank_correlation == Interval(pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 2)
    assert found.next_token.accuracy is not None
    assert found.next_token.accuracy.value == 1.0
    assert (found.next_token.num_pairs, found.next_token.num_equal, found.next_token.num_ties) == (2, 0, 0)
    assert found.calibration_error == 0.0
    assert (found.num_prefixes, found.num_problems, found.mean_value, found.mean_monte_carlo) == (6, 2, 0.5, 0.5)


def test_a_constant_critic_has_no_rank_correlation_and_the_accuracy_of_chance() -> None:
    found = value_agreement([replace(each, value=0.3) for each in TRUTH])
    assert found is not None
    assert found.rank_correlation is None
    assert found.next_token.accuracy is not None
    assert found.next_token.accuracy.value == 0.5
    assert found.next_token.num_ties == 2
    assert found.calibration_error == pytest.approx(0.2)  # it says .3 where half pass


def test_a_critic_that_says_the_opposite_is_as_wrong_as_can_be() -> None:
    found = value_agreement([replace(each, value=1.0 - each.value) for each in TRUTH])
    assert found is not None
    assert found.rank_correlation is not None
    assert found.rank_correlation.value == pytest.approx(-1.0)
    assert found.next_token.accuracy is not None
    assert found.next_token.accuracy.value == 0.0
    # Off by 1 twice, by 1/2 twice, by 0 twice.
    assert found.calibration_error == pytest.approx((1 + 1 + 0.5 + 0.5) / 6)


def test_equal_monte_carlo_values_tell_nothing_and_a_tie_of_v_is_half_right() -> None:
    pairs = [prefix("a", 0.9, 2, pair=0), prefix("a", 0.1, 2, pair=0)]  # equal
    pairs += [prefix("a", 0.4, 1, pair=1), prefix("a", 0.4, 3, pair=1)]  # a tie
    pairs += [prefix("b", 0.4, 1, pair=0), prefix("b", 0.6, 2, pair=0)]  # right
    found = next_token_accuracy([*pairs, prefix("b", 0.0, 4)])
    assert (found.num_pairs, found.num_equal, found.num_ties) == (2, 1, 1)
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.count) == (0.75, 2)
    assert next_token_accuracy(pairs[:2]).accuracy is None


def test_every_problem_counts_once_in_the_accuracy() -> None:
    right = [prefix("a", v, p, pair=pair) for pair in range(3) for v, p in ((0.9, 4), (0.1, 0))]
    wrong = [prefix("b", 0.1, 4, pair=0), prefix("b", 0.9, 0, pair=0)]
    found = next_token_accuracy([*right, *wrong]).accuracy
    assert found is not None
    assert found.value == 0.5


def test_a_pair_is_clear_where_chance_would_not_make_the_difference() -> None:
    # 20 of 32 and 12 of 32: pooled .5, standard error .125, difference .25 = 2 errors; 19 and 13: 1.5 errors.
    clear = [prefix("a", 0.2, 20, pair=0, rollouts=32), prefix("a", 0.3, 12, pair=0, rollouts=32)]
    unclear = [prefix("b", 0.6, 19, pair=0, rollouts=32), prefix("b", 0.3, 13, pair=0, rollouts=32)]
    found = next_token_accuracy([*clear, *unclear])
    assert (found.num_pairs, found.num_clear) == (2, 1)
    assert found.clear_accuracy is not None
    assert found.clear_accuracy.value == 0.0


def test_bins_hold_what_they_say_and_those_at_the_ends_what_lies_outside() -> None:
    bins = calibration_bins(np.array([-0.2, 0.05, 0.1, 1.0, 1.3]), np.array([0.0, 0.5, 0.25, 1.0, 0.5]))
    assert [(each.low, each.high, each.num_prefixes) for each in bins] == [(0.0, 0.1, 2), (0.1, 0.2, 1), (0.9, 1.0, 2)]
    assert [each.value for each in bins] == pytest.approx([-0.075, 0.1, 1.15])
    assert [each.monte_carlo for each in bins] == pytest.approx([0.25, 0.25, 0.75])


def test_prefixes_of_one_problem_are_resampled_together() -> None:
    one = value_agreement(TRUTH[:3])
    assert one is not None
    assert one.rank_correlation is not None
    assert (one.rank_correlation.low, one.rank_correlation.high, one.rank_correlation.count) == (None, None, 1)
    # In each problem V orders its two prefixes wrongly, between problems rightly: resamples of one problem give -1.
    mixed = [prefix("a", 0.1, 1), prefix("a", 0.2, 0), prefix("b", 0.8, 4), prefix("b", 0.9, 3)]
    found = value_agreement(mixed)
    assert found is not None
    assert found.rank_correlation is not None
    assert found.rank_correlation.low == pytest.approx(-1.0)
    assert found.rank_correlation.value == pytest.approx(0.6)


def test_no_prefix_gives_no_measure() -> None:
    assert value_agreement([]) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    x_N, y_N = np.array(pairs, np.float64).T
    found = rank_correlation(x_N, y_N)
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(x_N, y_N).statistic)
