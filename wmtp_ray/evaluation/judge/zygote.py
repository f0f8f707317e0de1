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
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from wmtp_ray.evaluation.judge import program_side, test_side
from wmtp_ray.evaluation.judge.confinement import Confinement, Role, prepare
from wmtp_ray.evaluation.judge.control import receive_message, send_message
from wmtp_ray.evaluation.judge.disk import MAX_FILES
from wmtp_ray.evaluation.judge.limits import Limits
from wmtp_ray.evaluation.judge.rehearsal import rehearse
from wmtp_ray.evaluation.judge.usage import UsageReader
from wmtp_ray.evaluation.judge.watch import Child, JudgeGoneError, Watch

_FIRST_HIGH_DESCRIPTOR = 64
_serving: list["Zygote"] = []  # not a variable of `main`, whose frame is beneath every child
_NULL = 0  # the zygote is started with the null device there


@dataclass(frozen=True)
class _Birth:
    """A request of the zygote to fork a process."""

    role: Role
    limits: Limits
    descriptors: list[int]  # the child has these, in this order, and no other; the last says that it started
    run: Callable[[], None]


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
        self._births = self._serve()
        self._birth: _Birth | None = None
        rehearse()
        gc.collect()
        gc.freeze()

    def next_fork(self, forked: int | None) -> bool:
        """Run until a process must be forked, or return False at the end; `forked` is the id of the one before."""
        try:
            self._birth = next(self._births) if forked is None else self._births.send(forked)
        except StopIteration:
            return False
        self._confinement.before_fork(self._birth.role)
        return True

    def become_child(self) -> Callable[[], None]:
        """Turn this process, which was just forked, into what was wanted; return what it is to do."""
        assert self._birth is not None
        descriptors = self._birth.descriptors
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.chdir(self._confinement.scratch)
            self._confinement.confine(self._birth.role, self._birth.limits)
            self._control.detach()  # or its number is closed, whatever it stands for by then
            _keep_only(descriptors)
            os.write(len(descriptors) - 1, b"s")
            os.close(len(descriptors) - 1)
        except BaseException:
            os._exit(1)
        return self._birth.run

    def _serve(self) -> Generator[_Birth, int, None]:
        """Run checks until the judge is gone; whoever asks for the next birth forks it, and sends its id."""
        while (yield from self._serve_one()):
            pass

    def _serve_one(self) -> Generator[_Birth, int, bool]:
        """Run the next check; return False when there is none, or when this zygote is of no further use."""
        try:
            message, descriptors = receive_message(self._control)
        except EOFError:
            return False
        try:
            report = yield from self._check(message["kind"], Limits(**message["limits"]), descriptors)
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

    def _check(self, kind: str, limits: Limits, descriptors: list[int]) -> Generator[_Birth, int, dict[str, Any]]:
        started = time.monotonic()
        started_pipe, started_write = os.pipe()
        if kind == "stdio":
            program, *standard = descriptors
            opened = [*descriptors, started_write]
            birth = _Birth("program", limits, [*standard, program, started_write], program_side.run_stdio)
            children = [Child((yield birth))]
        else:
            children, opened = yield from self._fork_pair(limits, descriptors, started_write)
        for descriptor in opened:
            os.close(descriptor)
        passed = self._watch.until_end(children, limits)
        num_started = len(os.read(started_pipe, 8))
        os.close(started_pipe)
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

    def _fork_pair(
        self, limits: Limits, descriptors: list[int], started: int
    ) -> Generator[_Birth, int, tuple[list[Child], list[int]]]:
        """Fork the program, then receive the tests' descriptors, then fork the tests; return what is to close too."""
        ends = [channel.detach() for channel in socket.socketpair()]
        standard = [_NULL] * 3
        of_program = [*standard, *descriptors, ends[0], started]
        program = yield _Birth("program", limits, of_program, program_side.serve_calls)
        _, (job, verdict) = receive_message(self._control)
        tests = yield _Birth("tests", limits, [*standard, job, ends[1], verdict, started], test_side.run_tests)
        return [Child(program), Child(tests)], [*descriptors, *ends, job, verdict, started]


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

    Forks here: no frame and no variable of the zygote is beneath a child, for a program may look through all of them.
    """
    forked = None
    if not _start(control_descriptor):
        return
    while _serving[0].next_fork(forked):
        forked = os.fork()
        if not forked:
            _serving[0].become_child()()
            return


def _start(control_descriptor: int) -> bool:
    """Start a zygote; one that cannot get to its level says why, and there is none."""
    control = socket.socket(fileno=control_descriptor)
    configuration, _ = receive_message(control)
    try:
        zygote = Zygote(control, configuration)
    except OSError as error:
        send_message(control, {"refused": str(error)}, [])
        return False
    send_message(control, {"refused": None}, [])
    _serving.append(zygote)
    return True
