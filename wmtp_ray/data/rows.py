"""The row schema: one JSONL record, a program and whether it solves its problem. Reads rows back; encodes nothing.

    {"instruction": str, "input": str, "output": str, "task_id": str, "is_correct": bool,
     "metadata": {"source": str, "difficulty": int, "has_tests": bool, "language": int?, "cf_rating": int?,
                  "contest": str?}}

Keys marked `?` may be absent or null, which means unknown (0, ""). `source` names the data set and `contest`, where the
set gathers several, the site that posed the problem ("codeforces"). Further keys are allowed and ignored; `records.py`
says what is JSON here. Files of an earlier generation lack `is_correct` or `metadata`: the index has their labels.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET

from wmtp_ray.data.records import MalformedRow, Metadata, Record, decode_record, missing_label
from wmtp_ray.errors import DataError

__all__ = ["MalformedRow", "Row", "decode_row", "parse_row", "problem_of", "read_rows"]

# Rows this near each other are read at once: the bytes between them cost less than another call.
GAP_BYTES = 1 << 14
SPAN_BYTES = 1 << 20

_NO_METADATA = Metadata(source="", difficulty=0, has_tests=False)


class Row(msgspec.Struct, frozen=True, gc=False):
    """A record of the schema; `language` and `cf_rating` are 0 where unknown.

    `difficulty` is the data set's own code and no scale: in code_contests 0 is unknown, 6 external, and 7.. the
    problem's letter within its contest. `language`: 1 Python 2, 2 C++, 3 Python 3, 4 Java.
    """

    instruction: str
    input: str
    output: str
    task_id: str
    is_correct: bool
    source: str
    difficulty: int
    has_tests: bool
    language: int
    cf_rating: int
    contest: str


def decode_row(line: bytes) -> Row:
    """Check one line without its line end; raises MalformedRow."""
    return _row_of(decode_record(line))


def parse_row(line: bytes, line_number: int, path: Path) -> Row:
    """Check one line without its line end; raises DataError naming file and line (`line_number` counts from 1)."""
    try:
        return decode_row(line)
    except MalformedRow as error:
        raise DataError(f"{path}:{line_number}: {error}; fix or delete the line") from error


def problem_of(task_id: str) -> str:
    """Drop the solution suffix: everything from the last `_correct_` or `_incorrect_` on.

    "1060_A. Phone Numbers_correct_0" -> "1060_A. Phone Numbers"; an id without a suffix is a problem of its own.
    """
    head, found, _ = task_id.rpartition("correct_")  # one search instead of two: this runs once a row
    if head.endswith("_"):
        return head[: -len("_")]
    if head.endswith("_in"):
        return head[: -len("_in")]
    end = max(head.rfind("_correct_"), head.rfind("_incorrect_")) if found else -1
    return task_id if end < 0 else task_id[:end]


def read_rows(
    path: Path, offset_N: Sequence[int], num_bytes_N: Sequence[int], is_correct_N: Sequence[bool] | None = None
) -> list[Row]:
    """Read rows at an index's byte offsets; reads in file order, returns in the order given.

    With the index's `is_correct_N`, rows may lack labels of their own (metadata is then "", 0, False); without it they
    may not. Raises DataError when the bytes there are not one whole line of the schema any more, or of another label.
    """
    assert len(offset_N) == len(num_bytes_N)
    offsets, sizes = list(map(int, offset_N)), list(map(int, num_bytes_N))
    rows: dict[int, Row] = {}
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected the JSONL of the index") from error
    try:
        for span, start, stop in _spans(offsets, sizes):
            chunk = os.pread(descriptor, stop + 1 - start, start)  # one byte more: the last line has to end there
            for n in span:
                try:
                    record = decode_record(_line_of(chunk, offsets[n] - start, sizes[n]))
                    rows[n] = _row_of(record) if is_correct_N is None else _row_as_indexed(record, is_correct_N[n])
                except MalformedRow as error:
                    raise _moved(path, offsets[n], error) from error
    finally:
        os.close(descriptor)
    return [rows[n] for n in range(len(offsets))]


def _spans(offsets: list[int], sizes: list[int]) -> Iterator[tuple[list[int], int, int]]:
    """Rows to read at once, and the bytes [start, stop) that hold them; in file order.

    With rows 0: [0, 10), 1: [900000, 900010), 2: [12, 20) these are ([0, 2], 0, 20) and ([1], 900000, 900010).
    """
    span: list[int] = []
    start = stop = 0
    for n in sorted(range(len(offsets)), key=offsets.__getitem__):
        offset = offsets[n]
        if span and (offset - stop > GAP_BYTES or stop - start > SPAN_BYTES):
            yield span, start, stop
            span = []
        if not span:
            start = stop = offset
        span.append(n)
        stop = max(stop, offset + sizes[n])
    if span:
        yield span, start, stop


def _line_of(chunk: bytes, begin: int, num_bytes: int) -> bytes:
    """Cut a line out; raises MalformedRow when it does not end where the index says.

    A chunk that is one line is given whole, its line end too, which JSON takes for white space: cutting is copying.
    """
    end = begin + num_bytes
    if begin == 0 and len(chunk) == end + 1 and chunk.endswith((b"\n", b"\r")):
        return chunk
    if chunk[end : end + 1] in (b"\n", b"\r", b"") and end <= len(chunk):
        return chunk[begin:end]
    if end > len(chunk):
        raise MalformedRow(f"the file ends after {max(len(chunk) - begin, 0)} of its {num_bytes} bytes")
    raise MalformedRow(f"the line goes on after its {num_bytes} bytes")


def _row_of(record: Record) -> Row:
    """Flatten a record; raises MalformedRow when it lacks labels."""
    is_correct, metadata = record.is_correct, record.metadata
    if is_correct is UNSET or metadata is UNSET:
        raise missing_label(metadata)
    return Row(
        record.instruction,
        record.input,
        record.output,
        record.task_id,
        is_correct,
        metadata.source,
        metadata.difficulty,
        metadata.has_tests,
        metadata.language or 0,
        metadata.cf_rating or 0,
        metadata.contest or "",
    )


def _row_as_indexed(record: Record, is_correct: bool) -> Row:
    """Flatten a record whose label is in the index; raises MalformedRow when it says otherwise itself."""
    if record.is_correct == is_correct and record.metadata is not UNSET:
        return _row_of(record)
    if record.is_correct is not UNSET and record.is_correct != is_correct:
        raise MalformedRow(f'found {record.is_correct} in "is_correct", which is {bool(is_correct)} in the index')
    metadata = _NO_METADATA if record.metadata is UNSET else record.metadata
    return _row_of(msgspec.structs.replace(record, is_correct=bool(is_correct), metadata=metadata))


def _moved(path: Path, offset: int, error: MalformedRow) -> DataError:
    return DataError(
        f"{path}: no whole row at byte {offset} any more: {error}; expected the file as it was when it was "
        f"indexed: put it back, or run `wmtp data index {path}` and start again"
    )
