"""Samples that somebody else made: what they mean, and what is refused with its line."""

import codecs
import json
from pathlib import Path

import pytest

from tests.unit.evaluation.examples import humaneval_file, mbpp_file, mbpp_plus_record, write_lines
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.given_samples import read_given_samples
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.problems import ProblemSet, read_problems

WHOLE = "def add_0(a):\n    return a\n"


def read(
    path: Path, problems_path: Path, *, limit: int | None = None, k: int = 1, only_sampled: bool = False
) -> tuple[ProblemSet, list[JudgeTask]]:
    return read_given_samples(path, read_problems(problems_path), limit=limit, k=k, only_sampled=only_sampled)


def tasks_of(folder: Path, records: list[dict[str, object]], **more: object) -> list[JudgeTask]:
    return read(write_lines(folder / "s.jsonl", records), humaneval_file(folder), **more)[1]  # type: ignore[arg-type]


def test_a_completion_continues_its_prompt_and_a_solution_stands_alone(tmp_path):
    records = [
        {"task_id": "HumanEval/1", "completion": "    return a + 1\n", "more": 1},
        {"task_id": "HumanEval/0", "solution": "def add_0(a): return a"},
        {"task_id": "HumanEval/1", "solution": "def add_1(a): return 2"},
        {"task_id": "HumanEval/2", "completion": " \n"},
    ]
    tasks = tasks_of(tmp_path, records)
    assert [(task.task_id, task.sample, task.is_empty) for task in tasks] == [
        ("HumanEval/1", 0, False),
        ("HumanEval/0", 0, False),
        ("HumanEval/1", 1, False),
        ("HumanEval/2", 0, True),
    ]
    assert tasks[0].program == 'def add_1(a):\n    """Add 1."""\n    return a + 1\n'
    assert tasks[1].program == "def add_0(a): return a"
    assert tasks[3].program == 'def add_2(a):\n    """Add 2."""\n'


@pytest.mark.parametrize("key", ["completion", "solution"])
@pytest.mark.parametrize(
    "text",
    [WHOLE, f"```python\n{WHOLE}```", f"Sure.\n```\nadd_0(1)\n```\n~~~py\n{WHOLE}~~~\nDone.", f"{WHOLE}```\nDone"],
)
def test_whole_functions_and_fences_are_read_as_decoded_answers_are(tmp_path, key, text):
    [task] = tasks_of(tmp_path, [{"task_id": "HumanEval/0", key: text}], limit=1)
    namespace: dict[str, object] = {}
    exec(task.program, namespace)
    assert namespace["add_0"](4) == 4  # type: ignore[operator]


def test_mbpp_answers_are_programs_under_ids_of_any_spelling(tmp_path):
    records = [
        {"task_id": "Mbpp/11", "completion": "def add_11(a): return 11"},
        {"task_id": 12, "solution": "```\ndef add_12(a): return 12\n```"},
    ]
    tasks = read(write_lines(tmp_path / "s.jsonl", records), mbpp_file(tmp_path))[1]
    assert [(task.task_id, task.program) for task in tasks] == [
        ("Mbpp/11", "def add_11(a): return 11"),
        ("Mbpp/12", "def add_12(a): return 12\n"),
    ]


def test_samples_of_problems_that_are_not_asked_for_are_passed_over(tmp_path):
    records: list[dict[str, object]] = [{"task_id": f"HumanEval/{n}", "completion": "x"} for n in (2, 0, 1)]
    assert [task.task_id for task in tasks_of(tmp_path, records, limit=2)] == ["HumanEval/0", "HumanEval/1"]


def test_some_of_the_problems_are_evaluated_only_when_asked(tmp_path):
    problems = humaneval_file(tmp_path, 6)
    path = write_lines(tmp_path / "s.jsonl", [{"task_id": f"HumanEval/{n}", "completion": "x"} for n in (5, 1, 3, 3)])
    with pytest.raises(DataError, match=r"samples of 3 of 6 problems, none of HumanEval/0, .* give --only-sampled"):
        read(path, problems)
    found, tasks = read(path, problems, only_sampled=True)
    assert [each.task_id for each in found.problems] == ["HumanEval/1", "HumanEval/3", "HumanEval/5"]
    assert (found.size, len(tasks)) == (6, 4)
    with pytest.raises(DataError, match=r"found 1 samples of HumanEval/1 .* at least 2 of each for Pass@2"):
        read(path, problems, only_sampled=True, k=2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [{"task_id": "HumanEval/9", "completion": "x"}],
            "s.jsonl:1: found the task_id 'HumanEval/9', expected one",
        ),
        ([{"task_id": "HumanEval/0"}], r"s.jsonl:1: found the keys \['task_id'\], expected an object with the texts"),
        ([{"completion": "x"}], "s.jsonl:1: found no task_id"),
        ([{"task_id": 7, "completion": "x"}], "s.jsonl:1: found task_id: a number"),
        ([{"task_id": "HumanEval/0", "completion": None}], "s.jsonl:1: found completion: null"),
        ([{"task_id": "HumanEval/0", "solution": ["x"]}], "s.jsonl:1: found solution: a list"),
        ([{"task_id": "HumanEval/0", "completion": 3}], "s.jsonl:1: found completion: a number"),
        (
            [{"task_id": "HumanEval/0", "completion": "x", "solution": ""}],
            "s.jsonl:1: found both completion and",
        ),
        ([{"task_id": "HumanEval/0", "completion": "x", "solution": None}], "s.jsonl:1: found both"),
        ([[["    return 1\n"]]], "s.jsonl:1: found a list, .* a list of lists names no problems"),
        ([None], "s.jsonl:1: found null"),
        ([], r"s\.jsonl: found no sample, .* the file is empty"),
    ],
)
def test_foreign_samples_are_refused_with_the_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read(write_lines(tmp_path / "s.jsonl", lines), humaneval_file(tmp_path))


def test_torn_and_absent_files_are_refused(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", [{"task_id": f"HumanEval/{n}", "completion": "x"} for n in range(3)])
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match=r"s\.jsonl:3: found no JSON .* copy it again"):
        read(path, humaneval_file(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "absent.jsonl", humaneval_file(tmp_path))


def test_marks_and_line_ends_of_other_systems_change_nothing(tmp_path):
    problems = humaneval_file(tmp_path, 1)
    text = "    s = 'a\u2028b\x85c'\n    return a\n"
    line = json.dumps({"task_id": "HumanEval/0", "completion": text}, ensure_ascii=False).encode()
    path = tmp_path / "s.jsonl"
    for content in (line, codecs.BOM_UTF8 + line + b"\r\n", line + b"\n\n"):
        path.write_bytes(content)
        [task] = read(path, problems)[1]
        assert task.program.endswith(text)
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(codecs.BOM_UTF8 + problems.read_bytes().replace(b"\n", b"\r\n"))
    assert read_problems(marked).problems == read_problems(problems).problems


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(tmp_path, encoding):
    path = tmp_path / "s.jsonl"
    path.write_bytes(json.dumps({"task_id": "HumanEval/0", "completion": "x"}).encode(encoding))
    with pytest.raises(DataError, match=rf"found text in {'UTF-16' if '16' in encoding else 'UTF-32'}, expected UTF-8"):
        read(path, humaneval_file(tmp_path))
    path.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match="found gzip, expected JSON"):
        read(path, humaneval_file(tmp_path))


def test_the_answer_to_mbpp_plus_is_judged_by_the_suite(tmp_path):
    problems = write_lines(tmp_path / "plus.jsonl", [mbpp_plus_record(11)])
    samples = write_lines(tmp_path / "s.jsonl", [{"task_id": "Mbpp/11", "solution": "def add_11(a): return a"}])
    [task] = read(samples, problems)[1]
    assert task.tests == read_problems(problems).problems[0].tests
