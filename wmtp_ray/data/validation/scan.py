"""One pass over a byte range of a JSONL: what the checks need to know of its rows, in some 37 bytes a row.

Ranges are cut anywhere; a line belongs to the range that holds its first byte, so every line is read once. Texts are
not kept: what is reported later is read again at its offset. Suffix: N rows of the scanned range, in file order.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from wmtp_ray.contracts import Bool, Int32, Int64
from wmtp_ray.data.index_ranges import LISTED_ERRORS, MAX_LINE_BYTES, open_jsonl
from wmtp_ray.data.records import BYTE_ORDER_MARK, EmptyProgram
from wmtp_ray.data.rows import MalformedRow, Row, decode_row, problem_of
from wmtp_ray.data.validation.normal_form import normal_program, normal_prose, stable_hash, words_of
from wmtp_ray.data.validation.passages import BenchmarkTask, Passages

UInt64 = npt.NDArray[np.uint64]

SKIP_BYTES = 1 << 20
REMEMBERED_INSTRUCTIONS = 4096  # the rows of a problem follow one another, so nearly every instruction is known


@dataclass(frozen=True)
class Malformed:
    """A line that is no row; `line` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True)
class Overlap:
    """A passage in rows of one problem: how many rows, and the first of them."""

    num_rows: int
    first_row: int


@dataclass(frozen=True, eq=False)
class ScannedRows:
    """What a scan keeps. Rows are numbered from 0; `line_N` counts lines from 1, blank and malformed ones included.

    `exact_N` hashes instruction, input and output as they are, `program_N` the normal forms of instruction and output,
    `task_id_N` the task_id. `problems` and `instructions` (hash of the normal form) give the first row of each.
    `overlaps` is by problem and passage. `mislabelled` are rows whose is_correct contradicts their task_id,
    `without_code` those whose program can do nothing. `empty` are lines that would be rows but have no program.
    """

    num_lines: int
    offset_N: Int64
    line_N: Int32
    exact_N: UInt64
    program_N: UInt64
    task_id_N: UInt64
    is_correct_N: Bool
    problems: dict[str, int]
    instructions: dict[int, int]
    overlaps: dict[tuple[str, int], Overlap]
    mislabelled: tuple[int, ...]
    num_malformed: int
    malformed: tuple[Malformed, ...]
    num_empty: int
    empty: tuple[Malformed, ...]
    without_code: tuple[int, ...]
    without_instruction: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offset_N)


def cut_ranges(num_bytes: int, range_bytes: int) -> list[tuple[int, int]]:
    """Cut a file into ranges [start, end) of `range_bytes`, the last one shorter; an empty file into one, [0, 0)."""
    return [(start, min(start + range_bytes, num_bytes)) for start in range(0, max(num_bytes, 1), range_bytes)]


def scan_range(path: Path, start: int, end: int, tasks: tuple[BenchmarkTask, ...]) -> ScannedRows:
    """Scan the lines that begin in [start, end); line numbers count from the range's first line. Raises DataError."""
    scan = _Scan(_passages_of(tasks))
    for line_number, offset, line in _lines(path, start, end):
        scan.num_lines = line_number
        if not line or line.isspace():
            continue
        try:
            row = decode_row(line)
        except EmptyProgram as error:
            scan.add_empty(line_number, str(error))
        except MalformedRow as error:
            scan.add_malformed(line_number, str(error))
        else:
            scan.add(offset, line_number, row)
    return scan.result()


def join_scans(parts: Iterable[ScannedRows]) -> ScannedRows:
    """Join the scans of consecutive ranges into that of the whole; holds one of them at a time beside the result."""
    whole = _Scan(None)
    for part in parts:
        whole.join(part)
    return whole.result()


@dataclass(frozen=True)
class _Instruction:
    """What is worked out once for all rows that share an instruction."""

    text_hash: bytes
    normal_hash: bytes
    passages: frozenset[int]


@dataclass
class _Scan:
    """Grows row by row."""

    passages: Passages | None
    num_lines: int = 0
    num_malformed: int = 0
    offset: "array[int]" = field(default_factory=lambda: array("q"))
    line: "array[int]" = field(default_factory=lambda: array("i"))
    exact: "array[int]" = field(default_factory=lambda: array("Q"))
    program: "array[int]" = field(default_factory=lambda: array("Q"))
    task_id: "array[int]" = field(default_factory=lambda: array("Q"))
    is_correct: "array[int]" = field(default_factory=lambda: array("b"))
    problems: dict[str, int] = field(default_factory=dict)
    instructions: dict[int, int] = field(default_factory=dict)
    overlaps: dict[tuple[str, int], Overlap] = field(default_factory=dict)
    mislabelled: list[int] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    num_empty: int = 0
    empty: list[Malformed] = field(default_factory=list)
    without_code: list[int] = field(default_factory=list)
    without_instruction: list[int] = field(default_factory=list)
    known: dict[str, _Instruction] = field(default_factory=dict)

    def add_malformed(self, line_number: int, reason: str) -> None:
        self.num_malformed += 1
        if len(self.malformed) < LISTED_ERRORS:
            self.malformed.append(Malformed(line_number, reason))

    def add_empty(self, line_number: int, reason: str) -> None:
        self.num_empty += 1
        if len(self.empty) < LISTED_ERRORS:
            self.empty.append(Malformed(line_number, reason))

    def add(self, offset: int, line_number: int, row: Row) -> None:
        number = len(self.offset)
        instruction = self._instruction(row.instruction)
        problem = problem_of(row.task_id)
        self.offset.append(offset)
        self.line.append(line_number)
        self.exact.append(stable_hash(instruction.text_hash, row.input.encode(), row.output.encode()))
        program = normal_program(row.output, row.language)
        self.program.append(stable_hash(instruction.normal_hash, program.encode()))
        self.task_id.append(stable_hash(row.task_id.encode()))
        self.is_correct.append(row.is_correct)
        self.problems.setdefault(problem, number)
        self.instructions.setdefault(int.from_bytes(instruction.normal_hash, "little"), number)
        if contradicts_task_id(row):
            self.mislabelled.append(number)
        if is_without_code(program):
            self.without_code.append(number)
        if not row.instruction or row.instruction.isspace():
            self.without_instruction.append(number)
        if self.passages is not None:
            for passage in instruction.passages | self.passages.found_in(words_of(row.output)):
                _add_overlap(self.overlaps, (problem, passage), 1, number)

    def _instruction(self, text: str) -> _Instruction:
        known = self.known.get(text)
        if known is None:
            if len(self.known) == REMEMBERED_INSTRUCTIONS:
                self.known.clear()
            passages = self.passages.found_in(words_of(text)) if self.passages is not None else ()
            known = self.known[text] = _Instruction(
                text_hash=stable_hash(text.encode()).to_bytes(8, "little"),
                normal_hash=stable_hash(normal_prose(text).encode()).to_bytes(8, "little"),
                passages=frozenset(passages),
            )
        return known

    def join(self, part: ScannedRows) -> None:
        """Append the scan of the range that follows."""
        num_rows, num_lines = len(self.offset), self.num_lines
        self.offset.frombytes(part.offset_N.tobytes())
        self.line.frombytes((part.line_N + np.int32(num_lines)).tobytes())
        self.exact.frombytes(part.exact_N.tobytes())
        self.program.frombytes(part.program_N.tobytes())
        self.task_id.frombytes(part.task_id_N.tobytes())
        self.is_correct.frombytes(part.is_correct_N.tobytes())
        for problem, row in part.problems.items():
            self.problems.setdefault(problem, row + num_rows)
        for instruction, row in part.instructions.items():
            self.instructions.setdefault(instruction, row + num_rows)
        for key, overlap in part.overlaps.items():
            _add_overlap(self.overlaps, key, overlap.num_rows, overlap.first_row + num_rows)
        self.mislabelled += [row + num_rows for row in part.mislabelled]
        self.without_code += [row + num_rows for row in part.without_code]
        self.without_instruction += [row + num_rows for row in part.without_instruction]
        for lines, of_part in ((self.malformed, part.malformed), (self.empty, part.empty)):
            lines += [replace(line, line=line.line + num_lines) for line in of_part]
            del lines[LISTED_ERRORS:]
        self.num_malformed += part.num_malformed
        self.num_empty += part.num_empty
        self.num_lines += part.num_lines

    def result(self) -> ScannedRows:
        return ScannedRows(
            num_lines=self.num_lines,
            offset_N=np.frombuffer(self.offset, np.int64),
            line_N=np.frombuffer(self.line, np.int32),
            exact_N=np.frombuffer(self.exact, np.uint64),
            program_N=np.frombuffer(self.program, np.uint64),
            task_id_N=np.frombuffer(self.task_id, np.uint64),
            is_correct_N=np.frombuffer(self.is_correct, np.bool_),
            problems=self.problems,
            instructions=self.instructions,
            overlaps=self.overlaps,
            mislabelled=tuple(self.mislabelled),
            num_malformed=self.num_malformed,
            malformed=tuple(self.malformed),
            num_empty=self.num_empty,
            empty=tuple(self.empty),
            without_code=tuple(self.without_code),
            without_instruction=tuple(self.without_instruction),
        )


def contradicts_task_id(row: Row) -> bool:
    """Whether is_correct is not what the suffix of the task_id says; an id without a suffix says nothing."""
    correct, incorrect = row.task_id.rfind("_correct_"), row.task_id.rfind("_incorrect_")
    return correct != incorrect and row.is_correct != (correct > incorrect)


def is_without_code(program: str) -> bool:
    """Whether a program in its normal form has nothing to run, or what no Python reads: a NUL byte."""
    return "\0" in program or all(line.lstrip().startswith(("```", "~~~")) for line in program.split("\n") if line)


def _add_overlap(overlaps: dict[tuple[str, int], Overlap], key: tuple[str, int], num_rows: int, row: int) -> None:
    before = overlaps.get(key)
    overlaps[key] = Overlap(num_rows, row) if before is None else replace(before, num_rows=before.num_rows + num_rows)


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1, byte offset and content without line end of every line that begins in [start, end).

    Of a line longer than MAX_LINE_BYTES only the beginning is given, which is malformed.
    """
    with open_jsonl(path) as file:
        file.seek(max(start - 1, 0))
        offset = start - 1 + _skip_line(file) if start else 0
        for number in itertools.count(1):
            if offset >= end:
                return
            raw = file.readline(MAX_LINE_BYTES)
            rest_bytes = 0 if raw.endswith(b"\n") else _skip_line(file)
            mark = len(BYTE_ORDER_MARK) if offset == 0 and raw.startswith(BYTE_ORDER_MARK) else 0
            yield number, offset + mark, raw[mark:].rstrip(b"\r\n")
            offset += len(raw) + rest_bytes


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of the line, or of the file; returns the number of bytes read."""
    num_bytes = 0
    while chunk := file.readline(SKIP_BYTES):
        num_bytes += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return num_bytes


@lru_cache(maxsize=1)
def _passages_of(tasks: tuple[BenchmarkTask, ...]) -> Passages | None:
    """Build the passages once a process."""
    return Passages(tasks) if tasks else None
