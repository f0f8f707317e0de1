"""An index on disk: the Parquet file beside a JSONL, the fingerprint that ties the two, and the refusal of a stale one.

Columns and types are `SCHEMA`, one row per valid line in file order. The Parquet metadata holds `file_fingerprint`,
`tokenizer_hash` (empty until tokens are counted) and what the build left out. Builds nothing: that is `index.py`.
"""

import hashlib
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.contracts import Int32, RowIndex
from wmtp_ray.errors import DataError

FORMAT = "2"
READ_BYTES = 1 << 20
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


@dataclass(frozen=True)
class BuiltIndex:
    """An index and what its build left out: `num_lines` counts lines that are not blank, `errors` lists the first ten
    of the `num_skipped` malformed ones."""

    index: RowIndex
    num_lines: int
    num_skipped: int
    errors: tuple[str, ...]


def index_path_of(jsonl: Path, out: Path | None = None) -> Path:
    """Where the index of a JSONL lies: `<file>.index.parquet` beside it, in the directory `out`, or the file `out`."""
    name = f"{jsonl.name}.index.parquet"
    if out is None:
        return jsonl.with_name(name)
    return out / name if out.is_dir() else out


def open_jsonl(path: Path) -> BinaryIO:
    """Open for buffered reading; raises DataError."""
    try:
        return path.open("rb", buffering=READ_BYTES)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected a JSONL in the row schema; check data.train_file"
        ) from error


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
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(_table_of(built), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
        _sync_directory(out.parent)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        with suppress(OSError):  # the error that matters is the one above
            temporary.unlink(missing_ok=True)


def load_index(jsonl: Path, out: Path | None = None) -> RowIndex:
    """Read the index of a JSONL; raises DataError when it is missing, torn, of another format or stale."""
    return load_built_index(jsonl, out).index


def load_built_index(jsonl: Path, out: Path | None = None) -> BuiltIndex:
    """Read the index of a JSONL with what its build left out; raises like `load_index`."""
    out = index_path_of(jsonl, out)
    table = _read_table(jsonl, out)
    facts = _facts_of(table, jsonl, out)
    current = file_fingerprint(jsonl)
    if facts.file_fingerprint != current:
        raise _stale(jsonl, out, facts.file_fingerprint, current)
    return BuiltIndex(_index_of(table, jsonl, facts), facts.num_lines, facts.num_skipped, facts.errors)


@dataclass(frozen=True)
class _Facts:
    """What the Parquet metadata says about the table."""

    file_fingerprint: str
    tokenizer_hash: str
    num_lines: int
    num_skipped: int
    errors: tuple[str, ...]


def _table_of(built: BuiltIndex) -> pa.Table:
    index = built.index
    problem = pa.DictionaryArray.from_arrays(index.problem_R, pa.array(index.problem_names, pa.string()))
    source = pa.DictionaryArray.from_arrays(index.source_R, pa.array(index.source_names, pa.string()))
    columns = {
        "offset": index.offset_R,
        "num_bytes": index.num_bytes_R,
        "difficulty": index.difficulty_R,
        "is_correct": index.is_correct_R,
        "problem": problem.cast(pa.string()),
        "language": index.language_R,
        "cf_rating": index.cf_rating_R,
        "prompt_tokens": index.prompt_tokens_R,
        "response_tokens": index.response_tokens_R,
        "source": source.cast(pa.string()),
    }
    metadata = {
        "format": FORMAT,
        "file_fingerprint": index.file_fingerprint,
        "tokenizer_hash": index.tokenizer_hash,
        "num_lines": str(built.num_lines),
        "num_skipped": str(built.num_skipped),
        "errors": orjson.dumps(built.errors).decode(),
    }
    return pa.table(columns, schema=SCHEMA.with_metadata(metadata))


def _read_table(jsonl: Path, out: Path) -> pa.Table:
    if not out.exists():
        raise DataError(f"{jsonl}: found no index at {out}, expected one; run `{_command(jsonl, out)}`")
    try:
        return pq.ParquetFile(out).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{out}: found a torn or foreign file ({error}), expected the index of {jsonl}; "
            f"run `{_command(jsonl, out)}`"
        ) from error


def _facts_of(table: pa.Table, jsonl: Path, out: Path) -> _Facts:
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if found.get("format") != FORMAT or not table.schema.equals(SCHEMA):
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
    )


def _index_of(table: pa.Table, jsonl: Path, facts: _Facts) -> RowIndex:
    problem_R, problem_names = _codes_of(table["problem"])
    source_R, source_names = _codes_of(table["source"])
    return RowIndex(
        path=str(jsonl),
        offset_R=_numpy(table["offset"]),
        num_bytes_R=_numpy(table["num_bytes"]),
        difficulty_R=_numpy(table["difficulty"]),
        is_correct_R=_numpy(table["is_correct"]),
        problem_R=problem_R,
        problem_names=problem_names,
        language_R=_numpy(table["language"]),
        cf_rating_R=_numpy(table["cf_rating"]),
        source_R=source_R.astype(np.int16),
        source_names=source_names,
        prompt_tokens_R=_numpy(table["prompt_tokens"]),
        response_tokens_R=_numpy(table["response_tokens"]),
        file_fingerprint=facts.file_fingerprint,
        tokenizer_hash=facts.tokenizer_hash,
    )


def _codes_of(column: pa.ChunkedArray) -> tuple[Int32, tuple[str, ...]]:
    """Codes in order of first appearance, as `build_index` gives them."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.from_dlpack(encoded.indices).astype(np.int32), tuple(name.as_py() for name in encoded.dictionary)


def _numpy(column: pa.ChunkedArray) -> Any:
    """Return a column without nulls as a read-only array. `to_numpy` would do, but it imports pandas: most of a second
    before a run can be refused."""
    if pa.types.is_boolean(column.type):
        return np.from_dlpack(column.cast(pa.int8()).combine_chunks()).astype(np.bool_)
    return np.from_dlpack(column.combine_chunks())


def _command(jsonl: Path, out: Path) -> str:
    place = "" if out == index_path_of(jsonl) else f" --out {out}"
    return f"wmtp data index {jsonl}{place}"


def _stale(jsonl: Path, out: Path, indexed: str, current: str) -> DataError:
    old_bytes, new_bytes = indexed.partition("-")[0], current.partition("-")[0]
    change = f"{new_bytes} bytes" if old_bytes != new_bytes else "other content of the same size"
    return DataError(
        f"{out}: the index is stale: found {change} in {jsonl}, expected the {old_bytes} bytes that were indexed; "
        f"run `{_command(jsonl, out)}`"
    )


def _unwritable(out: Path, error: OSError) -> DataError:
    return DataError(
        f"{out}: the index cannot be written ({error.strerror}), expected a writable directory; "
        "name another file or directory with --out, and in a run with data.index_file"
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
