"""`wmtp data sample`: a small JSONL out of a large one, whole problems at a time, for a laptop or a pilot.

Rows are copied byte for byte, in file order; one whose labels stand in another file gets them into the row. The index
says where they are, so only the rows that are drawn are read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.data.index import load_index
from wmtp_ray.data.legacy_metadata import labels_path_of
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import DataError


def sample_data(jsonl: Path, out: Path, *, num_problems: int, rows_per_problem: int, seed: int) -> str:
    """Write some rows of `num_problems` problems to `out` and return a line about it.

    Of each problem up to half of `rows_per_problem` correct rows and half incorrect ones. Raises DataError when the
    index is missing or stale, when `out` exists, and when there is nothing to draw.
    """
    if out.exists():
        raise DataError(f"{out}: found a file, expected a new name; remove it or choose another --out")
    if num_problems < 1 or rows_per_problem < 2:
        raise DataError(f"found {num_problems} problems of {rows_per_problem} rows, expected at least 1 of 2")
    index = load_index(jsonl.absolute())
    row_ids = draw_rows(index, num_problems=num_problems, rows_per_problem=rows_per_problem, seed=seed)
    copy_rows(jsonl, out, index, row_ids)
    num_drawn = len(np.unique(index.problem_R[row_ids]))
    num_correct = int(index.is_correct_R[row_ids].sum())
    return f"{out}: {len(row_ids):,} rows of {num_drawn:,} problems, {num_correct:,} correct"


def copy_rows(jsonl: Path, out: Path, index: RowIndex, row_ids: Int64) -> None:
    """Copy rows of a JSONL to a new file, whole or not at all; labels that stand in another file move into them."""
    with atomic_file(out) as temporary, temporary.open("wb") as file:
        file.writelines(lines_of_rows(jsonl, index, row_ids))


def lines_of_rows(jsonl: Path, index: RowIndex, row_ids: Int64) -> Iterator[bytes]:
    """Yield rows of a JSONL as lines that hold their labels, whichever file these stand in."""
    lacks_labels = labels_path_of(jsonl).exists()
    with jsonl.open("rb") as source:
        for row_id in row_ids.tolist():
            source.seek(index.offset_R[row_id])
            line = source.read(index.num_bytes_R[row_id])
            yield (_with_labels(line, index, row_id) if lacks_labels else line) + b"\n"


def draw_rows(index: RowIndex, *, num_problems: int, rows_per_problem: int, seed: int) -> Int64:
    """Return ids of the rows drawn, ascending: problems without replacement, then rows of each label of a problem."""
    generator = np.random.default_rng(seed)
    problems = np.unique(index.problem_R)
    drawn = generator.permutation(problems)[:num_problems]
    order = generator.permutation(np.flatnonzero(np.isin(index.problem_R, drawn)))
    group = index.problem_R[order].astype(np.int64) * 2 + index.is_correct_R[order]
    by_group = np.argsort(group, kind="stable")
    _, starts, counts = np.unique(group[by_group], return_index=True, return_counts=True)
    place_in_group = np.arange(len(order)) - np.repeat(starts, counts)
    return np.sort(order[by_group][place_in_group < rows_per_problem // 2])


def _with_labels(line: bytes, index: RowIndex, row_id: int) -> bytes:
    values = orjson.loads(line)
    difficulty = {"difficulty": int(index.difficulty_R[row_id])}
    values["is_correct"] = bool(index.is_correct_R[row_id])
    values["metadata"] = {"source": "unknown", "has_tests": False, **difficulty, **values.get("metadata", {})}
    return orjson.dumps(values)
