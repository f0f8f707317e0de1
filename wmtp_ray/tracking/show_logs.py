"""`wmtp logs RUN`: log lines of all processes of a run in order of time, and with --follow new ones as they come."""

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from wmtp_ray.errors import ArtifactError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.log_lines import LogLine, LogTail, chosen
from wmtp_ray.tracking.run_log import DRIVER, ENDED, STARTED

_LOOK_S = 0.2
_START = re.compile(rf"{STARTED}process (?P<pid>\d+) on (?P<host>\S+)")


@dataclass(frozen=True)
class WantedLines:
    """Which lines: of one process (None: of all), from a level on."""

    process: str | None
    level: str


def show_logs(run_dir: Path, wanted: WantedLines, *, follow: bool) -> None:
    """Print the wanted lines of a run's logs; with `follow` go on until the run has ended.

    Raises ArtifactError where there is no run, and without `follow` where there are no logs, or none of the process.
    """
    tail, driver = LogTail(run_dir), _DriverWatch()
    _require_logs(run_dir, tail.processes(), wanted, follow=follow)
    has_ended = False
    while not has_ended:
        has_ended = not follow or driver.has_ended()  # before the look, which then finds what was said until the end
        lines = tail.new()
        driver.see(lines)
        for line in chosen(lines, process=wanted.process, level=wanted.level):
            print(line.text, flush=follow)
        if not has_ended:
            time.sleep(_LOOK_S)


class _DriverWatch:
    """Detects that a run has ended: its driver has logged the end, or was a process of this machine and is gone."""

    def __init__(self) -> None:
        self._started: LogLine | None = None
        self._has_said_so = False

    def see(self, lines: Sequence[LogLine]) -> None:
        for line in (line for line in lines if line.process == DRIVER):
            if line.message.startswith(STARTED):
                self._started, self._has_said_so = line, False
            self._has_said_so |= line.message.startswith(ENDED)

    def has_ended(self) -> bool:
        return self._has_said_so or (self._started is not None and _is_gone(self._started))


def _is_gone(started: LogLine) -> bool:
    """Whether the process of a start line was on this machine and runs no more; another one may have its id by now."""
    found = _START.fullmatch(started.message)
    if found is None or found["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(found["pid"]))
        began_later: bool = process.create_time() > datetime.fromisoformat(started.time).timestamp() + 1.0
        return began_later or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _require_logs(run_dir: Path, processes: list[str], wanted: WantedLines, *, follow: bool) -> None:
    if not run_dir.is_dir():
        others = sorted(path.name for path in run_dir.parent.glob("*") if path.is_dir())
        beside = f"runs beside it are {', '.join(others[-10:])}" if others else "there is none beside it either"
        raise ArtifactError(f"There is no run {run_dir}; {beside}. Name a run's folder, storage/runs/NAME")
    if follow:
        return
    if not processes:
        raise ArtifactError(
            f"{RunFolder(run_dir).logs} holds no log: the run has not started, or an earlier version wrote it. "
            "--follow waits for the first line"
        )
    if wanted.process is not None and wanted.process not in processes:
        raise ArtifactError(
            f"No process {wanted.process!r} has a log in {RunFolder(run_dir).logs}; choose one of "
            f"{', '.join(processes)}"
        )
