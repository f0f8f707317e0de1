"""Intervals and tests against enumeration and textbook numbers."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.report.statistics import compare_over_problems, compare_over_seeds


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=6))
def test_the_permutation_test_counts_all_changes_of_signs(differences: list[float]) -> None:
    found = compare_over_seeds(dict.fromkeys(range(len(differences)), 0.0), dict(enumerate(differences)))
    assert found is not None
    sums = [np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))]
    observed = sum(differences)
    one_sided = [
        np.mean([each >= observed - 1e-9 for each in sums]),
        np.mean([each <= observed + 1e-9 for each in sums]),
    ]
    assert found.permutation_p == pytest.approx(min(1.0, 2 * min(one_sided)))
    assert found.smallest_p == 2.0 / 2 ** len(differences)


def test_only_seeds_of_both_arms_are_compared() -> None:
    found = compare_over_seeds({1: 0.1, 2: 0.2, 9: 5.0}, {1: 0.3, 2: 0.1, 3: 7.0})
    assert found is not None
    assert (found.difference.count, found.num_positive, found.num_negative) == (2, 1, 1)
    assert found.difference.value == pytest.approx(0.05)
    assert compare_over_seeds({1: 0.1}, {2: 0.1}) is None


def test_one_seed_has_no_p_value_and_equal_seeds_have_p_one() -> None:
    one = compare_over_seeds({1: 0.1}, {1: 0.2})
    assert one is not None
    assert (one.wilcoxon_p, one.permutation_p, one.smallest_p) == (None, None, 1.0)
    equal = compare_over_seeds({1: 0.1, 2: 0.2}, {1: 0.1, 2: 0.2})
    assert equal is not None
    assert (equal.wilcoxon_p, equal.permutation_p) == (1.0, 1.0)


def test_wilcoxon_of_six_gains_is_the_smallest_p_there_is() -> None:
    found = compare_over_seeds(dict.fromkeys(range(6), 0.0), {seed: 0.1 * (seed + 1) for seed in range(6)})
    assert found is not None
    assert found.wilcoxon_p == pytest.approx(found.smallest_p) == pytest.approx(2 / 64)


def test_problems_are_compared_in_pairs() -> None:
    before, after = np.array([0.0, 1.0, 0.0, 1.0] * 25), np.array([0.0, 1.0, 1.0, 1.0] * 25)
    found = compare_over_problems(before, after)
    assert (found.num_better, found.num_worse, found.num_equal) == (25, 0, 75)
    assert found.difference.value == pytest.approx(0.25)
    assert found.difference.excludes_zero
    assert found.sign_p == pytest.approx(2 * 0.5**25)
    same = compare_over_problems(before, before)
    assert (same.difference.value, same.sign_p) == (0.0, 1.0)
    assert same.difference.low == pytest.approx(-0.037, abs=1e-3), "agreement on 100 problems proves no equality"
    assert same.difference.high == pytest.approx(0.037, abs=1e-3)
    assert not same.difference.excludes_zero
