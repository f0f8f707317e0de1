"""Rows within problems: caps, ratio, round-robin, and pairs of like length."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.pairs import (
    WithinProblemDraw,
    draw_balanced,
    draw_unbalanced,
    round_robin,
    rows_of_two_sided_problems,
)

MakeIndex = Callable[..., RowIndex]


def naive_matching(rows: list[tuple[int, bool]]) -> set[tuple[int, int]]:
    """Pair (length, is_correct) rows like brackets; returns the pairs of places, in order of length."""
    free: list[int] = []
    pairs = set()
    order = sorted(range(len(rows)), key=lambda place: (rows[place][0], place))
    for place in order:
        if free and rows[free[-1]][1] != rows[place][1]:
            pairs.add((free.pop(), place))
        else:
            free.append(place)
    return pairs


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 40))
def test_pairs_equal_a_naive_bracket_matching(make_index: MakeIndex, data: st.DataObject, num_rows: int) -> None:
    lengths = data.draw(st.lists(st.integers(2, 30), min_size=num_rows, max_size=num_rows))
    correct = data.draw(st.lists(st.booleans(), min_size=num_rows, max_size=num_rows))
    problems = data.draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    index = make_index(num_rows, num_problems=3, problems=problems, correct=correct, response_tokens=lengths)
    drawn = draw_balanced(
        index, np.arange(num_rows), num_rows=10**6, correct_ratio=0.5, max_rows_per_problem=10**6, seed=0
    )
    expected = set()
    for problem in range(3):
        rows = [row for row in range(num_rows) if problems[row] == problem]
        for first, second in naive_matching([(lengths[row], correct[row]) for row in rows]):
            pair = (rows[first], rows[second])
            expected.add(pair if correct[pair[0]] else pair[::-1])
    assert {tuple(pair) for pair in drawn.pairs_U2.tolist()} == expected
    assert len(drawn.singles_N) == 0
    near = [
        pair for pair in expected if abs(lengths[pair[0]] - lengths[pair[1]]) <= 0.1 * max(lengths[i] for i in pair)
    ]
    assert drawn.num_length_matched_pairs == len(near)


def test_the_modules_example_of_matching(make_index: MakeIndex) -> None:
    lengths = [10, 12, 15, 40, 41, 90]
    correct = [True, True, False, False, True, False]
    index = make_index(6, num_problems=1, problems=[0] * 6, correct=correct, response_tokens=lengths)
    drawn = draw_balanced(index, np.arange(6), num_rows=6, correct_ratio=0.5, max_rows_per_problem=6, seed=0)
    assert {(lengths[a], lengths[b]) for a, b in drawn.pairs_U2.tolist()} == {(12, 15), (10, 40), (41, 90)}
    assert drawn.num_length_matched_pairs == 0


def test_length_matched_pairs_come_first(make_index: MakeIndex) -> None:
    lengths = [10, 30, 60, 61, 100, 300]
    correct = [True, False, True, False, True, False]
    index = make_index(6, num_problems=1, problems=[0] * 6, correct=correct, response_tokens=lengths)
    for seed in range(5):
        drawn = draw_balanced(index, np.arange(6), num_rows=2, correct_ratio=0.5, max_rows_per_problem=6, seed=seed)
        assert drawn.pairs_U2.tolist() == [[2, 3]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_rows=st.integers(0, 300), cap=st.integers(1, 30), ratio=st.floats(0.05, 0.95))
def test_draws_stay_within_rows_caps_and_total(
    make_index: MakeIndex, seed: int, num_rows: int, cap: int, ratio: float
) -> None:
    index = make_index(200, seed=seed)
    allowed = np.arange(0, 200, 2)
    for drawn in (
        draw_balanced(index, allowed, num_rows=num_rows, correct_ratio=ratio, max_rows_per_problem=cap, seed=seed),
        draw_balanced(index, allowed, num_rows=num_rows, correct_ratio=0.5, max_rows_per_problem=cap, seed=seed),
        draw_unbalanced(index, allowed, num_rows=num_rows, max_rows_per_problem=cap, seed=seed),
    ):
        rows = drawn.ordered(seed, 0).tolist()
        assert len(set(rows)) == len(rows) == drawn.num_rows <= num_rows
        assert set(rows) <= set(allowed.tolist())
        assert max(Counter(index.problem_R[rows].tolist()).values(), default=0) <= cap
        for correct_row, incorrect_row in drawn.pairs_U2.tolist():
            assert index.problem_R[correct_row] == index.problem_R[incorrect_row]
            assert index.is_correct_R[correct_row]
            assert not index.is_correct_R[incorrect_row]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_the_ratio_holds_over_problems_together(make_index: MakeIndex, ratio: float) -> None:
    index = make_index(6000, num_problems=300)
    drawn = draw_balanced(index, np.arange(6000), num_rows=1200, correct_ratio=ratio, max_rows_per_problem=8, seed=1)
    assert drawn.num_rows == 1200
    assert index.is_correct_R[drawn.ordered(0, 0)].mean() == pytest.approx(ratio, abs=0.0 if ratio == 0.5 else 0.03)


@given(
    limits=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    total=st.integers(0, 150),
    rows_at_a_time=st.sampled_from([1, 2]),
)
def test_round_robin_equals_taking_turns(limits: list[int], total: int, rows_at_a_time: int) -> None:
    taken = round_robin(np.array(limits), total, rows_at_a_time, 0)
    naive, left = [0] * len(limits), total
    for _ in range(max(limits) + 1):
        for problem in sorted(range(len(limits)), key=lambda problem: -taken[problem]):
            if naive[problem] + rows_at_a_time <= limits[problem] and left >= rows_at_a_time:
                naive[problem] += rows_at_a_time
                left -= rows_at_a_time
    assert taken.tolist() == naive


def test_round_robin_example() -> None:
    assert round_robin(np.array([2, 8, 5]), 10, 2, 0).tolist() == [2, 4, 4]


def test_one_sided_problems_give_nothing(make_index: MakeIndex) -> None:
    index = make_index(6, num_problems=3, problems=[0, 0, 1, 1, 2, 2], correct=[True, True, True, False, False, False])
    assert rows_of_two_sided_problems(index, np.arange(6)).tolist() == [2, 3]


@given(num_pairs=st.integers(0, 9), num_singles=st.integers(0, 9), epoch=st.integers(0, 3))
def test_pairs_stand_together_at_even_places(num_pairs: int, num_singles: int, epoch: int) -> None:
    pairs = np.arange(2 * num_pairs).reshape(-1, 2)
    singles = 100 + np.arange(num_singles)
    rows = WithinProblemDraw(pairs, singles, 0).ordered(5, epoch).tolist()
    assert sorted(rows) == [*range(2 * num_pairs), *singles.tolist()]
    for correct_row, incorrect_row in pairs.tolist():
        place = rows.index(correct_row)
        assert place % 2 == 0
        assert rows[place + 1] == incorrect_row
