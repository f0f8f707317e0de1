"""SIGINT and SIGTERM of a command: the process ends at once with exit code 130, and with it all that it has started.

The handler raises nothing. An exception that comes out of a signal handler comes between any two instructions: inside
an import it leaves Python's import lock held, and a thread that imports then waits for ever; inside a callback of a C
extension it is lost. So a thread of its own reads the signal's number from a pipe and ends the process, whatever the
main thread is doing. Code that can end in a better way takes the signals over for a while (`handled`): a run that
checkpoints, an evaluation that saves its answers.

Imports the standard library alone, so that it can be the first thing that a command does. Not for library use.
"""

import _thread
import atexit
import os
import select
import signal
import threading  # here: a thread that is the first to import it would count as the main one
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
Handler = Callable[[int, FrameType | None], Any]
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_ENDING_S = 5.0  # for what is undone and killed at the end; then the process ends without
_KILLED_S = 1.0  # for killed processes to be gone
_RAISED_S = 30.0  # for the main thread to end after an exception that a signal raised
_LOOK_S = 0.5
_SHOW_CURSOR = b"\x1b[?25h"  # a progress line has hidden it


class _Ending:
    """What a signal prints and undoes before this process ends."""

    def __init__(self) -> None:
        self.pid: int | None = None  # of the process that called `end_on_signals`; a fork of it has no reader
        self.handlers_of_others = 0
        self.was_heard = False
        self.deadline_s: float | None = None  # when the process ends, whatever it is doing
        self.message = "interrupted: nothing was started"
        self.undo: list[Callable[[], str | None]] = []


_ending = _Ending()


def end_on_signals() -> None:
    """Have SIGINT and SIGTERM end this process; the first thing that a command does, in its main thread."""
    if _ending.pid is not None:
        return
    atexit.register(_ignore_signals)  # the first registered function is the last one called
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _ending.pid = os.getpid()
    for number in _NUMBERS:
        signal.signal(number, _heard)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _thread.start_new_thread(_read_signals, (reading,))
    # Before it is needed: by then another thread may hold the import lock.
    _thread.start_new_thread(import_module, ("psutil",))


def say_at_end(message: str) -> None:
    """From now on, print this message when a signal ends the process."""
    _ending.message = message


@contextmanager
def undone_at_end(undo: Callable[[], str | None]) -> Iterator[None]:
    """Call `undo` when a signal ends the process inside this block, and print what it returns."""
    _ending.undo.append(undo)
    try:
        yield
    finally:
        _ending.undo.remove(undo)


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Call `handler` on signals inside the block; only in the main thread, in another thread this does nothing."""
    if not _is_main_thread():
        yield
        return
    with kept():
        for number in _NUMBERS:
            signal.signal(number, handler)
        _ending.handlers_of_others += 1
        try:
            yield
        finally:
            _ending.handlers_of_others -= 1


@contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt on a signal inside the block; the process ends at the second, or 30 s after the first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _ending.deadline_s is not None:
            end_at_once("Ending at once")
        _ending.deadline_s = time.monotonic() + _RAISED_S
        raise KeyboardInterrupt

    with handled(interrupt):
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Restore the handlers that the block changes (Ray's for SIGTERM raises SystemExit)."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def end_at_once(message: str, *, waits: bool = True) -> NoReturn:
    """Print the reason, kill what this process has started and end it with exit code 130."""
    with suppress(OSError):
        os.write(2, f"{message}\n".encode())
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
    with suppress(OSError):  # what other threads say of the processes that are killed now is no news
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    with suppress(Exception):
        kill_descendants(_KILLED_S if waits else 0.0)
    os._exit(INTERRUPTED)


def kill_descendants(wait_s: float = _KILLED_S) -> None:
    """SIGKILL every process that this one has started, and what they have started.

    Each is stopped before any is killed: one that starts another meanwhile would leave an orphan, which is not found.
    """
    import psutil

    own, stopped = psutil.Process(), set[psutil.Process]()
    while found := set(own.children(recursive=True)) - stopped:
        for process in found:
            with suppress(psutil.Error):
                process.suspend()
        stopped |= found
    for process in stopped:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stopped, timeout=wait_s)


def _heard(number: int, frame: FrameType | None) -> None:
    """Signal handler of the main thread, which may run late or never: block it while `_end` ends the process."""
    if os.getpid() != _ending.pid:
        os._exit(INTERRUPTED)
    _ending.was_heard = True
    while True:
        time.sleep(_LOOK_S)


def _ignore_signals() -> None:
    """Ignore further signals: at exit Python restores the default handlers, which would change the exit code."""
    if os.getpid() == _ending.pid and not _ending.was_heard:
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)


def _read_signals(reading: int) -> None:
    """Run in a thread of its own: act on every signal that no other handler takes, and on deadlines."""
    is_ending = False
    while True:
        ready, _, _ = select.select([reading], [], [], _LOOK_S)
        if not ready:
            if _ending.deadline_s is not None and time.monotonic() > _ending.deadline_s:
                os._exit(INTERRUPTED) if is_ending else end_at_once("Ending at once: the end took too long")
            continue
        number = os.read(reading, 1)[0]
        if number not in _NUMBERS or (_ending.handlers_of_others and not _ending.was_heard):
            continue
        if is_ending:
            os._exit(INTERRUPTED)
        is_ending = True
        _ending.deadline_s = time.monotonic() + _ENDING_S
        _thread.start_new_thread(_end, ())


def _end() -> None:
    message = _ending.message
    for undo in reversed(_ending.undo):
        with suppress(Exception):
            message = undo() or message
    end_at_once(message)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
