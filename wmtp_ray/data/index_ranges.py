"""The rows that begin in one range of a JSONL's bytes, as columns: what one process does for the index.

Imports little, because the start of a process is part of the time of an index, and joins nothing: `index_columns.py`.

Rows repeat: those of one problem, label, difficulty, ... are of one *kind*. So a row is an offset, a size and a kind:

    {"task_id": "sum_correct_0", ...}\\n          offset_R [0, 90, 180]    kinds [("sum", True, ...),
    {"task_id": "sum_correct_1", ...}\\n          kind_R   [0,  0,   1]           ("sum", False, ...)]
    {"task_id": "sum_incorrect_0", ...}\\n
"""

from array import array
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import UNSET

from wmtp_ray.data.records import BYTE_ORDER_MARK, MalformedRow, Record, missing_label
from wmtp_ray.data.repeated_heads import LineDecoder, Tail
from wmtp_ray.data.rows import problem_of
from wmtp_ray.errors import DataError

LISTED_ERRORS = 10
MAX_LINE_BYTES = 1 << 28  # beyond it the file is no JSONL; bounds the memory of a build
_OTHER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_ENCODINGS_BY_ZEROS = {
    b"\0\1\0\1": "UTF-16LE",
    b"\1\0\1\0": "UTF-16BE",
    b"\0\1\1\1": "UTF-32LE",
    b"\1\1\1\0": "UTF-32BE",
}
READ_BYTES = 1 << 18  # stays in the cache of a core


class Kind(NamedTuple):
    """What rows have in common. None is unknown, except that `is_correct` and `difficulty` of None are elsewhere."""

    problem: str
    is_correct: bool | None
    difficulty: int | None
    language: int | None
    cf_rating: int | None
    source: str
    contest: str | None

    @property
    def lacks_labels(self) -> bool:
        return self.is_correct is None or self.difficulty is None


class RangeRows(msgspec.Struct, array_like=True):
    """The valid rows of a range, and what else stood there. Columns are native integers, as bytes.

    `malformed_M` (int64) are the malformed lines, counted from 0 among the range's `num_lines` lines that are not
    blank; `errors` says of the first ten where (counted from 1 among all its `num_line_ends` lines) and why.
    `endless_line` is the line at which reading stopped because it was too long, 0 where there is none.
    """

    offset_R: bytes  # int64
    num_bytes_R: bytes  # int32
    kind_R: bytes  # int32
    kinds: list[Kind]
    num_lines: int
    num_line_ends: int
    malformed_M: bytes
    errors: list[tuple[int, str]]
    endless_line: int


def open_jsonl(path: Path) -> BinaryIO:
    """Open for buffered reading; raises DataError."""
    try:
        return path.open("rb", buffering=READ_BYTES)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected a JSONL in the row schema; check data.train_file"
        ) from error


def refuse_other_encoding(path: Path) -> None:
    """Raise DataError that names the encoding when a file is UTF-16 or UTF-32, with a byte order mark or without."""
    with open_jsonl(path) as file:
        head = file.read(4)
    encoding = next((name for mark, name in _OTHER_MARKS if head.startswith(mark)), "")
    if not encoding and len(head) == 4:  # JSON begins with an ASCII character: the zeros beside it tell
        encoding = _ENCODINGS_BY_ZEROS.get(bytes(byte == 0 for byte in head), "")
    if encoding:
        raise DataError(
            f"{path}: found text in {encoding}, expected UTF-8; convert it: iconv -f {encoding} -t UTF-8 {path} > NEW"
        )


def scan_range(path: Path, start: int, stop: int, *, labels_elsewhere: bool) -> RangeRows:
    """Index the lines that begin in the bytes [start, stop) of a file; its ranges together give each line once.

    Lines end at a line feed and nothing else. With `labels_elsewhere` rows may lack `is_correct` or `metadata`.
    """
    scan = _Scan(labels_elsewhere)
    with open_jsonl(path) as file:
        scan.run(file, _first_line(file, start, stop), stop)
    return scan.found()


def _first_line(file: BinaryIO, start: int, stop: int) -> int:
    """Seek to the first byte in [start, stop) that begins a line, and return it; `stop` where none does."""
    offset = 0
    if start > 0:
        file.seek(start - 1)
        before = file.readline(stop - start + 1)
        offset = start - 1 + len(before) if before.endswith(b"\n") else stop
    file.seek(offset)
    return offset


def _mark_bytes(line: bytes) -> int:
    return len(BYTE_ORDER_MARK) if line.startswith(BYTE_ORDER_MARK) else 0


class _Scan:
    """Columns that grow row by row: 16 bytes a row, however long the rows are."""

    def __init__(self, labels_elsewhere: bool) -> None:
        self._labels_elsewhere = labels_elsewhere
        self._offset_R, self._num_bytes_R, self._kind_R = array("q"), array("i"), array("i")
        self._kinds: dict[tuple[object, ...], int] = {}
        self._num_line_ends = self._endless_line = 0
        self._malformed_M = array("q")
        self._errors: list[tuple[int, str]] = []

    def run(self, file: BinaryIO, offset: int, stop: int) -> None:
        """Read line by line from `offset`, where the file stands, to the last line that begins before `stop`."""
        decode, kinds = LineDecoder().decode, self._kinds
        add_offset, add_size, add_kind = self._offset_R.append, self._num_bytes_R.append, self._kind_R.append
        while offset < stop and (raw := file.readline(MAX_LINE_BYTES)):
            self._num_line_ends += 1
            if len(raw) >= MAX_LINE_BYTES:
                self._endless_line = self._num_line_ends
                return
            mark = 0 if offset else _mark_bytes(raw)
            line = raw[mark:].rstrip(b"\r\n")
            try:
                record = decode(line)
                is_correct, m = record.is_correct, record.metadata
                kind: tuple[object, ...]  # of the fields of a Kind: a plain tuple is made in half the time
                if is_correct is UNSET or m is UNSET:
                    kind = self._kind_without_labels(record)
                else:
                    problem = problem_of(record.task_id)
                    kind = (problem, is_correct, m.difficulty, m.language, m.cf_rating, m.source, m.contest)
            except MalformedRow as error:
                self._pass_over(line, error)
            else:
                add_offset(offset + mark)
                add_size(len(line))
                add_kind(kinds.setdefault(kind, len(kinds)))
            offset += len(raw)

    def _kind_without_labels(self, record: Record | Tail) -> Kind:
        if not self._labels_elsewhere:
            raise missing_label(record.metadata)
        problem = problem_of(record.task_id)
        is_correct = None if record.is_correct is UNSET else record.is_correct
        if record.metadata is UNSET:
            return Kind(problem, is_correct, None, None, None, "", None)
        m = record.metadata
        return Kind(problem, is_correct, m.difficulty, m.language, m.cf_rating, m.source, m.contest)

    def _pass_over(self, line: bytes, error: MalformedRow) -> None:
        if not line or line.isspace():
            return
        self._malformed_M.append(len(self._offset_R) + len(self._malformed_M))
        if len(self._errors) < LISTED_ERRORS:
            self._errors.append((self._num_line_ends, str(error)))

    def found(self) -> RangeRows:
        return RangeRows(
            offset_R=self._offset_R.tobytes(),
            num_bytes_R=self._num_bytes_R.tobytes(),
            kind_R=self._kind_R.tobytes(),
            kinds=[Kind(*kind) for kind in self._kinds],  # type: ignore[arg-type]
            num_lines=len(self._offset_R) + len(self._malformed_M),
            num_line_ends=self._num_line_ends,
            malformed_M=self._malformed_M.tobytes(),
            errors=self._errors,
            endless_line=self._endless_line,
        )
