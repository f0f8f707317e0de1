"""The rows that a row is compared with: those of its problem that stage 2 could draw, bounded, the same every time."""

from dataclasses import replace

import numpy as np
import pytest

from wmtp_ray.errors import PlanError
from wmtp_ray.plan.compared_rows import MAX_COMPARED, ComparedRows, require_others


def test_they_are_the_other_rows_of_the_problem_that_pass_the_filters(make_index, make_data):
    languages = np.random.default_rng(5).choice([3, 3, 2], 200)
    index = make_index(200, num_problems=12, languages=languages)
    data = make_data(languages=["python3"], max_tokens=80)
    compared = ComparedRows.of_run(index, None, data, 42)
    for row in range(len(index)):
        expected = [
            other
            for other in range(len(index))
            if index.problem_R[other] == index.problem_R[row]
            and other != row
            and languages[other] == 3
            and index.num_tokens_R[other] <= 80
        ]
        assert len(expected) < MAX_COMPARED, "so nothing is drawn"
        assert compared.of_row(row).tolist() == expected
        is_other = [bool(index.is_correct_R[each]) != bool(index.is_correct_R[row]) for each in expected]
        assert compared.has_other(np.array([row])).tolist() == [any(is_other)]


def test_of_many_rows_some_of_each_class_are_drawn_by_seed_and_problem(make_index, make_data):
    correct = [row % 3 == 0 for row in range(300)]
    index = make_index(300, problems=[row % 2 for row in range(300)], num_problems=2, correct=correct)
    data = make_data(max_tokens=1000)
    compared = ComparedRows.of_run(index, None, data, 42)
    for row in (0, 1, 2, 3, 298, 299):
        others = compared.of_row(row)
        assert row not in others
        for label in (True, False):
            num = int((index.is_correct_R[others] == label).sum())
            assert MAX_COMPARED - 1 <= num <= MAX_COMPARED
        assert (index.problem_R[others] == index.problem_R[row]).all()
    again = ComparedRows.of_run(index, None, data, 42)
    assert [again.of_row(row).tolist() for row in range(20)] == [compared.of_row(row).tolist() for row in range(20)]
    elsewhere = ComparedRows.of_run(index, None, data, 43)
    assert elsewhere.of_row(0).tolist() != compared.of_row(0).tolist()


def test_another_file_is_searched_by_the_names_of_problems(make_index, make_data):
    """The other file has problem 2 first and no problem 0; row numbers are its own."""
    index = make_index(4, problems=[0, 1, 2, 1], num_problems=3, correct=[0, 0, 1, 1])
    other = make_index(5, problems=[0, 0, 1, 1, 1], num_problems=2, correct=[0, 1, 1, 1, 1])
    other = replace(other, path="all.jsonl", problem_names=(index.problem_names[2], index.problem_names[1]))
    compared = ComparedRows.of_run(index, other, make_data(max_tokens=1000), 42)
    assert [compared.of_row(row).tolist() for row in range(4)] == [[], [2, 3, 4], [0, 1], [2, 3, 4]]
    assert compared.has_other(np.arange(4)).tolist() == [False, True, True, False]
    assert require_others(compared, np.array([0, 1, 1, 3]), weighting="oracle") == 0.5


def test_a_plan_of_rows_that_have_no_other_is_refused(make_index, make_data):
    index = make_index(6, problems=[0, 0, 1, 1, 1, 2], num_problems=3, correct=[1, 1, 0, 0, 1, 0])
    compared = ComparedRows.of_run(index, None, make_data(max_tokens=1000), 42)
    assert require_others(compared, np.arange(6), weighting="oracle") == 0.5
    refused = r"weighting.type=oracle .* of the 3 rows that stage 2 draws none has one in train.jsonl: give a file"
    with pytest.raises(PlanError, match=refused):
        require_others(compared, np.array([0, 1, 5, 5]), weighting="oracle")
