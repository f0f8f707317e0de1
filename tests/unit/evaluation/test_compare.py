import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.evaluation.test_results import results_of
from tests.unit.tracking.trained_runs import record
from wmtp_ray.evaluation.compare import compare
from wmtp_ray.evaluation.results import EvaluationResults, read_results, write_results
from wmtp_ray.tracking.training_record import Start, TrainingRecord

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


ROOT = Start("/models/nano", "nano-file", None)


def of_policy(
    found: dict[str, list[str]], weights: str, training: TrainingRecord | None, **answers: Any
) -> EvaluationResults:
    """Results of a policy with that hash, decoded with the settings `answers`."""
    results = results_of(found, ks=(1,))
    identity = results.identity | {"answers": {"model": {"weights_sha256": weights}, "temperature": 0.0} | answers}
    sources = dataclasses.replace(results.sources, answers_path=f"/runs/{weights}/final", training=training)
    return dataclasses.replace(results, identity=identity, sources=sources)


def test_what_differs_in_training_stands_before_who_won_and_the_verdict_says_that_it_is_confounded():
    base = record("A", ROOT, steps=225)
    more = record("B", Start("/runs/a/final", "a", base), steps=120, weighting="td")
    text = compare(of_policy(BEFORE, "a", base), of_policy(AFTER, "b", more)).render()
    assert text.index("What differs in training") < text.index("Pass@1")
    steps = [line.split() for line in text.splitlines() if line.startswith("  steps  ")]
    assert steps == [["steps", "225", "120", "after", "225"]]
    verdict = next(line for line in text.splitlines() if line.startswith("Pass@1: "))
    assert "This comparison is confounded: after trained 120 steps more, from before's end." in verdict


def test_after_equal_training_the_verdict_stands_alone_and_says_who_won():
    many = {str(task): ["fail"] for task in range(40)}
    better = {task: ["pass" if int(task) < 20 else "fail"] for task in many}
    records = [record(name, ROOT, weighting=kind) for name, kind in (("A", "uniform"), ("B", "td"))]
    before, after = (of_policy(each, r.run, r) for each, r in zip((many, better), records, strict=True))
    found = compare(before, after)
    assert found.cautions() == []
    assert found.verdicts()[0].startswith("Pass@1: after solves more problems than before: +0.500 [")
    assert compare(after, before).verdicts()[0].startswith("Pass@1: after solves fewer problems than before: -0.500 [")
    assert compare(before, before).verdicts()[0].startswith("Pass@1: before and after cannot be told apart")


def test_of_a_policy_without_a_run_it_says_that_nothing_is_known():
    text = compare(of_policy(BEFORE, "a", record("A", ROOT)), of_policy(AFTER, "b", None)).render()
    assert "Nothing is known of how after was trained" in text
    mine, theirs = results_of(BEFORE, ks=(1,)), results_of(AFTER, ks=(1,))
    theirs = dataclasses.replace(theirs, identity=theirs.identity | {"answers": {"samples_sha256": "theirs"}})
    given = compare(mine, theirs).render()
    assert "Nothing is known of how before and after was trained" in given


def test_one_policy_decoded_in_two_ways_differs_in_its_settings_alone():
    one = of_policy(BEFORE, "a", record("A", ROOT))
    text = compare(one, of_policy(AFTER, "a", record("A", ROOT), temperature=0.8)).render()
    assert "the same policy: nothing differs in training" in text
    assert "answers.temperature             0.0     0.8" in text
    assert "The evaluations themselves differ in answers.temperature" in text


def test_a_result_keeps_its_training_and_one_without_is_read(tmp_path: Path):
    base = record("A", ROOT)
    results = of_policy(BEFORE, "b", record("B", Start("/runs/a/final", "a", base)))
    write_results(tmp_path, results)
    assert read_results(tmp_path).sources.training == results.sources.training
    path = tmp_path / "results.json"
    content = path.read_text()
    assert '"training"' in content
    values = orjson.loads(content)
    del values["sources"]["training"]  # as earlier versions wrote it
    path.write_bytes(orjson.dumps(values))
    assert read_results(tmp_path).sources.training is None
