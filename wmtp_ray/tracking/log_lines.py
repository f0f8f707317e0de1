"""Reading the logs of a run: the lines of all processes, in order of time, those that are new and those that come.

The order is that of the clocks of the machines that the processes run on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.run_log import LOG_SUFFIX

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # from the mildest on
_BEGIN = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>[A-Z]+) +(?P<process>\S+) "
    r"(?:stage=\d+ )?(?:step=\d+ )?(?P<message>.*)"
)


@dataclass(frozen=True)
class LogLine:
    """One record of a process's log; `text` is all of it, as in the file."""

    time: str
    level: str
    process: str
    message: str
    text: str

    def is_at_least(self, level: str) -> bool:
        """Whether the line is of this level or of a graver one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


class LogTail:
    """Reads the logs of a run as they grow; `from_end`: only what comes after it was made."""

    def __init__(self, run_dir: Path, *, from_end: bool = False) -> None:
        self._logs = RunFolder(run_dir).logs
        self._read_bytes: dict[Path, int] = {}
        if from_end:
            self._read_bytes = {path: path.stat().st_size for path in self._files()}

    def processes(self) -> list[str]:
        """Return the names of the processes that have logged anything."""
        return [path.name.removesuffix(LOG_SUFFIX) for path in self._files()]

    def new(self) -> list[LogLine]:
        """Return the lines that have come since the last call, in order of time."""
        lines = [line for path in self._files() for line in parse_lines(self._new_text(path))]
        return sorted(lines, key=lambda line: line.time)

    def _files(self) -> list[Path]:
        return sorted(self._logs.glob(f"*{LOG_SUFFIX}"))

    def _new_text(self, path: Path) -> str:
        """Return the whole lines that a file has more than at the last call."""
        start = self._read_bytes.get(path, 0)
        try:
            if path.stat().st_size == start:
                return ""
            with path.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:  # gone since, or a disk that does not answer: the next call tries again
            return ""
        self._read_bytes[path] = start + len(whole) + len(newline)
        return whole.decode(errors="replace")


def parse_lines(text: str) -> list[LogLine]:
    """Return the lines of a log, each with the indented ones that belong to it; a torn line is left out."""
    lines: list[LogLine] = []
    for each in text.split("\n"):
        begin = _BEGIN.fullmatch(each)
        if begin is not None and begin["level"] in LEVELS:
            lines.append(LogLine(begin["time"], begin["level"], begin["process"], begin["message"], each))
        elif lines and each.startswith("    "):
            lines[-1] = replace(lines[-1], text=f"{lines[-1].text}\n{each}")
    return lines


def chosen(lines: Iterable[LogLine], *, process: str | None, level: str) -> list[LogLine]:
    """Return the lines of one process (None: of all) from a level on."""
    return [line for line in lines if process in (None, line.process) and line.is_at_least(level)]
