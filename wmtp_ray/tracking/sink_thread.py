"""What the sinks with a thread of their own share: what waits for it, and how it is woken and ended."""

import threading
from collections.abc import Mapping
from pathlib import Path

from wmtp_ray.tracking.mlflow_run import RunStatus

MAX_WAITING_STEPS = 4096  # more come from metrics.jsonl
GATHER_S = 0.5  # reports of this time go in one call


class SinkThread:
    """A sink whose `_work` runs in a daemon thread; a subclass starts `_thread` once it is made."""

    def __init__(self, name: str) -> None:
        self._tags: dict[str, str] = {}
        self._artifacts: list[Path] = []
        self._final_status: RunStatus | None = None
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags, in place of those of the same names."""
        with self._wake:
            self._tags |= tags
            self._wake.notify_all()

    def add_artifact(self, path: Path) -> None:
        """Have a file or folder kept when the run ends, where the tracker keeps files."""
        self._artifacts.append(path)

    def start_closing(self, status: RunStatus) -> None:
        """Begin to send what waits and to end the run; `close` waits for it."""
        with self._wake:
            self._final_status = status
            self._wake.notify_all()

    def close(self, status: RunStatus, deadline_s: float) -> None:
        """Send what waits, keep the artifacts, end the run; gives up after `deadline_s`."""
        self.start_closing(status)
        self._thread.join(deadline_s)

    def _work(self) -> None:
        """The thread."""
        raise NotImplementedError

    def _has_work(self) -> bool:
        """Whether the thread has something to do before it is asked to close."""
        raise NotImplementedError

    def _pause(self, pause_s: float) -> None:
        """Wait so long, so that reports gather, then for work; not at all once it is asked to close."""
        with self._wake:
            self._wake.wait_for(lambda: self._final_status, timeout=pause_s)
            self._wake.wait_for(lambda: self._has_work() or self._final_status)
