"""The ranges of a JSONL, shared out among processes and given back in order.

Not a ProcessPoolExecutor: its children import the parent's main module before they do anything, and that of a command
brings pyarrow and pydantic along, which costs each of them more memory and start-up time than the work does. Ours
import the decoder (`index_worker.py`). Nothing is forked, so it is safe under threads and on macOS.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from wmtp_ray.data.index_ranges import RangeRows, scan_range
from wmtp_ray.data.index_worker import read_frame
from wmtp_ray.errors import DataError

RANGE_BYTES = 1 << 24
RANGE_DEADLINE_S = 600.0  # a range takes a fraction of a second; a disk that does not answer takes for ever
BYTES_OF_A_PROCESS = 1 << 26  # a file of less is indexed sooner than processes start


def scan_file(
    path: Path, num_processes: int | None, *, labels_elsewhere: bool, deadline_s: float = RANGE_DEADLINE_S
) -> Generator[RangeRows]:
    """Index every range of a file, in file order; the rows are the same for any number of processes.

    `num_processes` None means one a core that this process may use, and none for a small file. Raises DataError, also
    when a process takes more than `deadline_s` for a range.
    """
    num_bytes = path.stat().st_size
    ranges = [(start, min(start + RANGE_BYTES, num_bytes)) for start in range(0, num_bytes, RANGE_BYTES)]
    if num_processes is None:
        num_processes = min(_num_cores(), num_bytes // BYTES_OF_A_PROCESS)
    if min(num_processes, len(ranges)) > 1:
        workers = [_Worker(path, labels_elsewhere, deadline_s) for _ in range(min(num_processes, len(ranges)))]
        yield from _scan_in_processes(workers, ranges)
        return
    for start, stop in ranges:
        yield scan_range(path, start, stop, labels_elsewhere=labels_elsewhere)


def _scan_in_processes(workers: "list[_Worker]", ranges: list[tuple[int, int]]) -> Iterator[RangeRows]:
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def scan(byte_range: tuple[int, int]) -> RangeRows:
        worker = idle.get()
        try:
            return worker.scan(*byte_range)
        finally:
            idle.put(worker)

    executor = ThreadPoolExecutor(len(workers), thread_name_prefix="index")
    try:
        yield from executor.map(scan, ranges)
    finally:
        for worker in workers:
            worker.kill()  # first, so that no thread waits for an answer any more
        executor.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """One `index_worker` process; used by one thread at a time."""

    def __init__(self, path: Path, labels_elsewhere: bool, deadline_s: float) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._is_late = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wmtp_ray.data.index_worker", str(path), str(labels_elsewhere)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which stops its workers
        )

    def scan(self, start: int, stop: int) -> RangeRows:
        """Index one range; raises DataError when the process is gone, or takes too long and is killed for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(self._deadline_s, self._kill_late)
        limit.daemon = True
        limit.start()
        try:
            self._process.stdin.write(b"%d %d\n" % (start, stop))
            self._process.stdin.flush()
            rows = read_frame(self._process.stdout)
        except BrokenPipeError:
            rows = None
        finally:
            limit.cancel()
        if rows is None and self._is_late.is_set():
            raise DataError(
                f"{self._path}: no rows of the bytes {start}-{stop} within {self._deadline_s:g} s, expected: in a "
                "second; the process that indexed them is killed. Look for a disk that does not answer; index again"
            )
        if rows is None:
            raise DataError(
                f"{self._path}: a process that indexed the bytes {start}-{stop} ended with exit code "
                f"{self._process.wait()}, expected its rows (-9 is the system's answer to too little memory, anything "
                "else has its reason above); make room and index again"
            )
        return rows

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _kill_late(self) -> None:
        self._is_late.set()
        self._process.kill()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # a range that the killed process did not take any more
                stream.close()


def _num_cores() -> int:
    """Cores that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
