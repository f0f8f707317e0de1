"""The Ray Data task of a counting pass: one range of rows, read and encoded as training does, becomes its counts.

Keeps nothing but the tokenizer and writes nothing: what becomes of the counts is up to `flows/data/count_tokens.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from wmtp_ray.contracts import Int32, RowIndex
from wmtp_ray.data.row_counts import count_rows
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError, WmtpError

_ROWS_AT_ONCE = 512  # bounds the memory of a task


def range_table(index: RowIndex, start: int, stop: int) -> pa.Table:
    """The input of `count_range`: rows [start, stop) of the index."""
    return pa.table(
        {
            "row_id": np.arange(start, stop, dtype=np.int64),
            "offset": index.offset_R[start:stop],
            "num_bytes": index.num_bytes_R[start:stop],
            "is_correct": index.is_correct_R[start:stop],
        }
    )


def count_range(table: pa.Table, path: str, tokenizer: CodeTokenizer) -> pa.Table:
    """Ray Data task: one row with the range's first row, its counts, and an error of ours where there is one.

    Ray Data would hand on an error of ours as text inside one of its own: it travels as a column instead.
    """
    counts, error = np.empty((2, 0), np.int32), ""
    try:
        pieces = range(0, table.num_rows, _ROWS_AT_ONCE)
        counts = np.hstack([_counts(table.slice(start, _ROWS_AT_ONCE), path, tokenizer) for start in pieces])
    except WmtpError as refusal:
        error = str(refusal)
    first_row = table["row_id"][0].as_py()
    return pa.table(
        {
            "start": pa.array([first_row], pa.int64()),
            "prompt_tokens": pa.array([counts[0]], pa.list_(pa.int32())),
            "response_tokens": pa.array([counts[1]], pa.list_(pa.int32())),
            "error": pa.array([error], pa.string()),
        }
    )


def ranges_of(block: pa.Table) -> Iterator[tuple[int, Int32]]:
    """First row and counts, [2, N] prompt and response tokens, of every range in a block of `count_range`.

    Raises DataError where the block carries one.
    """
    for row in range(block.num_rows):
        if error := block["error"][row].as_py():
            raise DataError(error)
        columns = [block[name][row].values.to_numpy() for name in ("prompt_tokens", "response_tokens")]
        yield block["start"][row].as_py(), np.stack(columns)


def _counts(table: pa.Table, path: str, tokenizer: CodeTokenizer) -> Int32:
    """Prompt and response tokens of each row, [2, N]."""
    offset_N, num_bytes_N, is_correct_N = (table[name].to_pylist() for name in ("offset", "num_bytes", "is_correct"))
    return count_rows(Path(path), offset_N, num_bytes_N, is_correct_N, tokenizer)
