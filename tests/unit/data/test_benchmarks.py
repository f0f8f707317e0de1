import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wmtp_ray.data.benchmarks import BenchmarkProblem, problem_line, read_humaneval, read_mbpp, training_rows
from wmtp_ray.data.rows import problem_of
from wmtp_ray.errors import DataError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

TREE = (
    "class Node:\r\n  def __init__(self, value):\r\n    self.value = value\r\ndef total(node):\r\n  return node.value"
)


def full(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "text": "Write a function to double a number.",
        "code": "def helper(x):\r\n    return x + x\r\ndef double(x):\r\n    return helper(x)",
        "task_id": number,
        "test_setup_code": "",
        "test_list": ["assert double(2) == 4", "assert double(len([0])) == 2"],
        "challenge_test_list": [],
    }
    return record | changes


def sanitized(number: int) -> dict[str, Any]:
    record = full(number)
    return {
        "source_file": "notebook",
        "task_id": number,
        "prompt": record["text"],
        "code": record["code"],
        "test_imports": ["import math", "import re"],
        "test_list": record["test_list"],
    }


def as_jsonl(path: Path, records: list[dict[str, Any]]) -> list[Path]:
    path = path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return [path]


def as_json(path: Path, records: list[dict[str, Any]]) -> list[Path]:
    path = path / "records.json"
    path.write_text(json.dumps(records, indent=2), "utf-8")
    return [path]


def as_gzip(path: Path, records: list[dict[str, Any]]) -> list[Path]:
    [plain] = as_jsonl(path, records)
    packed = path / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    return [packed]


def as_two_parquet(path: Path, records: list[dict[str, Any]]) -> list[Path]:
    """As the hub does: one file a split, named after it, so not in the order of the ids."""
    paths = [path / "test-00000-of-00001.parquet", path / "train-00000-of-00001.parquet"]
    for each, part in zip(paths, (records[1:], records[:1]), strict=True):
        pq.write_table(pa.Table.from_pylist(part), each)
    return paths


FORMS: list[Callable[[Path, list[dict[str, Any]]], list[Path]]] = [as_jsonl, as_json, as_gzip, as_two_parquet]


def run(problem: BenchmarkProblem) -> None:
    """Run the reference, then the setup, then the tests; HumanEval's check gets the function."""
    names: dict[str, Any] = {}
    for source in (problem.reference, problem.setup_code, *problem.tests):
        exec(source, names)
    if "check" in names:
        names["check"](names[problem.entry_point])


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_the_same_problems(tmp_path: Path, form: Callable[..., list[Path]]) -> None:
    problems = read_mbpp(form(tmp_path, [full(601), full(3), full(11)]))
    assert [problem.task_id for problem in problems] == ["mbpp_3", "mbpp_11", "mbpp_601"]
    assert problems[0].tests == ("assert double(2) == 4", "assert double(len([0])) == 2")
    assert problems[0].reference == "def helper(x):\n    return x + x\ndef double(x):\n    return helper(x)"
    run(problems[0])


def test_the_sanitized_field_names_are_read(tmp_path: Path) -> None:
    [problem] = read_mbpp(as_json(tmp_path, [sanitized(7)]))
    assert problem.prompt == "Write a function to double a number."
    assert problem.setup_code == "import math\nimport re"


def test_setup_code_may_use_what_the_solution_defines(tmp_path: Path) -> None:
    record = full(
        367, code=TREE, test_setup_code="root = Node(1)\r\nroot2 = Node(2)", test_list=["assert total(root2) == 2"]
    )
    [problem] = read_mbpp(as_jsonl(tmp_path, [record]))
    assert problem.entry_point == "total"
    run(problem)


def test_the_function_under_test_is_the_one_that_every_test_calls(tmp_path: Path) -> None:
    tests = [["assert double(2) == 4"], ["assert double(helper(1)) == 4"], ["assert sum([1]) == 1"]]
    problems = read_mbpp(as_jsonl(tmp_path, [full(n, test_list=each) for n, each in enumerate(tests, start=20)]))
    assert [problem.entry_point for problem in problems] == ["double", None, None]


def test_only_train_ids_become_rows(tmp_path: Path) -> None:
    ids = [1, 10, 11, 510, 511, 600, 601, 974]
    problems = read_mbpp(as_jsonl(tmp_path, [full(number) for number in ids]))
    splits = ["prompt", "prompt", "test", "test", "valid", "valid", "train", "train"]
    assert [problem.split for problem in problems] == splits
    rows = training_rows(problems)
    assert [row.task_id for row in rows] == ["mbpp_601_correct_0", "mbpp_974_correct_0"]
    assert [problem_of(row.task_id) for row in rows] == ["mbpp_601", "mbpp_974"]
    assert rows[0].input == "Your code should pass this test:\nassert double(2) == 4"
    assert (rows[0].output, rows[0].is_correct, rows[0].language) == (problems[-1].reference, True, 3)


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


@pytest.mark.parametrize("form", [as_jsonl, as_gzip])
def test_a_humaneval_prompt_keeps_its_last_newline_and_its_reference_runs(
    tmp_path: Path, form: Callable[..., list[Path]]
) -> None:
    [problem] = read_humaneval(form(tmp_path, [HUMANEVAL]))
    assert (problem.prompt, problem.entry_point, problem.split) == (HUMANEVAL["prompt"], "add", "test")
    assert problem.prompt.endswith("\n")
    run(problem)
    assert json.loads(problem_line(problem))["tests"] == [HUMANEVAL["test"]]


@pytest.mark.parametrize("key", HUMANEVAL)
@pytest.mark.parametrize("value", [None, ["text"], 1.5])
def test_what_is_no_text_in_a_problem_is_named_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"records\.jsonl:2: found (null|a list|a number) in {key} of the problem"):
        read_humaneval(as_jsonl(tmp_path, [HUMANEVAL, HUMANEVAL | {key: value}]))


@pytest.mark.parametrize("key", ["task_id", "text", "code", "test_setup_code", "test_list"])
def test_a_null_in_a_problem_of_mbpp_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=rf"records\.jsonl:1: found null in {key} of the problem"):
        read_mbpp(as_jsonl(tmp_path, [full(601, **{key: None})]))


def test_a_foreign_record_is_named_with_its_keys(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records.jsonl:1: .*\['code', 'task_id'.*\(MBPP without test_list\)"):
        read_mbpp(as_jsonl(tmp_path, [{"task_id": 1, "code": "pass", "text": "", "test_setup_code": ""}]))
    with pytest.raises(DataError, match="found a string, expected an object"):
        read_humaneval(as_jsonl(tmp_path, ["a list, not an object"]))  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["torn.jsonl", "torn.jsonl.gz", "torn.json", "torn.parquet", "absent.jsonl"])
def test_a_torn_or_absent_file_is_named(tmp_path: Path, name: str) -> None:
    if name.startswith("torn"):
        (tmp_path / name).write_bytes(gzip.compress(b"{" * 1000)[:-9] if name.endswith("gz") else b'{"task_id": 1')
    found = "found no JSON .it breaks off.*is torn" if "json" in name and "gz" not in name else "cannot be read"
    with pytest.raises(DataError, match=f"{name}(:1)?: {found if name.startswith('torn') else 'cannot be read'}"):
        read_mbpp([tmp_path / name])


@pytest.mark.skipif(not (SHARED / "mbpp").exists(), reason="the shared benchmarks are not beside this checkout")
def test_the_published_files_are_read_whole() -> None:
    problems = read_mbpp([SHARED / "mbpp" / "mbpp.jsonl"])
    assert Counter(problem.split for problem in problems) == {"prompt": 10, "test": 500, "valid": 90, "train": 374}
    assert all(problem.entry_point for problem in problems)
    assert not any("\r" in f"{problem.reference}{problem.setup_code}" for problem in problems)
    clean = read_mbpp([SHARED / "mbpp" / "sanitized-mbpp.json"])
    assert (len(clean), all(problem.entry_point for problem in clean)) == (427, True)
    for problem in (each for each in problems if each.task_id in ("mbpp_367", "mbpp_927", "mbpp_601")):
        run(problem)
    tasks = read_humaneval([SHARED / "humaneval" / "HumanEval.jsonl.gz"])
    assert (len(tasks), all(task.prompt.endswith("\n") for task in tasks)) == (164, True)
    run(tasks[0])
