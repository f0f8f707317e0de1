"""Filters count every row once; held-out problems depend on their names only; the cap takes a fair draw."""

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import DataError, PlanError
from wmtp_ray.plan.candidates import candidate_rows, held_out_problems, rows_in_languages, within_problem_cap
from wmtp_ray.plan.problem_classes import class_of_problems

MakeIndex = Callable[..., RowIndex]
ALL_ROWS = {"max_tokens": 1000, "correct_only": False, "languages": None}
CLASSES = ("both", "only_correct", "only_incorrect")
CODES = {"unknown": 0, "python2": 1, "cpp": 2, "python3": 3, "java": 4}


def class_of(index: RowIndex, problem: int, codes: list[int] | None) -> str:
    """The class of a problem by its rows in the languages, held out or too long as they may be."""
    rows = [row for row in range(len(index)) if index.problem_R[row] == problem]
    labels = {bool(index.is_correct_R[row]) for row in rows if codes is None or index.language_R[row] in codes}
    return {(True, False): "only_correct", (False, True): "only_incorrect"}.get(
        (True in labels, False in labels), "both"
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    correct_only=st.booleans(),
    max_tokens=st.integers(8, 110),
    languages=st.none() | st.lists(st.sampled_from(sorted(CODES)), min_size=1),
    classes=st.none() | st.lists(st.sampled_from(CLASSES), min_size=1),
)
def test_candidates_are_exactly_the_rows_that_pass_every_filter(
    make_index: MakeIndex,
    seed: int,
    correct_only: bool,
    max_tokens: int,
    languages: list[str] | None,
    classes: list[str] | None,
) -> None:
    index = make_index(100, seed=seed, num_problems=40, languages=np.random.default_rng(seed).integers(0, 6, 100))
    held_out = held_out_problems(index, 0.2, seed)
    codes = None if languages is None else [CODES[language] for language in languages]
    is_asked_P = [classes is None or class_of(index, problem, codes) in classes for problem in range(40)]
    before_classes = [
        row
        for row in range(len(index))
        if not held_out[index.problem_R[row]]
        and (index.is_correct_R[row] or not correct_only)
        and (codes is None or index.language_R[row] in codes)
    ]
    filters = {"max_tokens": max_tokens, "correct_only": correct_only, "languages": languages}
    if classes is not None and not any(is_asked_P[index.problem_R[row]] for row in before_classes):
        with pytest.raises(PlanError, match=rf"leaves no row: of 100 rows.* {len(before_classes)} remain"):
            candidate_rows(index, held_out_P=held_out, **filters, problem_classes=classes)
        return
    found = candidate_rows(index, held_out_P=held_out, **filters, problem_classes=classes)
    expected = [
        row
        for row in range(len(index))
        if not held_out[index.problem_R[row]]
        and (index.is_correct_R[row] or not correct_only)
        and (codes is None or index.language_R[row] in codes)
        and is_asked_P[index.problem_R[row]]
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


@pytest.mark.parametrize(
    ("classes", "rows", "dropped"),
    [
        (None, [0, 1, 2, 3, 4, 5], None),
        (["both"], [0, 1], 4),
        (["only_correct"], [2, 3], 4),
        (["only_incorrect"], [4, 5], 4),
        (["only_incorrect", "both"], [0, 1, 4, 5], 2),
        (["both", "only_correct", "only_incorrect"], [0, 1, 2, 3, 4, 5], 0),
    ],
)
def test_classes_of_problems_keep_their_rows_and_count_the_others(
    make_index: MakeIndex, classes: list[str] | None, rows: list[int], dropped: int | None
) -> None:
    index = one_problem_of_each_class(make_index)
    found = candidate_rows(index, held_out_P=np.zeros(3, dtype=bool), **ALL_ROWS, problem_classes=classes)
    assert found.row_ids_C.tolist() == rows
    assert found.left_out.get("of problems of another class (train.sampling.problem_classes)") == dropped


def test_the_class_of_a_problem_is_that_of_all_its_rows_whatever_rows_are_asked_for(make_index: MakeIndex) -> None:
    """Correct rows of solved problems that also have incorrect ones: what FAIT or an edit-wise arm compares."""
    index = one_problem_of_each_class(make_index)
    filters = {**ALL_ROWS, "correct_only": True}
    found = candidate_rows(index, held_out_P=np.zeros(3, dtype=bool), **filters, problem_classes=["both"])
    assert index.is_correct_R[found.row_ids_C].all()
    assert set(index.problem_R[found.row_ids_C].tolist()) == {0}
    assert len(found.row_ids_C) == 1


def test_a_class_without_rows_is_refused_with_the_numbers_of_every_class(make_index: MakeIndex) -> None:
    index = one_problem_of_each_class(make_index)
    filters = {**ALL_ROWS, "correct_only": True}
    with pytest.raises(PlanError) as refused:
        candidate_rows(index, held_out_P=np.zeros(3, dtype=bool), **filters, problem_classes=["only_incorrect"])
    message = str(refused.value)
    assert "train.sampling.problem_classes=[only_incorrect] leaves no row: of 6 rows" in message
    assert "3 incorrect (data.policy_rows=correct_only), 3 remain" in message
    assert "1 of both, 2 of only_correct, 0 of only_incorrect" in message


def test_the_classes_of_millions_of_rows_take_well_under_a_second(make_index: MakeIndex) -> None:
    index = make_index(3_700_000, num_problems=10_500)
    start = time.process_time()
    class_of_problems(index, rows_in_languages(index, ["python3"]))
    assert time.process_time() - start < 1.0


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


def one_problem_of_each_class(make_index: MakeIndex) -> RowIndex:
    labels = [True, False, True, True, False, False]
    return make_index(6, num_problems=3, problems=[0, 0, 1, 1, 2, 2], correct=labels)


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
