"""The columns of an index, joined range by range: codes by first appearance, lines counted from the top of the file.

They take 25 bytes a row and grow in place; nothing of a range stays besides. Reads no file.
"""

from array import array
from pathlib import Path

import numpy as np

from wmtp_ray.contracts import Bool, Int32, Int64, RowIndex
from wmtp_ray.data.index_ranges import LISTED_ERRORS, MAX_LINE_BYTES, Kind, RangeRows
from wmtp_ray.data.legacy_metadata import Labels
from wmtp_ray.errors import DataError

MAX_SOURCES = 2**15  # codes of 16 bits


class IndexColumns:
    """Rows of a file's ranges, added in file order. `num_lines` and `num_malformed` leave blank lines out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[str] = []
        self.num_lines = self.num_malformed = 0
        self._num_line_ends = 0
        self._offset_R, self._num_bytes_R = array("q"), array("i")
        self._difficulty_R, self._is_correct_R, self._problem_R = array("h"), array("b"), array("i")
        self._language_R, self._cf_rating_R, self._source_R = array("b"), array("h"), array("h")
        self._malformed_M = array("q")
        self._problem_codes: dict[str, int] = {}
        self._source_codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._offset_R)

    def extend(self, rows: RangeRows, labels: Labels | None) -> None:
        """Add the rows of the next range; those without labels of their own take them from `labels`."""
        if rows.endless_line:
            raise _endless(self.path, self._num_line_ends + rows.endless_line)
        kind_R = np.frombuffer(rows.kind_R, np.int32)
        self._offset_R.frombytes(rows.offset_R)
        self._num_bytes_R.frombytes(rows.num_bytes_R)
        self._extend_labels(rows, kind_R, labels)
        problems, sources = [kind.problem for kind in rows.kinds], [kind.contest or kind.source for kind in rows.kinds]
        _extend(self._problem_R, _codes(self._problem_codes, problems), kind_R)
        _extend(self._source_R, self._codes_of_sources(sources), kind_R)
        _extend(self._language_R, [kind.language or 0 for kind in rows.kinds], kind_R)
        _extend(self._cf_rating_R, [kind.cf_rating or 0 for kind in rows.kinds], kind_R)
        self._count(rows)

    def _extend_labels(self, rows: RangeRows, kind_R: Int32, labels: Labels | None) -> None:
        start = len(self._is_correct_R)
        _extend(self._is_correct_R, [bool(kind.is_correct) for kind in rows.kinds], kind_R)
        _extend(self._difficulty_R, [kind.difficulty or 0 for kind in rows.kinds], kind_R)
        if labels is None:
            return
        line_R = self.num_lines + _lines_of_rows(rows.num_lines, np.frombuffer(rows.malformed_M, np.int64))
        labels.fill_is_correct(
            np.frombuffer(self._is_correct_R, np.bool_)[start:], _lacking(rows.kinds, "is_correct")[kind_R], line_R
        )
        labels.fill_difficulty(
            np.frombuffer(self._difficulty_R, np.int16)[start:], _lacking(rows.kinds, "difficulty")[kind_R], line_R
        )

    def _codes_of_sources(self, sources: list[str]) -> list[int]:
        codes = _codes(self._source_codes, sources)
        if len(self._source_codes) > MAX_SOURCES:
            raise DataError(
                f"{self.path}: found more than {MAX_SOURCES} different values of metadata.contest or metadata.source, "
                "expected the names of a few sites; put what tells single rows apart into task_id"
            )
        return codes

    def _count(self, rows: RangeRows) -> None:
        malformed_M = np.frombuffer(rows.malformed_M, np.int64)
        self._malformed_M.frombytes((self.num_lines + malformed_M).tobytes())
        self.num_malformed += len(malformed_M)
        self.num_lines += rows.num_lines
        for line, reason in rows.errors[: LISTED_ERRORS - len(self.errors)]:
            self.errors.append(f"{self.path}:{self._num_line_ends + line}: {reason}")
        self._num_line_ends += rows.num_line_ends

    def line_R(self) -> Int64:
        """Number of each row among the lines that are not blank, from 0."""
        return _lines_of_rows(self.num_lines, np.frombuffer(self._malformed_M, np.int64))

    def as_index(self, fingerprint: str) -> RowIndex:
        """Hand the columns over, without a copy: nothing can be added any more."""
        uncounted_R = np.full(len(self), -1, np.int32)
        return RowIndex(
            path=str(self.path),
            offset_R=np.frombuffer(self._offset_R, np.int64),
            num_bytes_R=np.frombuffer(self._num_bytes_R, np.int32),
            difficulty_R=np.frombuffer(self._difficulty_R, np.int16),
            is_correct_R=np.frombuffer(self._is_correct_R, np.bool_),
            problem_R=np.frombuffer(self._problem_R, np.int32),
            problem_names=tuple(self._problem_codes),
            language_R=np.frombuffer(self._language_R, np.int8),
            cf_rating_R=np.frombuffer(self._cf_rating_R, np.int16),
            source_R=np.frombuffer(self._source_R, np.int16),
            source_names=tuple(self._source_codes),
            prompt_tokens_R=uncounted_R,
            response_tokens_R=uncounted_R,
            file_fingerprint=fingerprint,
            tokenizer_hash="",
        )


def _extend(column: "array[int]", values_of_kinds: list[int], kind_R: Int32) -> None:
    """Append each row's value, that of its kind; numpy and `array` spell their types alike."""
    column.frombytes(np.array(values_of_kinds, column.typecode)[kind_R].tobytes())


def _codes(codes: dict[str, int], names: list[str]) -> list[int]:
    """Codes of names, new ones counted on."""
    return [codes.setdefault(name, len(codes)) for name in names]


def _lacking(kinds: list[Kind], field: str) -> Bool:
    return np.array([getattr(kind, field) is None for kind in kinds], np.bool_)


def _lines_of_rows(num_lines: int, malformed_M: Int64) -> Int64:
    """The lines 0..num_lines-1 without the malformed ones: 5 and [0, 3] give [1, 2, 4]."""
    return np.delete(np.arange(num_lines), malformed_M)


def _endless(path: Path, line_number: int) -> DataError:
    return DataError(
        f"{path}:{line_number}: found a line of {MAX_LINE_BYTES >> 20} MiB or more, expected one JSON object a line; "
        "a JSON array has to be rewritten as JSON Lines"
    )
