import pytest

from tests.unit.evaluation.test_results import results_of
from wmtp_ray.evaluation.compare import compare

BEFORE = {"a": ["pass", "fail"], "b": ["fail", "fail"], "c": ["pass", "pass"], "d": ["pass", "fail"]}
AFTER = {"a": ["fail", "pass"], "b": ["pass", "fail"], "c": ["fail", "pass"], "d": ["pass", "pass"]}


def test_the_difference_is_the_mean_over_problems_and_the_changed_ones_are_listed():
    found = compare(results_of(BEFORE, ks=(1, 2)), results_of(AFTER, ks=(1, 2)))
    assert found.differences["1"].value == pytest.approx((0.0 + 0.5 - 0.5 + 0.5) / 4)
    assert found.differences["2"].value == pytest.approx(1 / 4)
    assert found.differences["1"].low <= found.differences["1"].value <= found.differences["1"].high
    assert [each.task_id for each in found.changed] == ["b", "c", "d"], "in a, another answer passed, but as many"


def test_it_reads_as_a_table_with_what_became_better_and_worse():
    text = compare(results_of(BEFORE, ks=(1,)), results_of(AFTER, ks=(1,))).render()
    assert "humaneval, 4 problems" in text
    assert "Pass@1   0.500  0.625      +0.125" in text
    better, _, worse = text.partition("better: 2")[2].partition("worse: 1")
    assert "b  0/2  ->  1/2" in better
    assert "d  1/2  ->  2/2" in better
    assert "c  2/2  ->  1/2" in worse


def test_an_evaluation_does_not_differ_from_itself():
    found = compare(results_of(BEFORE, ks=(1,)), results_of(BEFORE, ks=(1,)))
    assert found.changed == ()
    assert found.differences["1"].value == 0.0
    assert found.differences["1"].low < 0.0 < found.differences["1"].high, "four problems prove no equality"
    assert "does not prove that nothing changed" in found.render()


def test_a_problem_that_one_side_could_not_judge_is_in_no_pair():
    found = compare(results_of(BEFORE, ks=(2,)), results_of(AFTER | {"b": ["pass", "error"]}, ks=(2,)))
    assert found.differences["2"].num_problems == 3
    assert found.differences["2"].value == 0.0
