"""The row schema: one JSONL record, a program and whether it solves its problem. Checks a record; encodes nothing.

    {"instruction": str, "input": str, "output": str, "task_id": str, "is_correct": bool,
     "metadata": {"source": str, "difficulty": int, "has_tests": bool, "language": int?, "cf_rating": int?,
                  "contest": str?}}

Keys marked `?` may be absent or null, which means unknown (0, ""). `source` names the data set and `contest`, where the
set gathers several, the site that posed the problem ("codeforces"). Further keys are allowed and ignored.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from wmtp_ray.errors import DataError

INT8 = (-(2**7), 2**7 - 1)
INT16 = (-(2**15), 2**15 - 1)

_JSON_NAMES = {str: "a string", bool: "true or false", int: "an integer", dict: "an object", list: "a list"}
_MISSING = object()
_Kind = TypeVar("_Kind")


class MalformedRow(ValueError):
    """A line is not a row; the message says what was found and what was expected, not where."""


@dataclass(frozen=True, slots=True)
class Row:
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
    record = _decode_object(line)
    metadata = _field(record, "metadata", dict)
    return Row(
        instruction=_field(record, "instruction", str),
        input=_field(record, "input", str),
        output=_field(record, "output", str),
        task_id=_field(record, "task_id", str),
        is_correct=_field(record, "is_correct", bool),
        source=_field(metadata, "source", str, "metadata."),
        difficulty=_integer(metadata, "difficulty", INT16),
        has_tests=_field(metadata, "has_tests", bool, "metadata."),
        language=_optional_integer(metadata, "language", INT8),
        cf_rating=_optional_integer(metadata, "cf_rating", INT16),
        contest="" if metadata.get("contest") is None else _field(metadata, "contest", str, "metadata."),
    )


def parse_row(line: bytes, line_number: int, path: Path) -> Row:
    """Check one line without its line end; raises DataError naming file and line (`line_number` counts from 1)."""
    try:
        return decode_row(line)
    except MalformedRow as error:
        raise DataError(f"{path}:{line_number}: {error}; mend or delete the line") from error


def problem_of(task_id: str) -> str:
    """Drop the solution suffix: everything from the last `_correct_` or `_incorrect_` on.

    "1060_A. Phone Numbers_correct_0" -> "1060_A. Phone Numbers"; an id without a suffix is a problem of its own.
    """
    end = max(task_id.rfind("_correct_"), task_id.rfind("_incorrect_"))
    return task_id if end < 0 else task_id[:end]


def read_rows(path: Path, offset_N: Sequence[int], num_bytes_N: Sequence[int]) -> list[Row]:
    """Read rows at an index's byte offsets; reads in file order, returns in the order given.

    Raises DataError when the bytes there are not one whole line of the schema any more.
    """
    assert len(offset_N) == len(num_bytes_N)
    rows: dict[int, Row] = {}
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected the JSONL of the index") from error
    try:
        for n in sorted(range(len(offset_N)), key=offset_N.__getitem__):
            rows[n] = _read_row(descriptor, path, int(offset_N[n]), int(num_bytes_N[n]))
    finally:
        os.close(descriptor)
    return [rows[n] for n in range(len(offset_N))]


def _read_row(descriptor: int, path: Path, offset: int, num_bytes: int) -> Row:
    chunk = os.pread(descriptor, num_bytes + 1, offset)  # one byte more: the line has to end where the index says
    try:
        if len(chunk) < num_bytes:
            raise MalformedRow(f"the file ends after {len(chunk)} of its {num_bytes} bytes")
        if chunk[num_bytes:] not in (b"", b"\n", b"\r"):
            raise MalformedRow(f"the line goes on after its {num_bytes} bytes")
        return decode_row(chunk[:num_bytes])
    except MalformedRow as error:
        raise DataError(
            f"{path}: no whole row at byte {offset} any more: {error}; expected the file as it was when it was "
            f"indexed: put it back, or run `wmtp data index {path}` and start again"
        ) from error


def _decode_object(line: bytes) -> dict[str, object]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedRow(f"{_why_undecodable(line, error)}, expected a JSON object") from error
    if not isinstance(record, dict):
        raise MalformedRow(f"found {_name(record)}, expected a JSON object")
    return record


def _why_undecodable(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        return f"found invalid UTF-8 at byte {unicode_error.start} of the line"
    # orjson appends its own idea of line and column, which is about this one line
    return f"found invalid or truncated JSON at character {error.pos} ({error.msg.partition(': line')[0]})"


def _field(record: dict[str, object], key: str, kind: type[_Kind], prefix: str = "") -> _Kind:
    value = record.get(key, _MISSING)
    if isinstance(value, kind) and type(value) is kind:  # the exact type: True is no integer
        return value
    expected = _JSON_NAMES[kind]
    if value is _MISSING:
        raise MalformedRow(f'found no key "{prefix}{key}", expected {expected}')
    raise MalformedRow(f'found {_name(value)} in "{prefix}{key}", expected {expected}')


def _integer(metadata: dict[str, object], key: str, bounds: tuple[int, int]) -> int:
    value = _field(metadata, key, int, "metadata.")
    if bounds[0] <= value <= bounds[1]:
        return value
    raise MalformedRow(f'found {value} in "metadata.{key}", expected {bounds[0]}..{bounds[1]}')


def _optional_integer(metadata: dict[str, object], key: str, bounds: tuple[int, int]) -> int:
    return 0 if metadata.get(key) is None else _integer(metadata, key, bounds)


def _name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return f"{value!r}".lower()
    return _JSON_NAMES[type(value)]
