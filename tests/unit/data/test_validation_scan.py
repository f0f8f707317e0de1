import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.data.validation import scan as scan_module
from wmtp_ray.data.validation.passages import BenchmarkTask
from wmtp_ray.data.validation.scan import Malformed, Overlap, ScannedRows, cut_ranges, join_scans, scan_range

MakeLine = Callable[..., bytes]
TASKS = (BenchmarkTask("HumanEval/0", True, ("add the two given numbers",)),)


def assert_same_scan(one: ScannedRows, other: ScannedRows) -> None:
    for field in dataclasses.fields(ScannedRows):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, field.name)
        else:
            assert left == right, field.name


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, line: MakeLine) -> Path:
    """Rows of three problems between blank and malformed lines, with both line ends and without the last one."""
    lines = [
        b"\xef\xbb\xbf" + line(task_id="a_correct_0"),
        line(task_id="b_incorrect_0", is_correct=True, output="x\u2028"),
        b"",
        b"{torn",
        line(task_id="a_correct_0", instruction="Please add the two given numbers, now."),
        b"  \t",
        line(task_id="c", is_correct=False, output="add the two given numbers"),
        b"[]",
        line(task_id="a_incorrect_1", is_correct=False, output="ADD the two given numbers"),
    ]
    path = tmp_path_factory.mktemp("scan") / "mixed.jsonl"
    path.write_bytes(b"\r\n".join(lines[:4]) + b"\n" + b"\n".join(lines[4:]))
    return path


def test_a_scan_keeps_places_labels_problems_and_overlaps(mixed: Path) -> None:
    scan = scan_range(mixed, 0, mixed.stat().st_size, TASKS)
    assert scan.line_N.tolist() == [1, 2, 5, 7, 9]
    content = mixed.read_bytes()
    assert all(content[offset:].startswith(b'{"instruction"') for offset in scan.offset_N.tolist())
    assert scan.is_correct_N.tolist() == [True, True, True, False, False]
    assert scan.problems == {"a": 0, "b": 1, "c": 3}
    assert list(scan.instructions.values()) == [0, 2]
    assert scan.overlaps == {("a", 0): Overlap(num_rows=2, first_row=2), ("c", 0): Overlap(1, 3)}
    assert scan.mislabelled == (1,)
    assert (scan.num_lines, scan.num_malformed) == (9, 2)
    assert [malformed.line for malformed in scan.malformed] == [4, 8]


@settings(max_examples=40, deadline=None)
@given(range_bytes=st.integers(25, 2000))
def test_ranges_of_any_size_join_to_the_scan_of_the_whole(mixed: Path, range_bytes: int) -> None:
    size = mixed.stat().st_size
    parts = [scan_range(mixed, start, end, TASKS) for start, end in cut_ranges(size, range_bytes)]
    assert_same_scan(join_scans(parts), scan_range(mixed, 0, size, TASKS))


def test_a_line_without_end_is_malformed_and_passed_over(
    tmp_path: Path, line: MakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "MAX_LINE_BYTES", 600)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"\n".join([line(), line(output="x" * 5000), line(task_id="b_correct_1")]))
    scan = scan_range(path, 0, path.stat().st_size, ())
    assert scan.line_N.tolist() == [1, 3]
    assert [malformed.line for malformed in scan.malformed] == [2]


def test_the_first_ten_malformed_lines_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"no\n" * 25)
    whole = join_scans([scan_range(path, start, end, ()) for start, end in cut_ranges(75, 20)])
    assert whole.num_malformed == 25
    assert [malformed.line for malformed in whole.malformed] == list(range(1, 11))
    assert isinstance(whole.malformed[0], Malformed)
    assert "JSON" in whole.malformed[0].reason
