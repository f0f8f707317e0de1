"""SIGINT and SIGTERM while a run is up: the first asks the ranks to checkpoint and stop, the second ends at once.

A container that is stopped may signal Ray's own processes too. A driver whose Ray is gone would wait a minute for it
and exit with another code; so the driver then ends at once as well.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

import psutil
import ray

from wmtp_ray import interrupts
from wmtp_ray.run_folder import RunFolder

_LOOK_S = 0.02
LOOKED_S = 0.2  # after which `ended_with_ray` has seen a Ray that was stopped with the run
_OF_RAY = "/ray/"  # in the path of what Ray runs


def end_at_once(why: str, *, waits: bool = True) -> NoReturn:
    """End this process and the Ray that it started, with the exit code of an interrupted run."""
    interrupts.end_at_once(f"{why}; `--resume` continues from the last checkpoint.", waits=waits)


@contextmanager
def ended_with_ray(stop: "StopRequest", before: Callable[[], object]) -> Iterator[None]:
    """End this process, after `before`, once a stop was asked for inside the block and Ray was stopped as well.

    A thread looks many times a second: Ray's client ends the process with exit code 1 when it finds its raylet gone,
    and every call into Ray may be the one that finds it. The raylet takes its time to stop; the first of Ray's own
    processes that is gone tells that all of them were told.
    """
    address = ray.get_runtime_context().gcs_address
    processes = _processes_of_ray()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            if stop.is_made() and (any(map(_is_gone, processes)) or not _is_listened_at(address)):
                with suppress(Exception):
                    before()
                end_at_once("Ray itself is gone", waits=False)

    thread = threading.Thread(target=look, name="ray-is-gone", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _processes_of_ray() -> list[psutil.Process]:
    """Return the processes of a Ray that this process has started, none for a Ray that it has joined."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if any(_OF_RAY in word for word in process.cmdline()[:3]):
                found.append(process)
    return found


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _is_listened_at(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


class StopRequest:
    """Handles signals inside its block (in the main thread only); ranks and driver read the request from a file."""

    def __init__(self, run_dir: Path) -> None:
        self._file = RunFolder(run_dir).stop_request
        self._was_heard = False
        self._handlers = ExitStack()

    def __enter__(self) -> Self:
        self._file.unlink(missing_ok=True)
        self._handlers.enter_context(interrupts.handled(self._hear))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()

    def is_made(self) -> bool:
        """Whether a stop was requested, by a signal or by the file."""
        return self._file.exists()

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self._was_heard:
            end_at_once("Ending at once")
        self._was_heard = True
        with suppress(OSError):  # not print: the signal may have come in the middle of one
            self._file.touch()
            os.write(1, b"Stopping after this step, with a checkpoint; `--resume` continues.\n")
