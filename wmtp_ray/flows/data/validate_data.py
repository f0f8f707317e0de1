"""`wmtp data validate`: check data files, each alone and as splits against each other, in one pass over their bytes.

Small files are scanned in this process, larger ones in Ray Data tasks of one CPU over byte ranges; the findings are the
same. The driver needs some 60 bytes a row. Meanwhile a thread hashes each file, which cannot be split.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.data.benchmarks import read_humaneval, read_mbpp
from wmtp_ray.data.index_ranges import refuse_other_encoding
from wmtp_ray.data.validation.checksums import Checksum, expected_checksum, find_other_bytes
from wmtp_ray.data.validation.findings import ScannedFile, find_in_rows
from wmtp_ray.data.validation.overlap import find_overlap
from wmtp_ray.data.validation.passages import BenchmarkTask, Passages
from wmtp_ray.data.validation.report import CheckedFile, ValidationReport
from wmtp_ray.data.validation.rules import Rule
from wmtp_ray.data.validation.scan import ScannedRows, cut_ranges, join_scans, scan_range
from wmtp_ray.errors import DataError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.data.block_tasks import run_block_tasks

Progress = Callable[[int, int], None]
Range = tuple[Path, int, int]

IN_PROCESS_BYTES = 64 << 20  # some 20,000 rows: scanned before Ray would have started
RANGE_BYTES = 32 << 20
_READERS = {"humaneval": read_humaneval, "mbpp": read_mbpp}


def validate_data(
    files: Sequence[Path],
    *,
    benchmarks: Mapping[str, Path],
    on_progress: Progress | None = None,
    in_process_bytes: int = IN_PROCESS_BYTES,
    range_bytes: int = RANGE_BYTES,
) -> ValidationReport:
    """Check JSONL files, which are the splits of one data set, against the rules of `data.validation.rules`.

    `benchmarks` maps "humaneval" and "mbpp" to their published files. `on_progress(bytes_done, num_bytes)` may watch.
    Raises DataError when a file cannot be read or changes meanwhile; malformed rows are findings, not errors.
    """
    _refuse_repeated(files)
    before = [_stat_of(path) for path in files]
    for path in files:
        refuse_other_encoding(path)
    num_bytes = [stat.st_size for stat in before]
    tasks = {name: _tasks(name, path) for name, path in benchmarks.items()}
    every_task = tuple(task for of_benchmark in tasks.values() for task in of_benchmark)
    ranges = [
        (path, start, end)
        for path, size in zip(files, num_bytes, strict=True)
        for start, end in cut_ranges(size, range_bytes)
    ]
    scan = _scan_here if sum(num_bytes) <= in_process_bytes else _scan_with_ray
    with ThreadPoolExecutor(max_workers=1) as hashing:
        hashes = [hashing.submit(file_sha256, path) for path in files]
        scans = _by_file(files, ranges, scan(ranges, every_task), on_progress)
        checksums = [expected_checksum(path, sha256.result()) for path, sha256 in zip(files, hashes, strict=True)]
    _refuse_changed(files, before)
    names = _short_names(files)
    scanned = [ScannedFile(path, name, rows) for path, name, rows in zip(files, names, scans, strict=True)]
    findings = find_in_rows(scanned) + find_overlap(scanned, Passages(every_task))
    for name, checksum in zip(names, checksums, strict=True):
        findings += find_other_bytes(name, checksum)
    return ValidationReport(
        files=tuple(map(_checked_file, scanned, num_bytes, checksums)),
        benchmarks={name: len(of_benchmark) for name, of_benchmark in tasks.items()},
        findings=tuple(sorted(findings, key=lambda finding: list(Rule).index(finding.rule))),
    )


def _refuse_repeated(files: Sequence[Path]) -> None:
    repeated = [
        path for number, path in enumerate(files) if path.resolve() in {one.resolve() for one in files[:number]}
    ]
    if repeated:
        raise DataError(f"{repeated[0]} is given twice; expected different splits: give each file once")


def _stat_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a JSONL in the row schema") from error


def _refuse_changed(files: Sequence[Path], before: Sequence[os.stat_result]) -> None:
    for path, then in zip(files, before, strict=True):
        now = _stat_of(path)
        if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise DataError(
                f"{path}: changed while it was being checked; wait until it is written, then check it again"
            )


def _tasks(name: str, path: Path) -> tuple[BenchmarkTask, ...]:
    if name not in _READERS:
        raise DataError(
            f"found a benchmark named {name}, expected one of {', '.join(_READERS)}; give --benchmark NAME=FILE"
        )
    return tuple(
        BenchmarkTask(problem.task_id, problem.split == "test", (problem.prompt, problem.reference))
        for problem in _READERS[name]([path])
    )


def _short_names(files: Sequence[Path]) -> list[str]:
    """Call files by their names where those differ, else by their whole paths."""
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]


def _by_file(
    files: Sequence[Path], ranges: Sequence[Range], scans: Iterator[ScannedRows], on_progress: Progress | None
) -> list[ScannedRows]:
    """Join the scans of each file's ranges, which come in the order of `ranges`."""
    num_bytes, bytes_done = sum(end - start for _, start, end in ranges), 0

    def scans_of(path: Path) -> Iterator[ScannedRows]:
        nonlocal bytes_done
        for of_file, start, end in ranges:
            if of_file == path:
                yield next(scans)
                bytes_done += end - start
                if on_progress is not None:
                    on_progress(bytes_done, num_bytes)

    return [join_scans(scans_of(path)) for path in files]


def _scan_here(ranges: Sequence[Range], tasks: tuple[BenchmarkTask, ...]) -> Iterator[ScannedRows]:
    for path, start, end in ranges:
        yield scan_range(path, start, end, tasks)


def _scan_with_ray(ranges: Sequence[Range], tasks: tuple[BenchmarkTask, ...]) -> Iterator[ScannedRows]:
    """Scan one range a task, in order. A scan is several tables of different lengths: it travels pickled."""
    with joined(num_cpus=None):
        blocks = [pa.table({"path": [str(path)], "start": [start], "end": [end]}) for path, start, end in ranges]
        for block in run_block_tasks(blocks, _scan_block, (tasks,), in_order=True):
            yield from _scans_of(block)


def _scan_block(table: pa.Table, tasks: tuple[BenchmarkTask, ...]) -> pa.Table:
    """Ray Data task: scan the ranges of a block."""
    scans = [pickle.dumps(scan_range(Path(job["path"]), job["start"], job["end"], tasks)) for job in table.to_pylist()]
    return pa.table({"scan": pa.array(scans, pa.large_binary())})


def _scans_of(block: pa.Table) -> Iterator[ScannedRows]:
    return map(pickle.loads, block["scan"].to_pylist())


def _checked_file(file: ScannedFile, num_bytes: int, checksum: Checksum) -> CheckedFile:
    return CheckedFile(
        name=file.name,
        path=os.fspath(file.path),
        num_bytes=num_bytes,
        sha256=checksum.sha256,
        manifest=None if checksum.manifest is None else str(checksum.manifest),
        num_rows=len(file.rows),
        num_correct=int(file.rows.is_correct_N.sum()),
        num_problems=len(file.rows.problems),
    )
