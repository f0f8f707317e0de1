"""The zygote: a small interpreter with one thread that forks the processes of checks and ends them.

It stands between the judge, which may be a large process with many threads that must not be forked, and the programs.
Its own process holds neither programs nor tests nor verdicts, only descriptors it passes on, because a program is a
copy of it. The program's process is forked before the tests' descriptors have arrived.

| a child finds at descriptor | 0 | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|---|
| program on standard input | input | output | errors | program | | |
| program that tests call | null | null | null | program | channel to the tests | |
| tests | null | null | null | tests | channel to the program | verdict |
"""

import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from wmtp_ray.evaluation.judge import program_side, test_side
from wmtp_ray.evaluation.judge.confinement import Confinement, Role, prepare
from wmtp_ray.evaluation.judge.control import receive_message, send_message
from wmtp_ray.evaluation.judge.disk import MAX_FILES
from wmtp_ray.evaluation.judge.limits import Limits
from wmtp_ray.evaluation.judge.usage import UsageReader
from wmtp_ray.evaluation.judge.watch import Child, JudgeGoneError, Watch

_FIRST_HIGH_DESCRIPTOR = 64
_kept: list["Zygote"] = []  # taking it apart would cost every child more than forking it
_NULL = 0  # the zygote is started with the null device there


class _InChild(BaseException):
    """Raised in a process that was forked for a check, out of all frames of the zygote; `run` is what it is to do."""

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self.run = run


class _Descriptors(list[int]):
    """Descriptors of a check, closed by the zygote when it ends; a child has closed them already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not _InChild:
            self.close()

    def close(self) -> None:
        """Close them now."""
        while self:
            os.close(self.pop())


class Zygote:
    """Runs one check at a time."""

    def __init__(self, control: socket.socket, configuration: dict[str, Any]) -> None:
        self._control = control
        usage = UsageReader()  # before /proc goes out of sight
        self._confinement: Confinement = prepare(
            configuration["level"], configuration["scratch"], configuration["readable"], configuration["scratch_bytes"]
        )
        scratch = self._confinement.scratch
        os.chdir("/")  # to stand in the scratch directory would keep a file system alive that `clean` has replaced
        os.environ.update(HOME=scratch, TMPDIR=scratch)
        sys.path += configuration["libraries"]
        sys.argv[:] = ["program.py"]
        sys.set_int_max_str_digits(0)  # the limit on CPU time is the one that counts, for programs and for tests
        _allow_many_open_files()
        self._watch = Watch(control, usage, self._confinement)
        gc.collect()
        gc.freeze()

    def serve(self) -> Callable[[], None] | None:
        """Run checks until the judge is gone; in a process that was forked for one, return what it is to do."""
        try:
            while self._serve_one():
                pass
        except _InChild as child:
            return child.run
        return None

    def _serve_one(self) -> bool:
        """Run the next check; return False when there is none, or when this zygote is of no further use."""
        try:
            message, descriptors = receive_message(self._control)
        except EOFError:
            return False
        try:
            report = self._check(message["kind"], Limits(**message["limits"]), descriptors)
        except (EOFError, JudgeGoneError):
            self._clean()
            return False
        report["reusable"] = self._clean()
        send_message(self._control, report, [])
        return bool(report["reusable"])

    def _clean(self) -> bool:
        """Leave nothing of a check behind; what a check did is no reason to lose the report on it."""
        try:
            self._confinement.clean()
        except OSError:
            return False
        return True

    def _check(self, kind: str, limits: Limits, descriptors: list[int]) -> dict[str, Any]:
        started = time.monotonic()
        with _Descriptors(descriptors) as opened:
            started_pipe, started_write = os.pipe()
            opened += [started_write, started_pipe]
            if kind == "stdio":
                program, *standard = descriptors
                children = [self._fork("program", limits, [*standard, program, started_write], program_side.run_stdio)]
            else:
                children = self._fork_pair(limits, descriptors, started_write, opened)
            opened.remove(started_pipe)
            opened.close()
            opened.append(started_pipe)
            passed = self._watch.until_end(children, limits)
            num_started = len(os.read(started_pipe, 8))
        return {
            "all_started": num_started == len(children),
            "limit_passed": passed,
            "exit_code": 0 if children[0].ended_here else children[0].exit_code,
            "cpu_s": children[0].cpu_s,
            "peak_memory_bytes": children[0].peak_memory_bytes,
            "tests_exit_code": children[-1].exit_code,
            "tests_cpu_s": children[-1].cpu_s,
            "seconds": time.monotonic() - started,
        }

    def _fork_pair(self, limits: Limits, descriptors: list[int], started: int, opened: list[int]) -> list[Child]:
        """Fork the program, then receive the tests' descriptors, then fork the tests."""
        channels = socket.socketpair()
        opened += (ends := [channel.detach() for channel in channels])
        standard = [_NULL] * 3
        program = self._fork("program", limits, [*standard, *descriptors, ends[0], started], program_side.serve_calls)
        _, tests_descriptors = receive_message(self._control)
        opened += tests_descriptors
        tests, verdict = tests_descriptors
        return [
            program,
            self._fork("tests", limits, [*standard, tests, ends[1], verdict, started], test_side.run_tests),
        ]

    def _fork(self, role: Role, limits: Limits, descriptors: list[int], run: Callable[[], None]) -> Child:
        """Fork a confined child that has these descriptors, in this order, and no other; the last says it started."""
        self._confinement.before_fork(role)
        pid = os.fork()
        if pid:
            return Child(pid)
        try:
            signal.set_wakeup_fd(-1)  # the handler stays; it does nothing
            os.chdir(self._confinement.scratch)
            self._confinement.confine(role, limits)
            self._control.detach()  # or its number is closed, whatever it stands for by then
            _keep_only(descriptors)
            os.write(len(descriptors) - 1, b"s")
            os.close(len(descriptors) - 1)
            if role == "tests":
                run()  # where it stands: to leave all frames takes time, and tests do not look through them
                os._exit(1)
        except BaseException:
            os._exit(1)
        raise _InChild(run)


def _keep_only(descriptors: list[int]) -> None:
    """Renumber descriptors from 0 and close all others."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_HIGH_DESCRIPTOR) for descriptor in descriptors]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _allow_many_open_files() -> None:
    """Let this process open as many files as it may: one for each directory around the one that is counted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES + _FIRST_HIGH_DESCRIPTOR
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def main(control_descriptor: int) -> None:
    """Serve the judge at the other end of a descriptor, and return; a child of the zygote returns when it is done.

    No frame and no variable of the zygote is beneath a child: a program may look through all of them.
    """
    run = _serve(control_descriptor)
    if run is not None:
        run()


def _serve(control_descriptor: int) -> Callable[[], None] | None:
    """Run a zygote; one that cannot get to its level says why and ends."""
    control = socket.socket(fileno=control_descriptor)
    configuration, _ = receive_message(control)
    try:
        zygote = Zygote(control, configuration)
    except OSError as error:
        send_message(control, {"refused": str(error)}, [])
        return None
    send_message(control, {"refused": None}, [])
    _kept.append(zygote)
    return zygote.serve()
