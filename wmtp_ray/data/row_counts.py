"""Token counts of rows, and what becomes of rows that a tokenizer would change (`text_normaliser.py`).

Such a row is valid JSON in the schema, so the index has it until a tokenizer counts it: then the file is refused with
the rows' lines, or they leave the index like malformed lines. Imports no Ray: `flows/data/count_tokens.py` does.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from wmtp_ray.contracts import Bool, Int32, RowIndex
from wmtp_ray.data.index_file import BuiltIndex
from wmtp_ray.data.index_ranges import LISTED_ERRORS
from wmtp_ray.data.legacy_metadata import line_number
from wmtp_ray.data.rows import Row, read_rows
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, index_command
from wmtp_ray.errors import DataError

OnError = Literal["fail", "skip"]
CHANGED = -2  # both counts of a row that the tokenizer would change


def count_rows(
    path: Path,
    offset_N: Sequence[int],
    num_bytes_N: Sequence[int],
    is_correct_N: Sequence[bool],
    tokenizer: CodeTokenizer,
) -> Int32:
    """Encode rows as training does; return their prompt and response tokens, [2, N]. Raises as `read_rows`."""
    rows = read_rows(path, offset_N, num_bytes_N, is_correct_N)
    counts_N2 = np.array([_counts(row, tokenizer) for row in rows], np.int32).reshape(-1, 2)
    return np.ascontiguousarray(counts_N2.T)


def with_counts(built: BuiltIndex, counts_2R: Int32, tokenizer: CodeTokenizer, *, on_error: OnError) -> BuiltIndex:
    """Return the index with the counts of `count_rows`; rows that the tokenizer would change are left out and counted.

    Raises DataError that names them with `on_error="fail"`, and where no row is left.
    """
    changed_R: Bool = counts_2R[0] == CHANGED
    reasons: list[str] = []
    if changed_R.any():
        reasons = _reasons(built.index, changed_R, tokenizer)
        if on_error == "fail" or changed_R.all():
            raise _changed(built.index.path, int(changed_R.sum()), reasons, tokenizer)
    index = replace(
        _rows_where(built.index, ~changed_R) if reasons else built.index,
        prompt_tokens_R=counts_2R[0][~changed_R],
        response_tokens_R=counts_2R[1][~changed_R],
        tokenizer_hash=tokenizer.counts_hash,
    )
    return replace(
        built,
        index=index,
        num_skipped=built.num_skipped + int(changed_R.sum()),
        num_changed=int(changed_R.sum()),
        errors=(*built.errors, *reasons)[:LISTED_ERRORS],
    )


def _counts(row: Row, tokenizer: CodeTokenizer) -> tuple[int, int]:
    try:
        example = encode_row(row, tokenizer, row_id=0)
    except ChangedText:
        return CHANGED, CHANGED
    return example.prompt_tokens, len(example.tokens_T) - example.prompt_tokens


def _rows_where(index: RowIndex, kept_R: Bool) -> RowIndex:
    """Return the index of some rows, with codes in order of first appearance, as an index is read back."""
    columns = {
        name: getattr(index, name)[kept_R]
        for name in ("offset_R", "num_bytes_R", "difficulty_R", "is_correct_R", "language_R", "cf_rating_R")
    }
    problem_R, problem_names = _renumbered(index.problem_R[kept_R], index.problem_names)
    source_R, source_names = _renumbered(index.source_R[kept_R], index.source_names)
    return replace(
        index,
        **columns,
        problem_R=problem_R.astype(np.int32),
        problem_names=problem_names,
        source_R=source_R.astype(np.int16),
        source_names=source_names,
    )


def _renumbered(codes_R: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Leave out the names of no row: [2, 0, 2] of (a, b, c) gives [0, 1, 0] of (c, a)."""
    found, first, place_R = np.unique(codes_R, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[place_R], tuple(names[code] for code in found[order].tolist())


def _reasons(index: RowIndex, changed_R: Bool, tokenizer: CodeTokenizer) -> list[str]:
    """Say of the first rows in which line they stand and what the tokenizer would change."""
    rows = np.flatnonzero(changed_R)[:LISTED_ERRORS]
    columns = (index.offset_R[rows].tolist(), index.num_bytes_R[rows].tolist(), index.is_correct_R[rows].tolist())
    found = []
    with Path(index.path).open("rb") as file:
        for offset, row in zip(columns[0], read_rows(Path(index.path), *columns), strict=True):
            try:
                encode_row(row, tokenizer, row_id=0)
            except ChangedText as reason:
                found.append(f"{index.path}:{line_number(file, offset)}: {reason}")
    return found


def _changed(path: str, num_changed: int, reasons: Sequence[str], tokenizer: CodeTokenizer) -> DataError:
    listed = "\n".join(f"  {reason}" for reason in reasons)
    return DataError(
        f"{path}: found {num_changed} rows that {tokenizer.model_path} would encode as another text, expected rows in "
        f"the form of Unicode that it brings texts into; the first {len(reasons)}:\n{listed}\nwrite them in that form "
        f"(unicodedata.normalize), or leave them out with data.on_error=skip (`{index_command(path, tokenizer)}`)"
    )
