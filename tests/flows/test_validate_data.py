"""`wmtp data validate` as a whole: the same report from this process and from Ray, and the real files where present."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.data.validation.report import ValidationReport
from wmtp_ray.data.validation.rules import Rule
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.validate_data import validate_data

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PROMPT = "Return the number of times that the given letter occurs in the given word, ignoring case."
MakeSplits = Callable[[Path], list[Path]]


def record(name: str, label: str, number: int, **changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "instruction": f"Solve {name}.",
        "input": "",
        "output": f"print('{name}', {number})",
        "task_id": f"{name}_{label}_{number}",
        "is_correct": label == "correct",
        "metadata": {"source": "generated", "difficulty": 1, "has_tests": True},
    }
    return base | changes


def write_splits(directory: Path) -> list[Path]:
    """Two splits with something of everything: a leak, both labels, a shared problem, a torn line, other bytes."""
    train = [json.dumps(record(f"p{n // 4}", "correct" if n % 2 else "incorrect", n)) for n in range(40)]
    train += [
        json.dumps(record("p1", "incorrect", 99, output="print('p1', 5)  # as in p1_correct_5")),
        json.dumps(record("leak", "correct", 0, instruction=PROMPT)),
        "{torn",
    ]
    valid = [json.dumps(record(f"q{n}", "correct", n)) for n in range(6)] + [json.dumps(record("p3", "correct", 500))]
    paths = [directory / "train.jsonl", directory / "valid.jsonl"]
    for path, lines in zip(paths, (train, valid), strict=True):
        path.write_text("\n".join(lines) + "\n")
    manifest = {"files": {"train.jsonl": {"sha256": file_sha256(paths[0])}, "valid.jsonl": {"sha256": "00"}}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return paths


def write_humaneval(directory: Path) -> Path:
    task = {
        "task_id": "HumanEval/0",
        "prompt": f'def count(letter, word):\n    """{PROMPT}"""\n',
        "entry_point": "count",
        "canonical_solution": "    return word.lower().count(letter.lower())\n",
        "test": "def check(candidate):\n    assert candidate('a', 'A') == 1\n",
    }
    path = directory / "HumanEval.jsonl"
    path.write_text(json.dumps(task) + "\n")
    return path


def broken(report: ValidationReport) -> dict[Rule, int]:
    return {finding.rule: finding.count for finding in report.findings}


EVERYTHING = {
    Rule.MALFORMED: 1,
    Rule.BOTH_LABELS: 1,
    Rule.PROBLEM_IN_TWO_SPLITS: 1,
    Rule.INSTRUCTION_IN_TWO_SPLITS: 1,
    Rule.TEST_TASK: 1,
    Rule.OTHER_BYTES: 1,
    Rule.REPEATED_PROGRAM: 1,
}


def test_everything_wrong_is_found_in_one_pass(tmp_path: Path) -> None:
    files, steps = write_splits(tmp_path), []
    report = validate_data(
        files,
        benchmarks={"humaneval": write_humaneval(tmp_path)},
        on_progress=lambda done, size: steps.append((done, size)),
        range_bytes=1000,
    )
    assert broken(report) == EVERYTHING
    assert report.has_problems
    assert [file.num_rows for file in report.files] == [42, 7]
    size = sum(path.stat().st_size for path in files)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1] == (size, size)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ray_tasks_find_what_this_process_finds(tmp_path: Path, cluster: ClusterConfig) -> None:
    files, benchmarks = write_splits(tmp_path), {"humaneval": write_humaneval(tmp_path)}
    here = validate_data(files, benchmarks=benchmarks)
    with_ray = validate_data(files, benchmarks=benchmarks, in_process_bytes=0, range_bytes=1500)
    assert broken(here) == EVERYTHING
    assert with_ray.to_json() == here.to_json()


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    train, valid = write_splits(tmp_path)
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read"):
        validate_data([train, tmp_path / "absent.jsonl"], benchmarks={})
    with pytest.raises(DataError, match="given twice"):
        validate_data([train, valid, tmp_path / "." / "train.jsonl"], benchmarks={})
    with pytest.raises(DataError, match="named apps, expected one of humaneval, mbpp"):
        validate_data([train], benchmarks={"apps": train})
    with pytest.raises(DataError, match="changed while it was being checked"):
        validate_data([train], benchmarks={}, on_progress=lambda done, size: append_line(train))


def append_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.touch()
    report = validate_data([path], benchmarks={})
    assert (report.files[0].num_rows, broken(report)) == (0, {Rule.NO_ROWS: 1})
    assert "empty.jsonl has 0 lines" in report.render()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_rows_made_from_mbpp_are_found_in_mbpp() -> None:
    files = [SHARED / "mbpp_verified" / name for name in ("train.jsonl", "valid.jsonl")]
    found = broken(validate_data(files, benchmarks={"mbpp": SHARED / "mbpp" / "mbpp.jsonl"}))
    assert set(found) == {Rule.TEST_TASK, Rule.OTHER_TASK}
    assert found[Rule.OTHER_TASK] > 80


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_codecontests_sample_has_readable_consistent_rows() -> None:
    report = validate_data([SHARED / "codecontests_sample" / "alpaca.jsonl"], benchmarks={})
    assert not report.has_problems
    assert (report.files[0].num_rows, report.files[0].num_problems) == (1936, 9)
