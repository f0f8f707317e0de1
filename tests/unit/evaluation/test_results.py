"""What is counted, what is left out and said, and that results.json says enough to do it again."""

import dataclasses

import pytest

from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.compare import compare
from wmtp_ray.evaluation.identity import DatasetIdentity, EvaluationIdentity, GivenSamples, JudgeIdentity
from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.results import Answer, ExampleAnswer, Sources, read_results, summarise, write_results
from wmtp_ray.evaluation.samples import Sample

IDENTITY = EvaluationIdentity(
    DatasetIdentity("d", "humaneval", 3), GivenSamples("s"), JudgeIdentity("landlock", 3.0, 1024.0), {"torch": "2"}
)
SOURCES = Sources("humaneval", "problems.jsonl", (), "model", None)
STATUSES = {"a": ["pass", "fail", "pass"], "b": ["fail", "timeout", "memory"], "c": ["pass", "error", "unserialisable"]}


def results_of(statuses=STATUSES, ks=(1, 3), samples=(), parts=None, given=None, **changes):
    judgements = {
        (task, number): Judgement(task, number, status, "why", 0.1, (parts or {}).get((task, number)))
        for task, found in statuses.items()
        for number, status in enumerate(found)
    }
    answers = {sample.place: sample for sample in samples}
    texts = {place: Answer(answer, not answer.strip()) for place, answer in (given or {}).items()}
    found = summarise(IDENTITY, SOURCES, list(statuses), answers, judgements, texts, ks, seconds=2.0)
    return dataclasses.replace(found, **changes)


def test_every_verdict_but_pass_is_wrong_and_an_error_does_not_count():
    results = results_of()
    assert [(each.task_id, each.num_samples, each.num_correct) for each in results.problems] == [
        ("a", 3, 2),
        ("b", 3, 0),
        ("c", 2, 1),
    ]
    assert results.pass_at_k["1"].value == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert results.verdicts == {"error": 1, "fail": 2, "memory": 1, "pass": 3, "timeout": 1, "unserialisable": 1}
    assert results.excluded == ("c sample 1: why",)
    assert results.warnings[-1].startswith("1 answers could not be judged")


def test_a_problem_with_too_few_judged_answers_is_left_out_of_that_k_alone_and_named():
    results = results_of()
    assert (results.pass_at_k["1"].num_problems, results.pass_at_k["3"].num_problems) == (3, 2)
    assert results.pass_at_k["3"].value == pytest.approx((1.0 + 0.0) / 2)
    assert results.warnings[0] == "Pass@3 leaves out 1 problems with fewer than 3 judged answers: c"


def test_empty_answers_are_counted_and_said_above_a_tenth_and_answers_are_shown_by_verdict():
    given = {(task, number): "    return 1\n" for task in "abc" for number in range(3)}
    results = results_of(given=given | {("b", 0): " \n"})
    assert results.answers is not None
    assert (results.answers.num_answers, results.answers.num_empty) == (9, 1)
    assert results.metrics()["eval/humaneval/empty_frac"] == pytest.approx(1 / 9)
    assert "1 of 9 answers are empty" in results.warnings[-2]
    shown = [(each.task_id, each.sample, each.status) for each in results.answers.examples]
    assert shown[:3] == [("a", 0, "pass"), ("a", 1, "fail"), ("a", 2, "pass")]
    assert len([status for *_, status in shown if status == "pass"]) == 2
    assert results.answers.examples[0] == ExampleAnswer("a", 0, "pass", "why", "    return 1\n")
    full = results_of(given={("a", number): "x" if number else "" for number in range(10)})
    assert not any("empty" in text for text in full.warnings), "a tenth is no warning"


def test_results_say_how_many_of_the_problems_were_evaluated(tmp_path):
    some = results_of(sources=dataclasses.replace(SOURCES, num_problems=6), given={("a", 0): "x"})
    assert (some.num_problems, results_of().num_problems) == ("3 of 6", "3")
    write_results(tmp_path, some)
    assert read_results(tmp_path) == some


def test_where_nothing_could_be_judged_there_is_no_estimate():
    results = results_of({"a": ["error"]}, ks=(1,))
    assert results.pass_at_k == {}
    assert results.metrics() == {"eval/humaneval/empty_frac": 0.0}


def test_partial_passes_are_the_mean_over_answers():
    results = results_of({"a": ["fail", "pass", "error"]}, ks=(1,), parts={("a", 0): 0.5, ("a", 1): 1.0, ("a", 2): 0.0})
    assert results.problems[0].passed_frac == 0.75


def test_tokens_per_forward_and_acceptance_are_sums_over_answers():
    samples = [
        Sample("a", 0, "x", "x", "end", 10, 4, (3, 3), (3, 1)),
        Sample("a", 1, "x", "x", "end", 2, 2, (1, 1), (0, 0)),
    ]
    speed = results_of({"a": ["pass", "fail"]}, ks=(1,), samples=samples).decoding
    assert (speed.num_tokens, speed.num_forwards, speed.tokens_per_forward) == (12, 6, 2.0)
    assert speed.accepted_frac == (0.75, 0.25)


def test_results_come_back_as_they_were_written(tmp_path):
    results = results_of(samples=[Sample("a", 0, "x", "x", "end", 10, 4, (3,), (3,))])
    path = write_results(tmp_path, results)
    assert read_results(tmp_path) == results == read_results(path)
    assert results.identity["judge"]["isolation"] == "landlock"
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="the field key is missing; evaluate again"):
        read_results(tmp_path)
    with pytest.raises(ArtifactError, match="does not exist; expected the folder"):
        read_results(tmp_path / "absent")


def test_metrics_carry_the_interval():
    metrics = results_of(ks=(1,)).metrics()
    names = {f"eval/humaneval/pass@1{part}" for part in ("", "/ci_low", "/ci_high")}
    assert set(metrics) == names | {"eval/humaneval/empty_frac"}
    name = "eval/humaneval/pass@1"
    assert metrics[f"{name}/ci_low"] <= metrics[name] <= metrics[f"{name}/ci_high"]


def test_evaluations_of_other_problems_or_other_k_are_not_compared():
    results = results_of()
    with pytest.raises(ConfigError, match=r"differ in K: \['1', '3'\] before, \['1'\] after"):
        compare(results, results_of(ks=(1,)))
    with pytest.raises(ConfigError, match="differ in the tasks"):
        compare(results, results_of(STATUSES | {"d": ["pass"] * 3}))
    other = results.identity | {"dataset": results.identity["dataset"] | {"sha256": "other"}}
    with pytest.raises(ConfigError, match="differ in the problems"):
        compare(results, results_of(identity=other))
