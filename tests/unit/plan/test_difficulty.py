"""Difficulty by source: a code, a rating, or a percentile among problems that compare; 0 is unknown everywhere."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.difficulty import describe_difficulties, difficulty_of_rows, rows_by_difficulty

MakeIndex = Callable[..., RowIndex]


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[int]]:
    num_rows = draw(st.integers(1, 40))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=num_rows, max_size=num_rows))

    return {
        "problems": column(st.integers(0, 11)),
        "difficulties": column(st.integers(-1, 28)),
        "cf_ratings": column(st.sampled_from([-1, 0, 0, 800, 1200, 3500])),
        "sources": column(st.integers(0, 1)),
    }


def index_of(make_index: MakeIndex, columns: dict[str, list[int]]) -> RowIndex:
    return make_index(len(columns["problems"]), **columns)


def scale_and_grade(index: RowIndex, problem: int) -> tuple[tuple[int, str], int] | None:
    """The scale a problem is ranked on and its grade there, from the first of its rows; None where unknown."""
    rows = [row for row in range(len(index)) if index.problem_R[row] == problem]
    if not rows:
        return None
    source, code, rating = (int(column[rows[0]]) for column in (index.source_R, index.difficulty_R, index.cf_rating_R))
    if rating > 0:
        return (source, "rating"), rating
    if 1 <= code <= 5:
        return (source, "grade"), code
    return ((source, "letter"), code) if code >= 7 else None


@settings(max_examples=60, deadline=None)
@given(columns=columns())
def test_a_percentile_ranks_a_problem_among_those_of_its_scale(
    make_index: MakeIndex, columns: dict[str, list[int]]
) -> None:
    index = index_of(make_index, columns)
    graded = [scale_and_grade(index, problem) for problem in range(len(index.problem_names))]
    expected = []
    for row in range(len(index)):
        mine = graded[index.problem_R[row]]
        if mine is None:
            expected.append(0)
            continue
        grades = [other[1] for other in graded if other is not None and other[0] == mine[0]]
        easier, tied = sum(grade < mine[1] for grade in grades), grades.count(mine[1])
        expected.append(math.ceil(100 * (2 * easier + tied) / (2 * len(grades)) - 1e-9))
    found = difficulty_of_rows(index, "quantile")
    assert found.tolist() == expected
    assert found.dtype == np.int16
    assert all(1 <= percentile <= 100 for percentile in expected if percentile)


@settings(max_examples=30, deadline=None)
@given(columns=columns(), times=st.integers(2, 4))
def test_a_problem_counts_once_however_many_rows_it_has(
    make_index: MakeIndex, columns: dict[str, list[int]], times: int
) -> None:
    once = difficulty_of_rows(index_of(make_index, columns), "quantile")
    repeated = {name: values + values[:1] * times for name, values in columns.items()}
    assert difficulty_of_rows(index_of(make_index, repeated), "quantile")[: len(once)].tolist() == once.tolist()


def test_the_worked_example(make_index: MakeIndex) -> None:
    index = make_index(
        9,
        problems=range(9),
        difficulties=[7, 8, 9, 10, 2, 4, 7, 7, 9],
        cf_ratings=[800, 800, 1200, 2000, 0, 0, 0, 0, 0],
    )
    assert difficulty_of_rows(index, "quantile").tolist() == [25, 25, 63, 88, 25, 75, 34, 34, 84]


def test_problems_of_another_site_move_no_percentile(make_index: MakeIndex) -> None:
    one = make_index(4, problems=range(4), difficulties=[1, 2, 3, 9])
    two = make_index(8, problems=range(8), difficulties=[1, 2, 3, 9, 5, 5, 5, 8], sources=[0] * 4 + [1] * 4)
    assert difficulty_of_rows(two, "quantile")[:4].tolist() == difficulty_of_rows(one, "quantile").tolist()


def test_the_first_row_speaks_for_a_problem_whose_rows_disagree(make_index: MakeIndex) -> None:
    index = make_index(5, problems=[0, 1, 0, 1, 2], difficulties=[1, 2, 5, 0, 6])
    assert difficulty_of_rows(index, "quantile").tolist() == [25, 75, 25, 75, 0]


def test_many_sources_do_not_mix(make_index: MakeIndex) -> None:
    index = make_index(400, problems=range(400), num_problems=400, difficulties=[3] * 400)
    index = replace(index, source_R=(np.arange(400) * 80).astype(np.int16))
    assert set(difficulty_of_rows(index, "quantile").tolist()) == {50}


@settings(max_examples=30, deadline=None)
@given(columns=columns())
def test_codes_stay_and_ratings_are_never_negative(make_index: MakeIndex, columns: dict[str, list[int]]) -> None:
    index = index_of(make_index, columns)
    assert difficulty_of_rows(index, "raw").tolist() == columns["difficulties"]
    assert difficulty_of_rows(index, "cf_rating").tolist() == [max(0, rating) for rating in columns["cf_ratings"]]


@given(values=st.lists(st.integers(-3, 4000)))
def test_rows_are_counted_by_difficulty(values: list[int]) -> None:
    counted = rows_by_difficulty(np.array(values, dtype=np.int16))
    assert counted == {value: values.count(value) for value in sorted(set(values))}


@pytest.mark.parametrize(
    ("source", "rows", "text"),
    [
        ("raw", {13: 2, 0: 1_512_000, 6: 4, 12: 3}, "unknown: 1,512,000; 6: 4; 12+: 5"),
        ("cf_rating", {0: 7, 800: 1, 1199: 2, 1200: 4, 3500: 1}, "unknown: 7; 800-1199: 3; 1200-1599: 4; 3200-3599: 1"),
        ("quantile", {0: 7, 1: 1, 25: 2, 26: 4, 100: 1}, "unknown: 7; 1-25: 3; 26-50: 4; 76-100: 1"),
        ("raw", {}, ""),
    ],
)
def test_difficulties_are_described_with_unknown_by_its_name(source: str, rows: dict[int, int], text: str) -> None:
    assert describe_difficulties(rows, source) == text
