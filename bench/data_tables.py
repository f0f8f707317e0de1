"""The tables of bench/data.py: measurements in, Markdown out, every number of ours beside what it was to reach."""

import importlib.metadata
import os
import platform
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import psutil
from data_process import Measurement, cores

MEGABYTE = 1e6
FULL_BYTES = 12e9
WIDTH = 120
PACKAGES = ("numpy", "pyarrow", "orjson", "msgspec", "duckdb", "datasets")

INDEX_NAMES = {
    "json": "json.loads of every line",
    "orjson": "orjson.loads of every line",
    "duckdb 1": "DuckDB read_ndjson to Parquet, 1 thread",
    "duckdb 2": "DuckDB read_ndjson to Parquet, 2 threads",
    "hf inferred": "datasets load_dataset, types inferred",
    "hf declared": "datasets load_dataset, types declared",
    "ours 1": "wmtp_ray, 1 process",
    "ours 2": "wmtp_ray, 2 processes",
}
INDEX_NOTE = """\
MB/s per core is by the CPU seconds of all threads and processes. Ours checks every row, builds and writes the index.
json and orjson parse and keep nothing. DuckDB gets the columns declared, writes them without byte offsets and checks
neither texts nor missing keys. datasets copies all texts into Arrow; "inferred" is load_dataset as it comes, where a
key that some rows lack makes all metadata JSON text. json, orjson and datasets read the slice."""

READ_NAMES = {
    "ours 64": "wmtp_ray read_rows, windows of 64",
    "ours 1024": "wmtp_ray read_rows, windows of 1,024",
    "json": "pread and json.loads, random order",
    "hf inferred rows": "datasets select, types inferred, row by row",
    "hf inferred batches": "datasets select, types inferred, batches of 1,024",
    "hf declared rows": "datasets select, types declared, row by row",
    "hf declared batches": "datasets select, types declared, batches of 1,024",
    "duckdb": "DuckDB table, one query by rowid",
}
READ_NOTE = """\
One process each, page cache warm; what comes out are rows as Python objects, and columns of strings where datasets is
asked for batches. Ours and json read rows of the whole file. datasets and DuckDB read their copies of the slice: as
many bytes a row, shorter ways. Draws are random; ours sorts within its windows, datasets gets them sorted within
windows of 1,024. DuckDB gets one query for all with one thread: a scan that keeps most of what it passes and answers
in file order. Memory counts mapped Arrow pages."""

DISK_NAMES = {
    "hf inferred": "datasets: Arrow cache, types inferred",
    "hf declared": "datasets: Arrow cache, types declared",
    "duckdb": "DuckDB: table of whole rows",
}


@dataclass(frozen=True)
class Environment:
    """The machine before the first job."""

    load_average: float
    cores: int
    total_bytes: int
    available_bytes: int

    @classmethod
    def now(cls) -> Self:
        memory = psutil.virtual_memory()
        return cls(os.getloadavg()[0], cores(), memory.total, memory.available)


def head(command: str, environment: Environment, num_rows: int, whole_bytes: int, part_bytes: int) -> str:
    """Say what was measured, where, and with what."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    fits = environment.available_bytes > 1.25 * whole_bytes
    cached = "fits into free memory" if fits else "does NOT fit into free memory, so a part of it comes from the disk"
    return f"# The data path, {num_rows:,} rows\n\n" + _paragraph(
        f"`{command}` on {environment.cores} CPU cores and {environment.total_bytes / 2**30:.0f} GiB of memory, load "
        f"average {environment.load_average:.2f} at the start, Python {platform.python_version()}, {versions}. The "
        f"file: {whole_bytes / 1e9:.2f} GB in the shape of CodeContests, made by seed (`bench/data_file.py`); it was "
        f"read once before and {cached}. The slice: {part_bytes / 1e9:.2f} GB of its lines, in 64 pieces spread over "
        "it. Each number is from a process of its own, competitors in turn; times are medians of the rounds, without "
        "imports; peak memory is the largest sum of resident bytes over all processes of a job."
    )


def index_table(measured: Mapping[str, Measurement]) -> str:
    """Ways to get a plan's columns out of the JSONL."""
    megabytes = {name: found.facts["read_bytes"] / MEGABYTE for name, found in measured.items()}
    per_core = {name: megabytes[name] / found.cpu_s for name, found in measured.items()}
    rows = []
    for name, found in measured.items():
        ratio, peak = per_core[name] / per_core["json"], found.peak_bytes / MEGABYTE
        reach = judged if name.startswith("ours") else _unjudged
        rows.append(
            (
                INDEX_NAMES[name],
                f"{megabytes[name] / 1000:.2f}",
                f"{found.wall_s:.1f}",
                f"{megabytes[name] / found.wall_s:.0f}",
                f"{per_core[name]:.0f}",
                reach(f"{ratio:.2f}", "at least 2.5", ratio >= 2.5),
                reach(f"{peak:.0f}", "below 300", peak < 300),
            )
        )
    one, two = measured["ours 1"], measured["ours 2"]
    full_s = two.wall_s * FULL_BYTES / two.facts["read_bytes"]
    facts = (
        f"Ours with 2 processes, 12 GB at this rate: {judged(f'{full_s:.1f} s', 'at most 30 s', full_s <= 30)}. "
        f"From 1 to 2 processes: {one.wall_s / two.wall_s:.2f} times as fast. "
    )
    columns = ("reader", "GB read", "seconds", "MB/s", "MB/s per core", "per core, against json", "peak memory, MB")
    return _table("Index", columns, rows, facts + INDEX_NOTE)


def plan_table(measured: Mapping[str, Measurement], num_rows: int) -> str:
    """Loading the index and planning, each alone."""
    load, plan = measured["load"], measured["plan"]
    peak = plan.peak_bytes / MEGABYTE
    rows = [
        ("load_index", f"{load.wall_s:.2f}", f"{load.cpu_s:.2f}", f"{load.peak_bytes / MEGABYTE:.0f}"),
        (
            "plan_training",
            f"{plan.wall_s:.3f}",
            judged(f"{plan.cpu_s:.3f}", "below 0.5", plan.cpu_s < 0.5),
            judged(f"{peak:.0f}", "below 250", peak < 250),
        ),
    ]
    note = (
        f"The plan is stage 2 of the recipe verifiable, {plan.facts['rows']:,} of {num_rows:,} rows. Its process takes "
        f"the index's columns from a pickle, so that the memory of loading Parquet is not in its peak; it stood at "
        f"{plan.facts['peak_before_bytes'] / MEGABYTE:.0f} MB before it planned (interpreter, imports and columns). "
        "Token counts are made up from the bytes of a row."
    )
    return _table("Plan", ("what", "seconds", "CPU seconds", "peak memory, MB"), rows, note)


def read_table(measured: Mapping[str, Measurement]) -> str:
    """Ways to fetch drawn rows."""
    rate = {name: found.facts["rows"] / found.wall_s for name, found in measured.items()}
    fastest_hf = max(rate[name] for name in rate if name.startswith("hf"))
    rows = []
    for name, found in measured.items():
        ratio = rate[name] / rate["hf inferred rows"]
        reach = judged if name.startswith("ours") else _unjudged
        rows.append(
            (
                READ_NAMES[name],
                f"{found.facts['rows']:,}",
                reach(f"{rate[name]:,.0f}", "at least 100,000", rate[name] >= 100_000),
                reach(f"{ratio:.1f}", "at least 10", ratio >= 10),
                f"{rate[name] / fastest_hf:.1f}",
                f"{found.facts['rows'] / found.cpu_s:,.0f}",
                f"{found.peak_bytes / MEGABYTE:.0f}",
            )
        )
    against = ("against datasets as it comes, row by row", "against the fastest of datasets")
    columns = ("reader", "rows", "rows/s", *against, "rows per CPU second", "peak memory, MB")
    return _table("Read", columns, rows, READ_NOTE)


def disk_table(index_bytes: int, whole_bytes: int, copies: Mapping[str, int], part_bytes: int) -> str:
    """What has to be written before a row can be read; `copies` are of the slice."""
    frac = index_bytes / whole_bytes
    ours = (
        "wmtp_ray: index beside the JSONL",
        index_bytes,
        whole_bytes,
        judged(f"{frac:.3%}", "below 1 %", frac < 0.01),
    )
    others = [(DISK_NAMES[name], size, part_bytes, f"{size / part_bytes:.1%}") for name, size in copies.items()]
    rows = [
        (name, f"{written / MEGABYTE:.1f}", f"{source / MEGABYTE:.1f}", share, texts)
        for (name, written, source, share), texts in zip((ours, *others), "0" + "1" * len(others), strict=True)
    ]
    columns = ("what", "MB written", "MB of JSONL", "share", "copies of the texts")
    note = (
        "datasets and DuckDB copied the slice. DuckDB compresses its copy; made texts compress better than real ones."
    )
    return _table("Disk", columns, rows, note)


def judged(value: str, reach: str, met: bool) -> str:
    """Print a number beside what it was to reach."""
    return f"{value} (reach {reach}: {'met' if met else 'NOT met'})"


def _unjudged(value: str, reach: str, met: bool) -> str:
    del reach, met
    return value


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + _paragraph(note)


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"
