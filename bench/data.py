"""The data path at full size against what else one could use: building the index, planning, reading rows, disk.

    python bench/data.py [--rows 3691981] [--folder DIR] [--quick] [--only index,plan,read,disk] [--rounds 3] [--out F]

Makes a file like all of CodeContests once (`data_file.py`, 12 GB, kept in --folder), then runs every job of
`data_jobs.py` in a process of its own, the competitors of a subject in turn, --rounds times over, and prints one table
a subject (`data_tables.py`). --quick takes 200,000 rows: its ratios mean something, what it says of memory and of the
time for 12 GB does not. Needs the extra `bench`.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_file import FULL_ROWS, write_rows, write_slice
from data_process import Measurement, cores, median_of, run_job, warm
from data_tables import Environment, disk_table, head, index_table, plan_table, read_table

SEED = 0
QUICK_ROWS = 200_000
PLANNED_ROWS = 200_000
SLICE_BYTES = 1_000_000_000
WINDOW_ROWS = (64, 1024)
BATCH_ROWS = 1024
HF_TYPES = ("inferred", "declared")

Job = Callable[[], Measurement]


@dataclass(frozen=True)
class Files:
    """What the jobs read and write. `part` is a slice for competitors that are too slow, or copy too much, for all."""

    folder: Path
    num_rows: int

    @property
    def whole(self) -> Path:
        return self.folder / f"rows-{self.num_rows}.jsonl"

    @property
    def part(self) -> Path:
        return self.folder / f"rows-{self.num_rows}-part.jsonl"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.whole.name}.index.parquet"

    @property
    def columns(self) -> Path:
        return self.folder / f"{self.whole.name}.columns.pickle"

    @property
    def duckdb_table(self) -> Path:
        return self.folder / f"{self.part.stem}.duckdb"

    def hf_copy(self, types: str) -> Path:
        return self.folder / f"{self.part.stem}-hf-{types}"

    @property
    def planned_rows(self) -> int:
        return min(PLANNED_ROWS, self.num_rows // 8)


def main() -> None:
    """Make the file, measure the subjects asked for, print and write the tables."""
    subjects: dict[str, Callable[[Files, int], str]] = {
        "index": measure_index,
        "plan": measure_plan,
        "read": measure_read,
        "disk": measure_disk,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FULL_ROWS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "wmtp_bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(subjects))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(subjects):
        parser.error(f"--only knows no {', '.join(sorted(unknown))}; it takes {', '.join(subjects)}")
    environment = Environment.now()  # before the file is made, which is work too
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(arguments.folder / "hf-home")}
    files = made_files(arguments.folder, QUICK_ROWS if arguments.quick else arguments.rows)
    command = f"python bench/data.py --rows {files.num_rows} --only {arguments.only} --rounds {arguments.rounds}"
    text = head(command, environment, files.num_rows, files.whole.stat().st_size, files.part.stat().st_size)
    for subject in wanted:
        text += "\n" + subjects[subject](files, arguments.rounds)
        if arguments.out is not None:  # after each: the whole takes a while
            arguments.out.write_text(text)
    print(text)


def made_files(folder: Path, num_rows: int) -> Files:
    """Make the JSONL and its slice unless they lie there, and read both once."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder, num_rows)
    if not files.whole.exists():
        write_rows(files.whole, num_rows, SEED, cores())
    if not files.part.exists():
        write_slice(files.part, files.whole, min(SLICE_BYTES, files.whole.stat().st_size // 4))
    warm(files.part, files.whole)
    return files


def measure_index(files: Files, rounds: int) -> str:
    """Compare ways to get a plan's columns out of the JSONL."""
    with tempfile.TemporaryDirectory(dir=files.folder) as scratch:
        parquet, arrow = Path(scratch) / "duckdb.parquet", Path(scratch) / "hf"
        jobs = {
            "json": job("parse_lines", path=files.part, parser="json"),
            "orjson": job("parse_lines", path=files.part, parser="orjson"),
            "duckdb 1": job("build_duckdb", path=files.whole, out=parquet, threads=1),
            "duckdb 2": job("build_duckdb", path=files.whole, out=parquet, threads=2),
            "hf inferred": job("build_hf", path=files.part, folder=arrow, types="inferred"),
            "hf declared": job("build_hf", path=files.part, folder=arrow, types="declared"),
            "ours 1": job("build_ours", path=files.whole, out=files.index, num_processes=1),
            "ours 2": job("build_ours", path=files.whole, out=files.index, num_processes=2),
        }
        return index_table(interleaved(jobs, rounds))


def measure_plan(files: Files, rounds: int) -> str:
    """Time loading the index and planning, each alone."""
    ensure_index(files)
    run_job("keep_columns", path=files.whole, index=files.index, out=files.columns, seed=SEED)
    jobs = {
        "load": job("load_ours", path=files.whole, index=files.index),
        "plan": job("plan", columns=files.columns, num_rows=files.planned_rows, seed=SEED),
    }
    return plan_table(interleaved(jobs, rounds), files.num_rows)


def measure_read(files: Files, rounds: int) -> str:
    """Compare ways to fetch drawn rows."""
    ensure_index(files)
    ensure_copies(files)
    drawn: dict[str, Any] = {"num_rows": files.planned_rows, "seed": SEED}
    ours = {"path": files.whole, "index": files.index, **drawn}
    jobs = {f"ours {rows}": job("read_ours", window_rows=rows, **ours) for rows in WINDOW_ROWS}
    jobs["json"] = job("read_with_json", **ours)
    for types in HF_TYPES:
        copy = {"path": files.part, "folder": files.hf_copy(types), "types": types, "window_rows": BATCH_ROWS, **drawn}
        jobs[f"hf {types} rows"] = job("read_hf", batch_rows=1, **copy)
        jobs[f"hf {types} batches"] = job("read_hf", batch_rows=BATCH_ROWS, **copy)
    jobs["duckdb"] = job("read_duckdb", table=files.duckdb_table, **drawn)
    return read_table(interleaved(jobs, rounds))


def measure_disk(files: Files, rounds: int) -> str:
    """Compare what has to be written before a row can be read; there is nothing to repeat."""
    del rounds
    ensure_index(files)
    ensure_copies(files)
    copies = {f"hf {types}": sum(file.stat().st_size for file in cached(files, types)) for types in HF_TYPES}
    copies["duckdb"] = files.duckdb_table.stat().st_size
    return disk_table(files.index.stat().st_size, files.whole.stat().st_size, copies, files.part.stat().st_size)


def ensure_index(files: Files) -> None:
    """Build our index unless it lies there."""
    if not files.index.exists():
        run_job("build_ours", path=files.whole, out=files.index, num_processes=cores())


def ensure_copies(files: Files) -> None:
    """Make the copies of the slice that the competitors read, unless they lie there, and read them once."""
    for types in HF_TYPES:
        if not files.hf_copy(types).exists():
            run_job("build_hf", path=files.part, folder=files.hf_copy(types), types=types)
        warm(*cached(files, types))
    if not files.duckdb_table.exists():
        run_job("copy_into_duckdb", path=files.part, out=files.duckdb_table)
    warm(files.duckdb_table)


def cached(files: Files, types: str) -> list[Path]:
    """List the files of a copy that `datasets` made."""
    return [file for file in files.hf_copy(types).rglob("*") if file.is_file()]


def job(name: str, **arguments: Any) -> Job:
    """Bind a job to its arguments."""
    return lambda: run_job(name, **arguments)


def interleaved(jobs: Mapping[str, Job], rounds: int) -> dict[str, Measurement]:
    """Run all jobs in turn, `rounds` times, so that a busy minute of the machine falls on all of them."""
    measured: dict[str, list[Measurement]] = {name: [] for name in jobs}
    for number in range(1, rounds + 1):
        for name, run in jobs.items():
            found = run()
            measured[name].append(found)
            print(f"round {number}, {name}: {found.wall_s:.2f} s, {found.peak_bytes / 1e6:.0f} MB", flush=True)
    return {name: median_of(found) for name, found in measured.items()}


if __name__ == "__main__":
    main()
