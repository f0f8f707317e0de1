"""The log of a run: the standard library's `logging`, a file for each process in runs/<run_name>/logs/.

    2026-11-28T17:53:00.123Z INFO    rank_0 stage=2 step=17 The checkpoint of 18 steps is written

Time (UTC), level, process, then the stage and the step that the process is in, where it is in one. Further lines of a
message are indented. A process shows what the loggers `wmtp_ray` and `actors` say from INFO on, and what every library
says from WARNING on, by `logging` or by `warnings.warn`. A line that the disk does not take is dropped: a log never
fails a run. `log_lines.py` reads the files.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wmtp_ray.run_folder import RunFolder

LOG_SUFFIX = ".log"
DRIVER = "driver"
STARTED, ENDED = "Started: ", "Ended: "  # begin the driver's first and last line of a start of a run
_LOG = logging.getLogger(__name__)
_OWN_LOGGERS = ("wmtp_ray", "actors")
_WARNINGS_LOGGER = "py.warnings"  # where logging.captureWarnings sends what `warnings.warn` says
_INDENT = "\n    "


class _Position:
    """Where this process is in its run. A process trains or scores one step at a time, whatever its threads do."""

    stage: int | None = None
    step: int | None = None

    def text(self) -> str:
        named = (("stage", self.stage), ("step", self.step))
        return "".join(f"{name}={number} " for name, number in named if number is not None)


_position = _Position()


def log_stage(stage: int | None) -> None:
    """Have the lines that follow carry a stage; None: no stage and no step."""
    _position.stage, _position.step = stage, None


def log_step(step: int | None) -> None:
    """Have the lines that follow carry a step, or none."""
    _position.step = step


def message_of(record: logging.LogRecord) -> str:
    """Return a record's message; of a Python warning the place, the category and the text, without the source line."""
    text = record.getMessage()
    return text.partition("\n")[0] if record.name == _WARNINGS_LOGGER else text


class _LineFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        whole_s = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        begin = f"{whole_s}.{int(record.msecs):03d}Z {record.levelname:7s} {self._process} {_position.text()}"
        text = message_of(record)
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return begin + _INDENT.join(text.splitlines())


class _LineFile(logging.Handler):
    """Appends each line with one write, so that several processes may share a file; made when the first line comes."""

    def __init__(self, path: Path, process: str) -> None:
        super().__init__()
        self.path = path
        self._descriptor: int | None = None
        self._is_torn = False
        self.setFormatter(_LineFormatter(process))

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # a full disk, a message that cannot be formatted: the line is lost, nothing else
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            if self._descriptor is None:
                self.path.parent.mkdir(exist_ok=True)  # not the folder of a run that was given up
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            data = b"\n" + line if self._is_torn else line
            self._is_torn = True
            self._is_torn = os.write(self._descriptor, data) < len(data)

    def close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        super().close()


_opened: list[_LineFile] = []  # the last one is in use


def open_log(run_dir: Path, process: str) -> bool:
    """Have this process log to `run_dir/logs/<process>.log` until it opens another; return whether this one is new."""
    path = RunFolder(run_dir).logs / f"{process}{LOG_SUFFIX}"
    if _is_open(path):
        return False
    if _opened:
        _close()
    _open(path, process)
    return True


@contextmanager
def opened_log(run_dir: Path, process: str) -> Iterator[None]:
    """Have this process log to `run_dir/logs/<process>.log` inside the block, unless it does so already."""
    path = RunFolder(run_dir).logs / f"{process}{LOG_SUFFIX}"
    if _is_open(path):
        yield
        return
    _open(path, process)
    try:
        yield
    finally:
        _close()


@contextmanager
def driver_log(run_dir: Path) -> Iterator[None]:
    """Log the driver's part of a run, from a line that says which process it is to one that says how it ended."""
    if _is_open(RunFolder(run_dir).logs / f"{DRIVER}{LOG_SUFFIX}"):
        yield
        return
    with opened_log(run_dir, DRIVER):
        _LOG.info("%sprocess %d on %s", STARTED, os.getpid(), socket.gethostname())
        try:
            yield
        except BaseException as error:
            _LOG.info("%s%s: %s", ENDED, type(error).__name__, error)
            raise
        _LOG.info("%sdone", ENDED)


def _is_open(path: Path) -> bool:
    return bool(_opened) and _opened[-1].path == path


def _open(path: Path, process: str) -> None:
    if _opened:
        logging.getLogger().removeHandler(_opened[-1])
    _opened.append(_LineFile(path, process))
    logging.getLogger().addHandler(_opened[-1])
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)


def _close() -> None:
    logging.getLogger().removeHandler(_opened[-1])
    _opened.pop().close()
    log_stage(None)
    if _opened:
        logging.getLogger().addHandler(_opened[-1])
    else:
        logging.captureWarnings(False)
