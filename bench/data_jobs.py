"""What bench/data.py measures, one job to a process: `python bench/data_jobs.py JOB '{"argument": value}'`.

Prints its facts as JSON: `wall_s` and `cpu_s` (all threads of this process) of the work alone, without imports and
preparation, `peak_bytes` of this process, and what the job counted. Every library is imported by the job that uses it:
the peak must not hold a competitor, and the processes that `build_index` starts import this file again.
"""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from wmtp_ray.contracts import RowIndex

Facts = dict[str, float]
HfTypes = Literal["inferred", "declared"]

METADATA = {
    "source": ("VARCHAR", "string"),
    "difficulty": ("SMALLINT", "int16"),
    "has_tests": ("BOOLEAN", "bool"),
    "language": ("TINYINT", "int8"),
    "cf_rating": ("SMALLINT", "int16"),
    "contest": ("VARCHAR", "string"),
}
TEXTS = ("instruction", "input", "output")
FETCH_ROWS = 1024  # at once from DuckDB
BYTES_PER_TOKEN = 3.4  # makes token counts for the plan; counting 12 GB is no part of this bench


class Clock:
    """Times its block: wall and CPU seconds of this process."""

    def __enter__(self) -> "Clock":
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.facts: Facts = {"wall_s": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu}


def build_ours(path: str, out: str, num_processes: int) -> Facts:
    """Build and write our index."""
    from wmtp_ray.data.index import build_index, write_index

    with Clock() as clock:
        built = build_index(Path(path), on_error="fail", num_processes=num_processes)
        write_index(built, Path(out))
    return clock.facts | _read(path, len(built.index))


def parse_lines(path: str, parser: Literal["json", "orjson"]) -> Facts:
    """Parse every line and keep nothing: less than an index needs."""
    import orjson

    loads: Callable[[bytes], Any] = {"json": json.loads, "orjson": orjson.loads}[parser]
    rows = 0
    with Path(path).open("rb", buffering=1 << 20) as file, Clock() as clock:
        for line in file:
            loads(line)
            rows += 1
    return clock.facts | _read(path, rows)


def build_duckdb(path: str, out: str, threads: int) -> Facts:
    """Write the index's columns as Parquet with DuckDB: no byte offsets, and the texts are skipped unchecked."""
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    columns = f"task_id, is_correct, {', '.join(f'metadata.{name} AS {name}' for name in METADATA)}"
    with Clock() as clock:
        connection.execute(
            f"COPY (SELECT {columns} FROM {_read_ndjson(path, ())}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
        )
    rows = connection.execute(f"SELECT count(*) FROM '{out}'").fetchall()[0][0]
    return clock.facts | _read(path, rows)


def build_hf(path: str, folder: str, types: HfTypes) -> Facts:
    """Load a JSONL with `datasets` into an empty cache; its own conversion to Arrow is what is timed."""
    shutil.rmtree(folder, ignore_errors=True)
    import datasets  # noqa: F401  the import is no part of the time

    with Clock() as clock:
        loaded = _load_hf(path, folder, types)
    return clock.facts | _read(path, len(loaded))


def copy_into_duckdb(path: str, out: str) -> Facts:
    """Make a DuckDB table of whole rows: a JSONL has no row ids to look up."""
    import duckdb

    Path(out).unlink(missing_ok=True)
    with duckdb.connect(out) as connection:
        connection.execute(f"CREATE TABLE rows AS SELECT * FROM {_read_ndjson(path, TEXTS)}")
    return {}


def load_ours(path: str, index: str) -> Facts:
    """Load our index."""
    from wmtp_ray.data.index import load_index

    with Clock() as clock:
        loaded = load_index(Path(path), Path(index))
    return clock.facts | {"rows": len(loaded)}


def keep_columns(path: str, index: str, out: str, seed: int) -> Facts:
    """Keep an index with made-up token counts as a pickle, from which `plan` loads it without Parquet's memory."""
    import pickle
    from dataclasses import replace

    import numpy as np

    from wmtp_ray.data.index import load_index

    loaded = load_index(Path(path), Path(index))
    num_tokens_R = loaded.num_bytes_R / BYTES_PER_TOKEN
    prompt_frac_R = np.random.default_rng(seed).uniform(0.4, 0.7, len(loaded))
    counted = replace(
        loaded,
        prompt_tokens_R=(num_tokens_R * prompt_frac_R).astype(np.int32),
        response_tokens_R=(num_tokens_R * (1 - prompt_frac_R)).astype(np.int32),
        tokenizer_hash="made-up",
    )
    with Path(out).open("wb") as file:
        pickle.dump(counted, file, protocol=5)
    return {}


def plan(columns: str, num_rows: int, seed: int) -> Facts:
    """Plan stage 2 of the recipe `verifiable` from the columns in memory."""
    import pickle
    from datetime import datetime

    from wmtp_ray.config.load import Arguments, load_config
    from wmtp_ray.plan.run_plan import plan_training

    overrides = (f"train.sampling.n_samples={num_rows}",)
    arguments = Arguments(recipe="verifiable", preset=None, run_name="bench", overrides=overrides)
    config = load_config(arguments, now=datetime.now())
    with Path(columns).open("rb") as file:
        index: RowIndex = pickle.load(file)
    before = _peak_bytes()
    with Clock() as clock:
        planned = plan_training(index, config.data, config.train, seed)
    return clock.facts | {"rows": planned.num_rows, "peak_before_bytes": before}


def read_ours(path: str, index: str, num_rows: int, window_rows: int, seed: int) -> Facts:
    """Read and parse drawn rows with `read_rows`, a window of the stream at a time."""
    from wmtp_ray.data.index import load_index
    from wmtp_ray.data.rows import read_rows

    loaded = load_index(Path(path), Path(index))
    windows = [
        (loaded.offset_R[row_ids_N].tolist(), loaded.num_bytes_R[row_ids_N].tolist())
        for row_ids_N in _windows(len(loaded), num_rows, window_rows, seed)
    ]
    rows = 0
    with Clock() as clock:
        for offset_N, num_bytes_N in windows:
            rows += len(read_rows(Path(path), offset_N, num_bytes_N))
    return clock.facts | {"rows": rows}


def read_with_json(path: str, index: str, num_rows: int, seed: int) -> Facts:
    """Read drawn rows in random order, one `pread` and one `json.loads` each."""
    from wmtp_ray.data.index import load_index

    loaded = load_index(Path(path), Path(index))
    row_ids_N = _drawn(len(loaded), num_rows, seed)
    places = list(zip(loaded.offset_R[row_ids_N].tolist(), loaded.num_bytes_R[row_ids_N].tolist(), strict=True))
    descriptor = os.open(path, os.O_RDONLY)
    with Clock() as clock:
        for offset, num_bytes in places:
            json.loads(os.pread(descriptor, num_bytes, offset))
    return clock.facts | {"rows": len(places)}


def read_hf(
    path: str, folder: str, types: HfTypes, num_rows: int, window_rows: int, batch_rows: int, seed: int
) -> Facts:
    """Iterate over `.select(row ids)`, by rows or, with batch_rows > 1, in batches, which give columns instead."""
    loaded = _load_hf(path, folder, types)
    windows = _windows(len(loaded), num_rows, window_rows, seed)
    selected = loaded.select([row_id for window_N in windows for row_id in window_N.tolist()])
    rows = 0
    with Clock() as clock:
        if batch_rows == 1:
            for _ in selected:
                rows += 1
        else:
            for batch in selected.iter(batch_size=batch_rows):
                rows += len(batch["task_id"])
    return clock.facts | {"rows": rows}


def read_duckdb(table: str, num_rows: int, seed: int) -> Facts:
    """Fetch drawn rows of the table in one query; they come in the table's order, not in the drawn one."""
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(table, read_only=True, config={"threads": 1})
    in_table = connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]
    connection.register("wanted", pa.table({"id": _drawn(in_table, num_rows, seed)}))
    rows = 0
    with Clock() as clock:
        result = connection.execute("SELECT * FROM rows WHERE rowid IN (SELECT id FROM wanted)")
        while batch := result.fetchmany(FETCH_ROWS):
            rows += len(batch)
    return clock.facts | {"rows": rows}


def _read_ndjson(path: str, texts: Sequence[str]) -> str:
    struct = ", ".join(f"{name} {sql}" for name, (sql, _) in METADATA.items())
    columns = {
        **dict.fromkeys((*texts, "task_id"), "VARCHAR"),
        "is_correct": "BOOLEAN",
        "metadata": f"STRUCT({struct})",
    }
    return f"read_ndjson('{path}', columns={{{', '.join(f'{name}: {kind!r}' for name, kind in columns.items())}}})"


def _load_hf(path: str, folder: str, types: HfTypes) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    features = None
    if types == "declared":
        metadata = {name: datasets.Value(kind) for name, (_, kind) in METADATA.items()}
        texts = dict.fromkeys((*TEXTS, "task_id"), datasets.Value("string"))
        features = datasets.Features({**texts, "is_correct": datasets.Value("bool"), "metadata": metadata})
    return datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder, features=features)


def _drawn(num_rows: int, num_drawn: int, seed: int) -> "np.ndarray":
    import numpy as np

    return np.random.default_rng(seed).permutation(num_rows)[:num_drawn]


def _windows(num_rows: int, num_drawn: int, window_rows: int, seed: int) -> "Iterator[np.ndarray]":
    """Split a draw into the stream's windows, each sorted into file order."""
    row_ids_N = _drawn(num_rows, num_drawn, seed)
    for start in range(0, len(row_ids_N), window_rows):
        window_N = row_ids_N[start : start + window_rows].copy()
        window_N.sort()
        yield window_N


def _read(path: str, rows: int) -> Facts:
    return {"rows": rows, "read_bytes": Path(path).stat().st_size}


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would carry over the peak of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


JOBS: dict[str, Callable[..., Facts]] = {
    job.__name__: job
    for job in (
        build_ours,
        parse_lines,
        build_duckdb,
        build_hf,
        copy_into_duckdb,
        load_ours,
        keep_columns,
        plan,
        read_ours,
        read_with_json,
        read_hf,
        read_duckdb,
    )
}


if __name__ == "__main__":
    found = JOBS[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(found | {"peak_bytes": _peak_bytes()}))
