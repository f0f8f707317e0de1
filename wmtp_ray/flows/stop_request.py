"""SIGINT and SIGTERM while a run is up: the first asks the ranks to checkpoint and stop, the second ends at once.

Whoever stops a container may tell Ray's own processes too. A driver whose Ray is gone would wait a minute for it and be
ended with another exit code; so it ends at once as well.
"""

import os
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import ray

from wmtp_ray.training.stages import STOP_FILE

INTERRUPTED_CODE = 130
_SHUTDOWN_S = 5.0


def end_at_once(why: str) -> NoReturn:
    """End this process and the Ray that it started, with the exit code of an interrupted run."""
    print(f"{why}; `--resume` continues from the last checkpoint.", flush=True)
    # In a thread, with a limit: this may be in the middle of a call into Ray, or Ray may not answer any more.
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(_SHUTDOWN_S)
    os._exit(INTERRUPTED_CODE)


def ray_is_gone() -> bool:
    """Whether nobody listens any more where Ray's head process did."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError:
        return True
    return False


class StopRequest:
    """Hears signals inside its block, where that is in the main thread; ranks and driver find the request as a file."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / STOP_FILE
        self._was_heard = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._file.unlink(missing_ok=True)
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as handlers:
            for number, handler in self._before.items():
                handlers.callback(signal.signal, number, handler)

    def listen(self) -> None:
        """Take the signals over; once more after `ray.init`, which sets a handler of its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.signal(number, self._hear)
            self._before.setdefault(number, handler)

    def is_made(self) -> bool:
        """Whether somebody asked, by a signal or by the file."""
        return self._file.exists()

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self._was_heard:
            end_at_once("Ending at once")
        self._was_heard = True
        self._file.touch()
        print("Stopping after this step, with a checkpoint; `--resume` continues.", flush=True)
