"""The halves that the members of an ensemble learn from: complementary, seeded, by problem alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.errors import PlanError
from wmtp_ray.plan.problem_halves import ProblemHalves, learned_problems, require_rows_for_all

PINNED = [[1, 1, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0, 1]]
NAMES = [f"problem {number}" for number in range(400)]


@given(st.lists(st.text(max_size=8), max_size=30), st.integers(2, 7), st.integers())
def test_two_members_of_a_split_share_out_the_problems(names, num_members, seed):
    learns_NP = learned_problems(names, num_members, seed)
    assert learns_NP.shape == (num_members, len(names))
    for first, second in zip(learns_NP[0::2], learns_NP[1::2], strict=False):
        assert (first ^ second).all()


@given(st.integers(1, 4), st.integers())
def test_the_last_of_an_odd_number_has_the_first_half_of_its_split(splits, seed):
    even, odd = (learned_problems(NAMES[:50], members, seed) for members in (2 * splits, 2 * splits - 1))
    np.testing.assert_array_equal(odd, even[:-1])


@given(st.permutations(NAMES[:20]), st.integers(0, 20))
def test_a_problem_keeps_its_half_whatever_others_there_are(names, num_kept):
    known = dict(zip(NAMES, learned_problems(NAMES, 4, 7).T.tolist(), strict=True))
    kept = names[:num_kept]
    assert learned_problems(kept, 4, 7).T.tolist() == [known[name] for name in kept]


def test_halves_are_even_and_splits_and_seeds_draw_others():
    first, second = learned_problems(NAMES, 4, 7)[0], learned_problems(NAMES, 4, 7)[2]
    other = learned_problems(NAMES, 4, 8)[0]
    for half in (first, second, other):
        assert half.mean() == pytest.approx(0.5, abs=0.1)
    for one, two in ((first, second), (first, other)):
        assert (one == two).mean() == pytest.approx(0.5, abs=0.1)


def test_halves_are_the_same_on_every_machine():
    """The lowest bit of SHA-256's first byte of `7 US half US split US name`."""
    assert learned_problems(NAMES[:8], 3, 7).astype(int).tolist() == PINNED


def test_rows_of_a_problem_go_together(make_index):
    index = make_index(num_rows=200, num_problems=20)
    halves = ProblemHalves(index.problem_R, learned_problems(index.problem_names, 4, 1))
    learns_NR = halves.learns(np.arange(200))
    for problem in range(20):
        assert len(np.unique(learns_NR[:, index.problem_R == problem], axis=1).T) == 1


def test_a_member_that_would_see_one_class_alone_is_refused_and_others_are_counted(make_index):
    """Problem 0 has rows of both classes, problem 1 a correct one only."""
    index = make_index(num_rows=4, num_problems=2, problems=[0, 0, 1, 0], correct=[True, False, True, False])
    rows = np.array([0, 1, 2, 3, 0])
    both = ProblemHalves(index.problem_R, np.array([[True, False], [True, True]]))
    assert "learn from 3, 4 of the 4 rows" in require_rows_for_all(both, index, rows)
    halves = ProblemHalves(index.problem_R, np.array([[True, False], [False, True]]))
    with pytest.raises(PlanError, match=r"member 1 would learn from 1 correct and 0 incorrect.*critic\.ensemble=1"):
        require_rows_for_all(halves, index, rows)
