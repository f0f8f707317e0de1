"""An index on disk: the Parquet file beside a JSONL, the fingerprint that ties the two, and the refusal of a stale one.

Columns and types are `SCHEMA`, one row per valid line in file order. The Parquet metadata holds `file_fingerprint`,
`tokenizer_hash` (empty until tokens are counted) and what the build left out. Builds nothing: that is `index.py`.

Written and read row group by row group: beside the arrays of the index only one group is in memory.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index_ranges import open_jsonl
from wmtp_ray.data.legacy_metadata import labels_path_of
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import DataError

FORMAT = "2"
ROW_GROUP_ROWS = 1 << 17
FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 1 << 20

SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("num_bytes", pa.int32()),
        ("difficulty", pa.int16()),
        ("is_correct", pa.bool_()),
        ("problem", pa.string()),
        ("language", pa.int8()),
        ("cf_rating", pa.int16()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("source", pa.string()),
    ]
)


# Of the arrays in memory; problem and source are codes there.
_DTYPES = {
    "offset": np.int64,
    "num_bytes": np.int32,
    "difficulty": np.int16,
    "is_correct": np.bool_,
    "problem": np.int32,
    "language": np.int8,
    "cf_rating": np.int16,
    "prompt_tokens": np.int32,
    "response_tokens": np.int32,
    "source": np.int16,
}


@dataclass(frozen=True)
class BuiltIndex:
    """An index and what its build left out: `num_lines` counts lines that are not blank, `errors` lists the first ten
    of the `num_skipped` malformed ones. `labels_fingerprint` is that of the labels beside, "" where no row needed them.
    `num_changed` of those left out are rows that the tokenizer which counted the others would change.
    """

    index: RowIndex
    num_lines: int
    num_skipped: int
    errors: tuple[str, ...]
    labels_fingerprint: str = ""
    num_changed: int = 0


def index_path_of(jsonl: Path, out: Path | None = None) -> Path:
    """Where the index of a JSONL lies: `<file>.index.parquet` beside it, in the directory `out`, or the file `out`."""
    name = f"{jsonl.name}.index.parquet"
    if out is None:
        return jsonl.with_name(name)
    return out / name if out.is_dir() else out


def file_fingerprint(path: Path) -> str:
    """Name a file's content: size and sha256 of all of it up to 64 MiB, beyond that of 64 blocks of 1 MiB spread over
    it, the first and the last included.

    Copying or touching the file does not change it. An edit of a larger file that keeps the size and misses every block
    is not seen here; `read_rows` still refuses rows whose bytes moved.
    """
    digest = hashlib.sha256()
    with open_jsonl(path) as file:
        size = os.fstat(file.fileno()).st_size
        last_start = max(0, size - FINGERPRINT_BLOCK_BYTES)
        whole = size <= FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES
        for block in range(FINGERPRINT_BLOCKS):
            file.seek(block * FINGERPRINT_BLOCK_BYTES if whole else last_start * block // (FINGERPRINT_BLOCKS - 1))
            digest.update(file.read(FINGERPRINT_BLOCK_BYTES))
    return f"{size}-{digest.hexdigest()}"


def write_index(built: BuiltIndex, out: Path) -> None:
    """Write the index as Parquet: whole or not at all. Raises DataError when the place cannot be written."""
    try:
        out.parent.stat()  # a mistyped directory is refused, not made
        with atomic_file(out) as temporary, temporary.open("wb") as file:
            _write_row_groups(built, file)
    except OSError as error:
        raise _unwritable(out, error) from error


def load_index(jsonl: Path, out: Path | None = None) -> RowIndex:
    """Read the index of a JSONL; raises DataError when it is missing, torn, of another format or stale."""
    return load_built_index(jsonl, out).index


def load_built_index(jsonl: Path, out: Path | None = None) -> BuiltIndex:
    """Read the index of a JSONL with what its build left out; raises like `load_index`."""
    out = index_path_of(jsonl, out)
    if not out.exists():
        raise DataError(f"{jsonl}: found no index at {out}, expected one; run `{_command(jsonl, out)}`")
    try:
        with pa.OSFile(str(out)) as file:  # one file throughout, should the index be replaced meanwhile
            facts = _facts_of(pq.read_metadata(file), jsonl, out)
            _refuse_stale(jsonl, facts.file_fingerprint, jsonl, out)
            if facts.labels_fingerprint and labels_path_of(jsonl).exists():
                _refuse_stale(labels_path_of(jsonl), facts.labels_fingerprint, jsonl, out)
            index = _read_row_groups(pq.ParquetFile(file, read_dictionary=["problem", "source"]), jsonl, facts)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{out}: found a torn or foreign file ({error}), expected the index of {jsonl}; "
            f"run `{_command(jsonl, out)}`"
        ) from error
    return BuiltIndex(
        index, facts.num_lines, facts.num_skipped, facts.errors, facts.labels_fingerprint, facts.num_changed
    )


@dataclass(frozen=True)
class _Facts:
    """The Parquet metadata of the table."""

    file_fingerprint: str
    tokenizer_hash: str
    num_lines: int
    num_skipped: int
    errors: tuple[str, ...]
    labels_fingerprint: str
    num_changed: int


def _write_row_groups(built: BuiltIndex, file: BinaryIO) -> None:
    index = built.index
    problem_names = _arrow_strings(index.problem_names)
    source_names = _arrow_strings(index.source_names)
    schema = SCHEMA.with_metadata(_metadata_of(built))
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["problem", "source"]) as writer:
        for start in range(0, len(index), ROW_GROUP_ROWS):
            rows = slice(start, start + ROW_GROUP_ROWS)
            columns = {name: _arrow(getattr(index, f"{name}_R")[rows]) for name in SCHEMA.names}
            columns["problem"] = pa.DictionaryArray.from_arrays(columns["problem"], problem_names).cast(pa.string())
            columns["source"] = pa.DictionaryArray.from_arrays(columns["source"], source_names).cast(pa.string())
            writer.write_table(pa.table(columns, schema=SCHEMA))


def _metadata_of(built: BuiltIndex) -> dict[str, str]:
    return {
        "format": FORMAT,
        "file_fingerprint": built.index.file_fingerprint,
        "labels_fingerprint": built.labels_fingerprint,
        "tokenizer_hash": built.index.tokenizer_hash,
        "num_lines": str(built.num_lines),
        "num_skipped": str(built.num_skipped),
        "errors": orjson.dumps(built.errors).decode(),
    } | ({"num_changed": str(built.num_changed)} if built.num_changed else {})


def _facts_of(parquet: pq.FileMetaData, jsonl: Path, out: Path) -> _Facts:
    found = {key.decode(): value.decode() for key, value in (parquet.metadata or {}).items() if key != b"ARROW:schema"}
    if found.get("format") != FORMAT or not parquet.schema.to_arrow_schema().equals(SCHEMA):
        raise DataError(
            f"{out}: found a Parquet file of another format, expected an index of format {FORMAT}; "
            f"run `{_command(jsonl, out)}`"
        )
    return _Facts(
        file_fingerprint=found["file_fingerprint"],
        tokenizer_hash=found["tokenizer_hash"],
        num_lines=int(found["num_lines"]),
        num_skipped=int(found["num_skipped"]),
        errors=tuple(orjson.loads(found["errors"])),
        labels_fingerprint=found.get("labels_fingerprint", ""),  # absent before there were such files
        num_changed=int(found.get("num_changed", "0")),  # absent where no row would be changed
    )


def _read_row_groups(file: pq.ParquetFile, jsonl: Path, facts: _Facts) -> RowIndex:
    """Fill one array a column; codes in order of first appearance, as `build_index` gives them."""
    num_rows = file.metadata.num_rows
    columns: dict[str, Any] = {name: np.empty(num_rows, dtype) for name, dtype in _DTYPES.items()}
    names: dict[str, dict[str, int]] = {"problem": {}, "source": {}}
    start = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, use_threads=False)
        rows = slice(start, start + table.num_rows)
        for name in SCHEMA.names:
            column = table[name].combine_chunks()
            columns[name][rows] = _codes_of(column, names[name]) if name in names else _numpy(column)
        start += table.num_rows
    return RowIndex(
        path=str(jsonl),
        problem_names=tuple(names["problem"]),
        source_names=tuple(names["source"]),
        file_fingerprint=facts.file_fingerprint,
        tokenizer_hash=facts.tokenizer_hash,
        **{f"{name}_R": column for name, column in columns.items()},
    )


def _codes_of(column: pa.DictionaryArray, codes: dict[str, int]) -> Any:
    """Codes of a dictionary column's strings; new ones are counted on."""
    code_of_entry = np.array([codes.setdefault(name, len(codes)) for name in column.dictionary.to_pylist()], np.int32)
    return code_of_entry[_numpy(column.indices)]


# Arrow's own ways between its arrays and numpy's import pandas: most of a second before a run can be refused, and a
# third of the memory of an index of millions of rows.


def _numpy(column: pa.Array) -> Any:
    """Return a column without nulls as a read-only array."""
    return np.from_dlpack(column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column)


def _arrow(column: np.ndarray) -> pa.Array:
    """Return an array as a column; numbers share its memory."""
    bits = np.packbits(column, bitorder="little") if column.dtype == np.bool_ else np.ascontiguousarray(column)
    return pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(bits)])


def _arrow_strings(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def _command(jsonl: Path, out: Path) -> str:
    place = "" if out == index_path_of(jsonl) else f" --out {out}"
    return f"wmtp data index {jsonl}{place}"


def _refuse_stale(source: Path, indexed: str, jsonl: Path, out: Path) -> None:
    current = file_fingerprint(source)
    if indexed == current:
        return
    old_bytes, new_bytes = indexed.partition("-")[0], current.partition("-")[0]
    change = f"{new_bytes} bytes" if old_bytes != new_bytes else "other content of the same size"
    raise DataError(
        f"{out}: the index is stale: found {change} in {source}, expected the {old_bytes} bytes that were indexed; "
        f"run `{_command(jsonl, out)}`"
    )


def _unwritable(out: Path, error: OSError) -> DataError:
    return DataError(
        f"{out}: the index cannot be written ({error.strerror}), expected a writable directory; "
        "name another file or directory with --out, and in a run with data.index_file"
    )
