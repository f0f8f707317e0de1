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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_SIGNAL = signal.SIGUSR2
_HOST = "127.0.0.1"
_ANSWER_S = 5.0  # far more than a thread waits for the GIL on a busy machine
_WRITING_S = 0.5  # what the signal's answer may take
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


def ask_for_stacks(asked: Iterable[tuple[int, StackAddress, Path]]) -> None:
    """Have processes of this host, by id, append their stacks each to its file; wait until they are there.

    All are asked before any is waited for, so that the time does not grow with those that do not answer: these get the
    signal after `_ANSWER_S`.
    """
    waiting: dict[Path, int] = {}
    sizes: dict[Path, int] = {}
    for pid, address, file in asked:
        if pid == os.getpid():
            _append(file, stacks_of_all_threads())
            continue
        waiting[file], sizes[file] = pid, file.stat().st_size
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:  # then the signal is left
            asking.sendto(address.word.encode(), (_HOST, address.port))
    silent = _not_written(sizes, _ANSWER_S)
    for file in silent:
        with suppress(ProcessLookupError):
            os.kill(waiting[file], _SIGNAL)
    _not_written({file: sizes[file] for file in silent}, _WRITING_S)


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


def _not_written(sizes: dict[Path, int], answer_s: float) -> list[Path]:
    """Wait for files to grow beyond these sizes and then to rest, so that their writers may be ended.

    Return those that have not grown within `answer_s`. One that grows without a rest is waited for no longer than that.
    """
    open_files, seen, give_up = dict(sizes), dict(sizes), time.monotonic() + answer_s
    while open_files and time.monotonic() < give_up:
        time.sleep(_QUIET_S)
        for file, before in list(open_files.items()):
            size = file.stat().st_size
            if size == seen[file] > before:
                del open_files[file]
            seen[file] = size
    return [file for file, before in open_files.items() if seen[file] == before]


def _append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)
