"""Follows a metrics.jsonl that another process writes, line by line as it grows. Writes nothing."""

import os
from pathlib import Path

from wmtp_ray.contracts import StepReport
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import report_of


class MetricsTail:
    """Returns each step of one stage once, also when the run goes back to a checkpoint and writes steps again."""

    def __init__(self, run_dir: Path, stage: int) -> None:
        self._path = RunFolder(run_dir).metrics
        self._stage = stage
        self._file_id: int | None = None
        self._read_bytes = 0
        self._last_step = -1

    def new(self) -> list[StepReport]:
        """Return the whole lines of the stage that have come since the last call."""
        try:
            with self._path.open("rb") as file:
                self._go_on_in(file.fileno())
                file.seek(self._read_bytes)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._read_bytes += len(whole) + 1 if whole else 0
        reports = [report_of(line, self._path)[0] for line in whole.splitlines()]
        return [report for report in reports if report.stage == self._stage and self._is_new(report.step)]

    def _go_on_in(self, descriptor: int) -> None:
        """Start from the top of another file: a resumed run replaces it."""
        status = os.fstat(descriptor)
        if status.st_ino != self._file_id or status.st_size < self._read_bytes:
            self._file_id, self._read_bytes = status.st_ino, 0

    def _is_new(self, step: int) -> bool:
        is_new = step > self._last_step
        self._last_step = max(step, self._last_step)
        return is_new
