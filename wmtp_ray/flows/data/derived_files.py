"""What a data set gets beside its rows: indexes, small versions, statistics with a picture, and the schema of a row.

    <folder>/<split>.jsonl.index.parquet                    counted where there is a tokenizer
    <folder>/train_small.jsonl, validation_small.jsonl      at most 100 and 32 rows, no problem in both
    <out>/stats/<split>.json, <split>.png                   what `wmtp data inspect` counts
    <out>/schema.json                                       JSON Schema of a row

All of it can be made again from the rows at any time, with the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from wmtp_ray.config.earlier_names import FILES
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import index_path_of, load_index, load_or_build_index, write_index
from wmtp_ray.data.inspect_data import inspect_data
from wmtp_ray.data.row_schema import schema_text
from wmtp_ray.data.sample_data import copy_rows
from wmtp_ray.data.small_rows import draw_small
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.count_tokens import ensure_counted_index

SMALL_ROWS = {"train_small.jsonl": 100, "validation_small.jsonl": 32}
VALID_NAMES = ("valid.jsonl", FILES["valid.jsonl"])
SEED = 0


def write_derived(
    out: Path, files: Sequence[Path], *, tokenizer: CodeTokenizer | None, max_tokens: int | None
) -> list[Path]:
    """Write everything above for the files of rows of a data set in `out`; return what was written but the indexes.

    `max_tokens` is what lengths are held against (None: data.max_tokens). Raises DataError for rows that are none.
    """
    indexes = {path: _indexed(path, tokenizer) for path in files}
    written = _write_small(indexes)
    words = [] if max_tokens is None else [f"data.max_tokens={max_tokens}", f"train.micro_batch_tokens={max_tokens}"]
    for path in files:
        counts, picture = (out / "stats" / f"{path.stem}.{kind}" for kind in ("json", "png"))
        counts.parent.mkdir(parents=True, exist_ok=True)
        inspect_data(path, index_path=None, words=words, picture=picture, counts=counts)
        written += [counts, picture]
    atomic_write(out / "schema.json", schema_text())
    return [*written, out / "schema.json"]


def _indexed(path: Path, tokenizer: CodeTokenizer | None) -> RowIndex:
    """Load the index, or build it; one of an earlier content of the file is built anew."""
    place = index_path_of(path)
    try:
        load_index(path)
    except DataError:
        place.unlink(missing_ok=True)
    if tokenizer is not None:
        return ensure_counted_index(path, tokenizer, on_error="fail", index_path=None, num_cpus=None)
    built = load_or_build_index(path, place, on_error="fail")
    write_index(built, place)
    return built.index


def _write_small(indexes: dict[Path, RowIndex]) -> list[Path]:
    """Held-out rows come from the valid split, or where there is none from problems that the small train has not."""
    by_name = {path.name: path for path in indexes}
    train = by_name.get("train.jsonl")
    valid = next((by_name[name] for name in VALID_NAMES if name in by_name), train)
    written, taken = [], set[str]()
    for name, source in zip(SMALL_ROWS, (train, valid), strict=True):
        if source is None:
            continue
        index = indexes[source]
        row_ids = draw_small(index, max_rows=SMALL_ROWS[name], seed=SEED, without=taken)
        if len(row_ids):
            copy_rows(source, source.with_name(name), index, row_ids)
            written.append(source.with_name(name))
        taken |= {index.problem_names[code] for code in index.problem_R[row_ids].tolist()}
    return written
