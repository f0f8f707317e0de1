"""Watches the processes of one check and ends them: at the tests' end, or at the first limit passed.

Rlimits bound each process on their own and coarsely; this looks every few milliseconds, from outside, at what matters:
CPU time, wall time less the time the machine was busy with others, memory in use, threads, and the scratch directory.
"""

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass

from wmtp_ray.evaluation.judge.confinement import Confinement
from wmtp_ray.evaluation.judge.disk import UnmeasurableError
from wmtp_ray.evaluation.judge.limits import MAX_THREADS, Limits
from wmtp_ray.evaluation.judge.usage import UsageReader

_LOOK_EVERY_S = 0.01
_MAX_BETWEEN_COUNTS_S = 0.05  # files are counted less often the longer that takes
_RUSAGE_UNIT_BYTES = 1024 if os.uname().sysname == "Linux" else 1


class JudgeGoneError(Exception):
    """The other end of the control socket is closed."""


@dataclass
class Child:
    """One process of a check; the lower fields are known when it has ended."""

    pid: int
    pid_outside: int | None = None
    ended: bool = False
    ended_here: bool = False  # killed by the watch
    exit_code: int = 0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class Watch:
    """Ends checks, one after the other."""

    def __init__(self, control: socket.socket, usage: UsageReader, confinement: Confinement) -> None:
        self._control = control
        self._usage = usage
        self._confinement = confinement
        self._next_count = 0.0
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def until_end(self, children: list[Child], limits: Limits) -> str | None:
        """Wait until the last child ends by itself, then end all; return the limit that was passed, or None.

        Raises JudgeGoneError, with no child left.
        """
        passed = None
        self._next_count = 0.0
        try:
            started = time.monotonic()
            next_look = started + _LOOK_EVERY_S
            while not self._reap(children, os.WNOHANG)[-1].ended and passed is None:
                self._sleep(next_look - time.monotonic())
                now = time.monotonic()
                if now >= next_look:
                    passed = self._limit_passed(children, limits, now - started)
                    if passed == "wall" and self._reap(children, os.WNOHANG)[-1].ended:
                        passed = None  # it has ended, unseen while this process itself waited for a CPU
                    next_look = time.monotonic() + _LOOK_EVERY_S
        finally:
            self._end(children)
        return passed

    def _sleep(self, seconds: float) -> None:
        readable, _, _ = select.select([self._wake, self._control.fileno()], [], [], max(0.0, seconds))
        if self._wake in readable:
            os.read(self._wake, 4096)
        if self._control.fileno() in readable:
            raise JudgeGoneError  # nothing is sent during a check: this is the end of the stream

    def _limit_passed(self, children: list[Child], limits: Limits, elapsed_s: float) -> str | None:
        queued_s = 0.0
        suspects = []  # children that may have filled the disk with files that have no name any more
        for child in children:
            if child.ended:
                continue
            try:
                if child.pid_outside is None:
                    child.pid_outside = self._usage.pid_outside(child.pid)
                usage = self._usage.read(child.pid, child.pid_outside)
            except (OSError, LookupError, ValueError):
                continue  # it ended since
            queued_s += usage.queued_s
            if usage.cpu_s > limits.cpu_s:
                return "cpu"
            if usage.memory_bytes > limits.memory_bytes:
                return "memory"
            if usage.num_threads > MAX_THREADS:
                return "threads"
            if usage.written_bytes > limits.disk_bytes:
                suspects.append(child)
        if elapsed_s - queued_s > limits.wall_s or elapsed_s > limits.hard_wall_s:
            return "wall"
        return self._scratch_limit_passed(suspects, limits)

    def _scratch_limit_passed(self, suspects: list[Child], limits: Limits) -> str | None:
        started = time.monotonic()
        if started < self._next_count:
            return None
        try:
            used = self._confinement.used_bytes() + sum(self._nameless_bytes(child) for child in suspects)
            passed = "disk" if used > limits.disk_bytes else None
        except UnmeasurableError:
            passed = "files"
        ended = time.monotonic()
        self._next_count = ended + min(10 * (ended - started), _MAX_BETWEEN_COUNTS_S)
        return passed

    def _nameless_bytes(self, child: Child) -> int:
        assert child.pid_outside is not None
        try:
            return self._usage.nameless_bytes(child.pid_outside, self._confinement.scratch)
        except OSError:
            return 0  # it ended since

    def _reap(self, children: list[Child], options: int) -> list[Child]:
        for child in children:
            if child.ended:
                continue
            pid, status, rusage = os.wait4(child.pid, options)
            if pid:
                child.ended = True
                child.exit_code = os.waitstatus_to_exitcode(status)
                child.cpu_s = rusage.ru_utime + rusage.ru_stime
                child.peak_memory_bytes = rusage.ru_maxrss * _RUSAGE_UNIT_BYTES
        return children

    def _end(self, children: list[Child]) -> None:
        for child in children:
            if not child.ended:
                child.ended_here = True
                os.kill(child.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # what it forked, where forking is possible
        self._reap(children, 0)
