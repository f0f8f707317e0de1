"""Filters count every row once; held-out problems depend on their names only; the cap takes a fair draw."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import DataError
from wmtp_ray.plan.candidates import candidate_rows, held_out_problems, within_problem_cap

MakeIndex = Callable[..., RowIndex]
CODES = {"unknown": 0, "python2": 1, "cpp": 2, "python3": 3, "java": 4}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    correct_only=st.booleans(),
    max_tokens=st.integers(8, 110),
    languages=st.none() | st.lists(st.sampled_from(sorted(CODES)), min_size=1),
)
def test_candidates_are_exactly_the_rows_that_pass_every_filter(
    make_index: MakeIndex, seed: int, correct_only: bool, max_tokens: int, languages: list[str] | None
) -> None:
    index = make_index(100, seed=seed, languages=np.random.default_rng(seed).integers(0, 6, 100))
    held_out = held_out_problems(index, 0.2, seed)
    found = candidate_rows(
        index, held_out_P=held_out, max_tokens=max_tokens, correct_only=correct_only, languages=languages
    )
    codes = None if languages is None else [CODES[language] for language in languages]
    expected = [
        row
        for row in range(len(index))
        if not held_out[index.problem_R[row]]
        and (index.is_correct_R[row] or not correct_only)
        and (codes is None or index.language_R[row] in codes)
        and index.prompt_tokens_R[row] + index.response_tokens_R[row] <= max_tokens
    ]
    assert found.row_ids_C.tolist() == expected
    assert sum(found.left_out.values()) + len(expected) == len(index)


def test_a_row_counts_at_its_first_filter(make_index: MakeIndex) -> None:
    index = make_index(
        5,
        num_problems=2,
        problems=[0, 1, 1, 1, 1],
        languages=[1, 1, 3, 3, 3],
        correct=[False, False, False, True, True],
        prompt_tokens=[9, 9, 9, 9, 1],
        response_tokens=[9, 9, 9, 9, 1],
    )
    found = candidate_rows(
        index, held_out_P=np.array([True, False]), max_tokens=8, correct_only=True, languages=["python3"]
    )
    assert list(found.left_out.values()) == [1, 1, 1, 1]
    assert found.left_out["in another language (data.languages)"] == 1
    assert found.row_ids_C.tolist() == [4]


def test_uncounted_rows_are_refused_unless_filtered_out(make_index: MakeIndex) -> None:
    index = make_index(
        2, num_problems=2, problems=[0, 1], correct=[True, False], prompt_tokens=[3, -1], response_tokens=[3, -1]
    )
    nothing_held_out = np.zeros(2, dtype=bool)
    kept = candidate_rows(index, held_out_P=nothing_held_out, max_tokens=8, correct_only=True, languages=None)
    assert kept.row_ids_C.tolist() == [0]
    with pytest.raises(DataError, match=r"1 of 2 rows .* no token counts"):
        candidate_rows(index, held_out_P=nothing_held_out, max_tokens=8, correct_only=False, languages=None)


@pytest.mark.parametrize("frac", [0.05, 0.3, 0.8])
def test_new_problems_move_no_held_out_problem(make_index: MakeIndex, frac: float) -> None:
    few, many = make_index(num_problems=200), make_index(num_problems=400)
    assert held_out_problems(many, frac, 1)[:200].tolist() == held_out_problems(few, frac, 1).tolist()


def test_the_held_out_share_is_about_the_fraction(make_index: MakeIndex) -> None:
    assert held_out_problems(make_index(num_problems=4000), 0.1, 3).mean() == pytest.approx(0.1, abs=0.02)


@given(num_problems=st.integers(2, 30), frac=st.floats(0.001, 1.0), seed=st.integers())
def test_at_least_one_problem_is_held_out_and_one_is_not(
    make_index: MakeIndex, num_problems: int, frac: float, seed: int
) -> None:
    held_out = held_out_problems(make_index(5, num_problems=num_problems, problems=[0] * 5), frac, seed)
    assert 1 <= held_out.sum() < num_problems


def test_nothing_is_held_out_at_fraction_zero_or_of_a_single_problem(make_index: MakeIndex) -> None:
    assert not held_out_problems(make_index(), 0.0, 1).any()
    assert not held_out_problems(make_index(5, num_problems=1), 0.5, 1).any()


def test_the_seed_chooses_other_problems(make_index: MakeIndex) -> None:
    index = make_index(num_problems=100)
    assert held_out_problems(index, 0.5, 1).tolist() != held_out_problems(index, 0.5, 2).tolist()


@settings(max_examples=60, deadline=None)
@given(
    problems=st.lists(st.integers(0, 5), max_size=200),
    cap=st.integers(1, 60),
    seed=st.integers(0, 1000),
    num_problems=st.sampled_from([6, 500]),
)
def test_a_problem_keeps_its_cap_or_all_of_its_rows(
    make_index: MakeIndex, problems: list[int], cap: int, seed: int, num_problems: int
) -> None:
    index = make_index(len(problems), problems=problems, num_problems=num_problems)
    row_ids = np.arange(len(problems), dtype=np.int64)[::2]
    kept = row_ids[within_problem_cap(index, row_ids, cap, seed)]
    given = Counter(problems[::2])
    assert Counter(problems[row] for row in kept) == {problem: min(cap, rows) for problem, rows in given.items()}


def test_the_cap_draws_every_row_of_a_problem_equally_often(make_index: MakeIndex) -> None:
    index = make_index(40, problems=[0] * 10 + [1] * 30)
    times_kept = np.zeros(40)
    for seed in range(2000):
        times_kept += within_problem_cap(index, np.arange(40), 5, seed)
    # 2,000 draws at 1/2 and 1/6 have standard deviations of 22 and 17
    assert np.abs(times_kept[:10] - 1000).max() < 5 * 22
    assert np.abs(times_kept[10:] - 2000 / 6).max() < 5 * 17


def test_the_cap_draws_the_same_rows_for_the_same_seed(make_index: MakeIndex) -> None:
    index, row_ids = make_index(300), np.arange(300)
    assert (within_problem_cap(index, row_ids, 7, 1) == within_problem_cap(index, row_ids, 7, 1)).all()
    assert (within_problem_cap(index, row_ids, 7, 1) != within_problem_cap(index, row_ids, 7, 2)).any()
