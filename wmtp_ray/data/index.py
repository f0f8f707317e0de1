"""The columnar index of a JSONL: built in one pass, kept as Parquet beside it, refused when the file has changed.

With it nothing ever scans the file again: the plan reads columns, the stream reads rows by byte offset. The index does
not hold text and does not judge rows beyond their schema (`rows.py`). Ranges of the file are read by processes
(`index_processes.py`, `index_ranges.py`) and joined in order (`index_columns.py`), so their number changes nothing.

Offsets point at a row's first byte (behind a byte order mark, should the file begin with one); `num_bytes` leaves the
line end out, LF or CRLF alike. Blank lines are passed over. So of

    {"a":1}\\r\\n \\n{"b":22}\\n      the rows are (offset 0, 7 bytes) and (offset 11, 8 bytes)
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from wmtp_ray.contracts import Int32, RowIndex
from wmtp_ray.data.index_columns import IndexColumns
from wmtp_ray.data.index_file import (
    BuiltIndex,
    file_fingerprint,
    index_path_of,
    load_built_index,
    load_index,
    write_index,
)
from wmtp_ray.data.index_processes import scan_file
from wmtp_ray.data.index_ranges import refuse_other_encoding
from wmtp_ray.data.legacy_metadata import Labels, labels_path_of, read_labels
from wmtp_ray.data.row_counts import OnError, count_rows, with_counts
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError

__all__ = [
    "BuiltIndex",
    "OnError",
    "build_index",
    "count_tokens",
    "ensure_index",
    "file_fingerprint",
    "index_path_of",
    "load_built_index",
    "load_index",
    "load_or_build_index",
    "write_index",
]

Progress = Callable[[int, int], None]

COUNT_ROWS = 512


def build_index(path: Path, *, on_error: OnError, num_processes: int | None = None) -> BuiltIndex:
    """Index every valid row of a JSONL in one pass; token counts stay -1 (see `count_tokens`).

    `num_processes` None means one a core, and none besides this one for a small file; the index is the same. Rows that
    lack `is_correct` or `metadata` take them from the file of labels beside (`legacy_metadata.py`), if there is one.
    Raises DataError when the file cannot be read, holds no valid row, changes meanwhile, contradicts its labels, or,
    with `on_error="fail"`, holds malformed lines: their number and the first ten are named.
    """
    refuse_other_encoding(path)
    fingerprint = file_fingerprint(path)
    columns, labels = _read_columns(path, num_processes)
    if columns.num_malformed and on_error == "fail":
        raise _malformed(path, columns.num_malformed, columns.errors)
    if not len(columns):
        raise _empty(path, columns.errors)
    index = columns.as_index(fingerprint)
    if labels is not None:
        index = labels.apply(index, columns.line_R(), columns.num_lines)
    if file_fingerprint(path) != fingerprint:
        raise DataError(f"{path}: changed while it was being indexed; wait until it is written, then index it again")
    labels_fingerprint = "" if labels is None else file_fingerprint(labels.path)
    return BuiltIndex(index, columns.num_lines, columns.num_malformed, tuple(columns.errors), labels_fingerprint)


def _read_columns(path: Path, num_processes: int | None) -> tuple[IndexColumns, Labels | None]:
    """Join the file's ranges; the labels are None when no row needs them."""
    columns, labels = IndexColumns(path), None
    labels_elsewhere = labels_path_of(path).exists()
    with closing(scan_file(path, num_processes, labels_elsewhere=labels_elsewhere)) as ranges:
        for rows in ranges:
            if labels is None and any(kind.lacks_labels for kind in rows.kinds):
                labels = read_labels(path)
            columns.extend(rows, labels)
    return columns, labels


def count_tokens(index: RowIndex, tokenizer: CodeTokenizer, progress: Progress | None = None) -> RowIndex:
    """Fill the token counts by encoding every row as training does; calls `progress(rows_done, num_rows)` if given.

    Raises DataError where the tokenizer would change rows.
    """
    counts_2R = counts_of_rows(index, tokenizer, progress)
    return with_counts(BuiltIndex(index, len(index), 0, ()), counts_2R, tokenizer, on_error="fail").index


def counts_of_rows(index: RowIndex, tokenizer: CodeTokenizer, progress: Progress | None = None) -> Int32:
    """Return the prompt and response tokens of every row, [2, R], as `count_rows` does."""
    counts_2R = np.empty((2, len(index)), np.int32)
    for start in range(0, len(index), COUNT_ROWS):
        stop = min(start + COUNT_ROWS, len(index))
        counts_2R[:, start:stop] = count_rows(
            Path(index.path),
            index.offset_R[start:stop].tolist(),
            index.num_bytes_R[start:stop].tolist(),
            index.is_correct_R[start:stop].tolist(),
            tokenizer,
        )
        if progress is not None:
            progress(stop, len(index))
    return counts_2R


def load_or_build_index(
    jsonl: Path, out: Path, *, on_error: OnError, tokenizer: CodeTokenizer | None = None
) -> BuiltIndex:
    """Load the index at `out`, or build what is not there, without writing it; counted or not.

    One that lacks rows which another tokenizer than the given one would change is built anew.
    Raises DataError when it is stale, or left malformed lines out and `on_error` is "fail".
    """
    built = load_built_index(jsonl, out) if out.exists() else build_index(jsonl, on_error=on_error)
    if tokenizer is not None and built.num_changed and built.index.tokenizer_hash != tokenizer.counts_hash:
        built = build_index(jsonl, on_error=on_error)
    if built.num_skipped and on_error == "fail":
        raise _malformed(jsonl, built.num_skipped, built.errors)
    return built


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
    user's back), when it left malformed lines out and `on_error` is "fail", when the tokenizer would change rows and
    `on_error` is "fail", or when its place cannot be written.
    """
    out = index_path_of(jsonl, index_path)
    built = load_or_build_index(jsonl, out, on_error=on_error, tokenizer=tokenizer)
    if built.index.tokenizer_hash == tokenizer.counts_hash:
        return built.index
    write_index(built, out)  # first, so that a place that cannot be written fails before the minutes of counting
    counts_2R = counts_of_rows(built.index, tokenizer, progress)
    counted = with_counts(built, counts_2R, tokenizer, on_error=on_error)
    write_index(counted, out)
    return counted.index


def _malformed(path: Path, num_skipped: int, errors: Sequence[str]) -> DataError:
    listed = "\n".join(f"  {error}" for error in errors)
    return DataError(
        f"{path}: found {num_skipped} malformed lines, expected every line to be a row; the first {len(errors)}:\n"
        f"{listed}\nfix them, or leave them out with data.on_error=skip (`wmtp data index {path} --on-error skip`)"
    )


def _empty(path: Path, errors: Sequence[str]) -> DataError:
    found = f"no valid row, only malformed lines such as\n  {errors[0]}\n" if errors else "an empty file, "
    return DataError(f"{path}: found {found}expected at least one row; check that the download or export finished")
