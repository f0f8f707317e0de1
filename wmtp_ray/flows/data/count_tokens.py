"""Token counts of a whole file: in this process for a small one, else through Ray Data on every CPU, restartable.

    rows -> ranges -> Ray Data: count_range (one task a CPU) -> parts in <index>.counting/ -> the counted index

Each range that is counted is kept as a part, whole or not at all, under a name made of all that its counts depend on:
tokenizer, file and rows. A pass that was killed starts again where it was; parts of another tokenizer or file are
removed, and in the end the folder is. The driver writes the parts: nodes share the JSONL, not the folder. Imports Ray
only to count a large file.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from wmtp_ray.contracts import Int32, RowIndex
from wmtp_ray.data.index import (
    BuiltIndex,
    OnError,
    counts_of_rows,
    index_path_of,
    load_or_build_index,
    write_index,
)
from wmtp_ray.data.row_counts import with_counts
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.data.block_tasks import run_block_tasks

PARALLEL_ROWS = 20_000  # below it, counting takes less than starting Ray
RANGE_ROWS = 8192
_UNCOUNTED = -1


def ensure_counted_index(
    jsonl: Path, tokenizer: CodeTokenizer, *, on_error: OnError, index_path: Path | None, num_cpus: int | None
) -> RowIndex:
    """Do what `ensure_index` does, and raise what it raises; a large file is counted through Ray."""
    out = index_path_of(jsonl, index_path)
    built = load_or_build_index(jsonl, out, on_error=on_error, tokenizer=tokenizer)
    if built.index.tokenizer_hash == tokenizer.counts_hash:
        return built.index
    return write_counted(built, tokenizer, out, num_cpus, on_error=on_error).index


def write_counted(
    built: BuiltIndex, tokenizer: CodeTokenizer, out: Path, num_cpus: int | None, *, on_error: OnError = "fail"
) -> BuiltIndex:
    """Write an index to `out`, count its tokens and write it again; after a kill the next call continues the count.

    The counts are those of `count_tokens`. Raises DataError when the place cannot be written, a row is not what the
    index says, or, with `on_error="fail"`, when the tokenizer would change rows; ConfigError when the cluster has no
    CPU.
    """
    write_index(built, out)  # first, so that a place that cannot be written fails before the minutes of counting
    small = len(built.index) < PARALLEL_ROWS
    counts_2R = (
        counts_of_rows(built.index, tokenizer) if small else _count_in_parts(built.index, tokenizer, out, num_cpus)
    )
    counted = with_counts(built, counts_2R, tokenizer, on_error=on_error)
    write_index(counted, out)
    shutil.rmtree(_parts_folder(out), ignore_errors=True)
    return counted


def _count_in_parts(index: RowIndex, tokenizer: CodeTokenizer, out: Path, num_cpus: int | None) -> Int32:
    parts = _Parts(_parts_folder(out), index, tokenizer)
    counts, missing = parts.load()
    with _progress(len(index), int((counts[0] != _UNCOUNTED).sum())) as counted_rows:
        for start, range_counts in _count_ranges(index, missing, tokenizer, num_cpus):
            parts.save(start, range_counts)
            counts[:, start : start + range_counts.shape[1]] = range_counts
            counted_rows(range_counts.shape[1])
    return counts


def _parts_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.counting")


@dataclass(frozen=True)
class _Parts:
    """The ranges of a pass on disk: `<key>-<start>-<stop>.npy` holds prompt and response tokens, int32 [2, rows]."""

    folder: Path
    index: RowIndex
    tokenizer: CodeTokenizer

    def load(self) -> tuple[Int32, list[tuple[int, int]]]:
        """Return the counts so far, [2, R] (-1 elsewhere), and the ranges that are missing. Other parts are removed."""
        counts, missing = np.full((2, len(self.index)), _UNCOUNTED, np.int32), []
        paths = {self._path(start, stop): (start, stop) for start, stop in self._ranges()}
        for stale in set(self.folder.glob("*")) - set(paths):
            stale.unlink()
        for path, (start, stop) in paths.items():
            part = _read_part(path, stop - start)
            if part is None:
                missing.append((start, stop))
            else:
                counts[:, start:stop] = part
        return counts, missing

    def save(self, start: int, counts: Int32) -> None:
        """Keep a range, whole or not at all."""
        with atomic_file(self._path(start, start + counts.shape[1])) as temporary, temporary.open("wb") as file:
            np.save(file, counts)

    def _ranges(self) -> list[tuple[int, int]]:
        num_rows = len(self.index)
        return [(start, min(start + RANGE_ROWS, num_rows)) for start in range(0, num_rows, RANGE_ROWS)]

    def _path(self, start: int, stop: int) -> Path:
        key = sha256(f"{self.tokenizer.counts_hash} {self.index.file_fingerprint}".encode()).hexdigest()[:16]
        return self.folder / f"{key}-{start:09d}-{stop:09d}.npy"


def _read_part(path: Path, num_rows: int) -> Int32 | None:
    """Read a part; None if it is missing or, after a crash of the machine, incomplete."""
    try:
        counts: Int32 = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return counts if counts.shape == (2, num_rows) and counts.dtype == np.int32 else None


def _count_ranges(
    index: RowIndex, ranges: Sequence[tuple[int, int]], tokenizer: CodeTokenizer, num_cpus: int | None
) -> Iterator[tuple[int, Int32]]:
    """Yield the first row and the counts of every range, as they are finished. Raises DataError of a bad row."""
    if not ranges:
        return
    with joined(num_cpus):
        from actors.token_counter import count_range, range_table, ranges_of

        tables = [range_table(index, start, stop) for start, stop in ranges]
        for block in run_block_tasks(tables, count_range, (index.path, tokenizer), in_order=False):
            yield from ranges_of(block)


@contextmanager
def _progress(num_rows: int, counted: int) -> Iterator[Callable[[int], None]]:
    """Draw a progress line on a terminal's stderr; the block calls the yielded function with the number of new rows."""
    console = Console(stderr=True)
    columns = ("counting tokens", BarColumn(), MofNCompleteColumn(), _RowsPerSecond(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=num_rows, completed=counted)
        yield lambda rows: progress.advance(task, rows)


class _RowsPerSecond(ProgressColumn):
    """The speed of the last half minute."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")
