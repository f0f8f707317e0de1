"""The columnar index of a JSONL: built in one pass, kept as Parquet beside it, refused when the file has changed.

With it nothing ever scans the file again: the plan reads columns, the stream reads rows by byte offset. The index does
not hold text and does not judge rows beyond their schema (`rows.py`).

Offsets point at a row's first byte (behind a byte order mark, should the file begin with one); `num_bytes` leaves the
line end out, LF or CRLF alike. Blank lines are passed over. So of

    {"a":1}\\r\\n \\n{"b":22}\\n      the rows are (offset 0, 7 bytes) and (offset 11, 8 bytes)
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index_file import (
    BuiltIndex,
    file_fingerprint,
    index_path_of,
    load_built_index,
    load_index,
    open_jsonl,
    write_index,
)
from wmtp_ray.data.rows import MalformedRow, Row, decode_row, problem_of
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples
from wmtp_ray.errors import DataError

__all__ = [
    "BuiltIndex",
    "build_index",
    "count_tokens",
    "ensure_index",
    "file_fingerprint",
    "index_path_of",
    "load_built_index",
    "load_index",
    "write_index",
]

OnError = Literal["fail", "skip"]
Progress = Callable[[int, int], None]

LISTED_ERRORS = 10
MAX_LINE_BYTES = 1 << 28  # beyond it the file is no JSONL; bounds the memory of a build
COUNT_ROWS = 512
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def build_index(path: Path, *, on_error: OnError) -> BuiltIndex:
    """Index every valid row of a JSONL in one pass; token counts stay -1 (see `count_tokens`).

    Raises DataError when the file cannot be read, holds no valid row, changes meanwhile, or, with `on_error="fail"`,
    holds malformed lines: their number and the first ten are named.
    """
    fingerprint = file_fingerprint(path)
    columns, num_skipped = _Columns(), 0
    errors: list[str] = []
    for line_number, offset, line in _lines(path):
        try:
            row = decode_row(line)
        except MalformedRow as error:
            num_skipped += 1
            if len(errors) < LISTED_ERRORS:
                errors.append(f"{path}:{line_number}: {error}")
            continue
        columns.append(offset, len(line), row)
    if num_skipped and on_error == "fail":
        raise _malformed(path, num_skipped, errors)
    if not len(columns.offset):
        raise _empty(path, errors)
    if file_fingerprint(path) != fingerprint:
        raise DataError(f"{path}: changed while it was being indexed; wait until it is written, then index it again")
    index = columns.as_index(path, fingerprint)
    return BuiltIndex(index, len(index) + num_skipped, num_skipped, tuple(errors))


def count_tokens(index: RowIndex, tokenizer: CodeTokenizer, progress: Progress | None = None) -> RowIndex:
    """Fill the token counts by encoding every row as training does; `progress(rows_done, num_rows)` may watch."""
    prompt_tokens_R = np.empty(len(index), np.int32)
    num_tokens_R = np.empty(len(index), np.int32)
    for start in range(0, len(index), COUNT_ROWS):
        stop = min(start + COUNT_ROWS, len(index))
        offset_N, num_bytes_N = index.offset_R[start:stop].tolist(), index.num_bytes_R[start:stop].tolist()
        examples = read_examples(Path(index.path), offset_N, num_bytes_N, range(start, stop), tokenizer)
        prompt_tokens_R[start:stop] = [example.prompt_tokens for example in examples]
        num_tokens_R[start:stop] = [len(example.tokens_T) for example in examples]
        if progress is not None:
            progress(stop, len(index))
    return replace(
        index,
        prompt_tokens_R=prompt_tokens_R,
        response_tokens_R=num_tokens_R - prompt_tokens_R,
        tokenizer_hash=tokenizer.sha256,
    )


def ensure_index(
    jsonl: Path,
    tokenizer: CodeTokenizer,
    *,
    on_error: OnError,
    index_path: Path | None = None,
    progress: Progress | None = None,
) -> RowIndex:
    """Load the index of a JSONL, counted for this tokenizer; build or count, and write, what is missing.

    `index_path` is as in `index_path_of`. Raises DataError when the index is stale (it is never rebuilt behind the
    user's back), when it left malformed lines out and `on_error` is "fail", or when its place cannot be written.
    """
    out = index_path_of(jsonl, index_path)
    built = load_built_index(jsonl, out) if out.exists() else build_index(jsonl, on_error=on_error)
    if built.num_skipped and on_error == "fail":
        raise _malformed(jsonl, built.num_skipped, built.errors)
    if built.index.tokenizer_hash == tokenizer.sha256:
        return built.index
    write_index(built, out)  # first, so that a place that cannot be written fails before the minutes of counting
    counted = count_tokens(built.index, tokenizer, progress)
    write_index(replace(built, index=counted), out)
    return counted


@dataclass
class _Columns:
    """Growing columns of machine integers: some 35 bytes a row, however long the rows are."""

    offset: "array[int]" = field(default_factory=lambda: array("q"))
    num_bytes: "array[int]" = field(default_factory=lambda: array("i"))
    difficulty: "array[int]" = field(default_factory=lambda: array("h"))
    is_correct: "array[int]" = field(default_factory=lambda: array("b"))
    problem: "array[int]" = field(default_factory=lambda: array("i"))
    language: "array[int]" = field(default_factory=lambda: array("b"))
    cf_rating: "array[int]" = field(default_factory=lambda: array("h"))
    source: "array[int]" = field(default_factory=lambda: array("h"))
    source_codes: dict[str, int] = field(default_factory=dict)
    problem_codes: dict[str, int] = field(default_factory=dict)

    def append(self, offset: int, num_bytes: int, row: Row) -> None:
        self.offset.append(offset)
        self.num_bytes.append(num_bytes)
        self.difficulty.append(row.difficulty)
        self.is_correct.append(row.is_correct)
        self.problem.append(self.problem_codes.setdefault(problem_of(row.task_id), len(self.problem_codes)))
        self.language.append(row.language)
        self.cf_rating.append(row.cf_rating)
        self.source.append(self.source_codes.setdefault(row.contest or row.source, len(self.source_codes)))

    def as_index(self, path: Path, fingerprint: str) -> RowIndex:
        uncounted_R = np.full(len(self.offset), -1, np.int32)
        return RowIndex(
            path=str(path),
            offset_R=np.array(self.offset, np.int64),
            num_bytes_R=np.array(self.num_bytes, np.int32),
            difficulty_R=np.array(self.difficulty, np.int16),
            is_correct_R=np.array(self.is_correct, np.bool_),
            problem_R=np.array(self.problem, np.int32),
            problem_names=tuple(self.problem_codes),
            language_R=np.array(self.language, np.int8),
            cf_rating_R=np.array(self.cf_rating, np.int16),
            source_R=np.array(self.source, np.int16),
            source_names=tuple(self.source_codes),
            prompt_tokens_R=uncounted_R,
            response_tokens_R=uncounted_R,
            file_fingerprint=fingerprint,
            tokenizer_hash="",
        )


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1, byte offset and content without line end, of every line that is not blank."""
    offset = 0
    with open_jsonl(path) as file:
        for line_number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            if len(raw) == MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{line_number}: found a line of {MAX_LINE_BYTES >> 20} MiB or more, expected one JSON "
                    "object a line; a JSON array has to be rewritten as JSON Lines"
                )
            mark = len(BYTE_ORDER_MARK) if offset == 0 and raw.startswith(BYTE_ORDER_MARK) else 0
            line = raw[mark:].rstrip(b"\r\n")
            if line and not line.isspace():
                yield line_number, offset + mark, line
            offset += len(raw)


def _malformed(path: Path, num_skipped: int, errors: Sequence[str]) -> DataError:
    listed = "\n".join(f"  {error}" for error in errors)
    return DataError(
        f"{path}: found {num_skipped} malformed lines, expected every line to be a row; the first {len(errors)}:\n"
        f"{listed}\nmend them, or leave them out with data.on_error=skip (`wmtp data index {path} --on-error skip`)"
    )


def _empty(path: Path, errors: Sequence[str]) -> DataError:
    found = f"no valid row, only malformed lines such as\n  {errors[0]}\n" if errors else "an empty file, "
    return DataError(f"{path}: found {found}expected at least one row; check that the download or export finished")
