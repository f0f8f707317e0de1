"""The Python stacks of all threads of a process, written by itself when another process asks.

A thread of the process waits on a datagram socket of this host and writes `sys._current_frames()`. That needs the
GIL, so no frame moves meanwhile: faulthandler's signal handler reads the frames of running threads and now and then
ends the process that it should explain (python/cpython#116008). It remains the second way, for a process in which
nothing gets the GIL: there no frame moves either.
"""

import faulthandler
import os
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_SIGNAL = signal.SIGUSR2
_HOST = "127.0.0.1"
_ANSWER_S = 5.0  # far more than a thread waits for the GIL on a busy machine
_WRITING_S = 0.5  # what a process may take to write its stacks once it has begun, and what the signal's answer may take
_QUIET_S = 0.05


@dataclass(frozen=True)
class StackAddress:
    """Where a process is asked for its stacks: a port of its host, and the word that it answers to."""

    port: int
    word: str


def answer_for_stacks(file: Path) -> StackAddress:
    """Make this process append its stacks to `file` whenever it is asked, until it ends or is told another file."""
    global _answering  # a process has one
    # First: the signal would end a process that has no handler. faulthandler keeps the file open.
    faulthandler.register(_SIGNAL, file=file.open("ab"), all_threads=True)
    if _answering is None or _answering.file != file:
        if _answering is not None:
            _answering.close()
        _answering = _Answering(file)
    return _answering.address


def ask_for_stacks(pid: int, address: StackAddress, file: Path) -> None:
    """Have a process of this host append its stacks to `file`; wait until they are there, or will not be.

    Raises ProcessLookupError where it is gone.
    """
    if pid == os.getpid():
        _append(file, stacks_of_all_threads())
        return
    before = file.stat().st_size
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(address.word.encode(), (_HOST, address.port))
    if not _is_written(file, before, _ANSWER_S):
        os.kill(pid, _SIGNAL)
        _is_written(file, before, _WRITING_S)


def stacks_of_all_threads() -> str:
    """Return the stacks of this process, the newest call first; no line of source is read, a disk may be what hangs."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"Thread {ident:#x} {names.get(ident, 'not of Python')} (most recent call first):")
        parts += _calls(frame)
        parts.append("")
    return "\n".join(parts) + "\n"


def _calls(frame: FrameType | None) -> list[str]:
    calls = []
    while frame is not None:
        code = frame.f_code
        calls.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    return calls


class _Answering:
    """The socket of this process and the thread that waits on it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_HOST, 0))
        self.address = StackAddress(self._socket.getsockname()[1], secrets.token_hex(8))
        self._is_over = False
        threading.Thread(target=self._answer, name="stacks", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._is_over = True
        self._socket.sendto(b"", self._socket.getsockname())

    def _answer(self) -> None:
        with self._socket:
            while not self._is_over:
                if self._socket.recv(64) == self.address.word.encode():
                    with suppress(OSError):  # a disk that takes no stacks is no reason to end
                        _append(self.file, stacks_of_all_threads())


_answering: _Answering | None = None


def _is_written(file: Path, num_bytes_before: int, answer_s: float) -> bool:
    """Wait for a file to grow and then to rest, so that the caller may end the process that writes it."""
    seen, give_up = num_bytes_before, time.monotonic() + answer_s
    while time.monotonic() < give_up:
        time.sleep(_QUIET_S)
        size = file.stat().st_size
        if size == seen > num_bytes_before:
            return True
        if size > seen == num_bytes_before:
            give_up = time.monotonic() + _WRITING_S
        seen = size
    return seen > num_bytes_before


def _append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)
