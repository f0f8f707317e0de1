"""Warnings and worse of all processes of a run, for the driver: each text once, as it comes and at the end.

The driver's own are taken from its loggers, not from its file, so that a full disk hides none of them. A text from
two ranks is shown once.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from wmtp_ray.tracking.log_lines import LogTail
from wmtp_ray.tracking.run_log import message_of


class RunWarnings(logging.Handler):
    """Collects inside its block. `texts` are all that came: the process, and what it said."""

    def __init__(self, run_dir: Path, process: str) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._process = process
        self._own: list[str] = []
        self._said: set[str] = set()
        self._tail = LogTail(run_dir, from_end=True)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record of the driver's own loggers."""
        with suppress(Exception):  # a message that cannot be formatted is nobody's end
            self._own.append(message_of(record))

    def new(self) -> list[str]:
        """Return the texts that have come since the last call."""
        own, self._own = self._own, []
        said = [(message, message) for message in own]
        for line in self._tail.new():
            if line.process != self._process and line.is_at_least("WARNING"):
                said.append((line.message, f"{line.process}: {line.message}"))
        new = [text for message, text in said if self._is_first(message)]
        self.texts += new
        return new

    def _is_first(self, message: str) -> bool:
        is_first = message not in self._said
        self._said.add(message)
        return is_first


_shown: set[tuple[Path, str]] = set()


def show_warnings(run_dir: Path, texts: Iterable[str]) -> None:
    """Print each warning of a run, unless this process has printed it before."""
    for text in texts:
        if (run_dir, text) not in _shown:
            _shown.add((run_dir, text))
            print(f"warning: {text}", flush=True)
