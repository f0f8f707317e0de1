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
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from wmtp_ray.evaluation.judge import program_side, test_side
from wmtp_ray.evaluation.judge.confinement import Confinement, Role, prepare
from wmtp_ray.evaluation.judge.control import receive_message, send_message
from wmtp_ray.evaluation.judge.limits import Limits
from wmtp_ray.evaluation.judge.usage import UsageReader
from wmtp_ray.evaluation.judge.watch import Child, JudgeGoneError, Watch

_FIRST_HIGH_DESCRIPTOR = 64
_NULL = 0  # the zygote is started with the null device there


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
        self._watch = Watch(control, usage, scratch)
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Run checks until the judge is gone."""
        while True:
            try:
                message, descriptors = receive_message(self._control)
                report = self._check(message["kind"], Limits(**message["limits"]), descriptors)
            except (EOFError, JudgeGoneError):
                return
            finally:
                self._confinement.clean()
            send_message(self._control, report, [])

    def _check(self, kind: str, limits: Limits, descriptors: list[int]) -> dict[str, Any]:
        started = time.monotonic()
        started_pipe, started_write = os.pipe()
        opened = [started_pipe, started_write]
        try:
            opened += descriptors
            if kind == "stdio":
                program, *standard = descriptors
                children = [self._fork("program", limits, [*standard, program, started_write], program_side.run_stdio)]
            else:
                children = self._fork_pair(limits, descriptors, started_write, opened)
            for descriptor in opened[1:]:
                os.close(descriptor)
            del opened[1:]
            passed = self._watch.until_end(children, limits)
            num_started = len(os.read(started_pipe, 8))
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return {
            "all_started": num_started == len(children),
            "limit_passed": passed,
            "exit_code": 0 if children[0].ended_here else children[0].exit_code,
            "cpu_s": children[0].cpu_s,
            "peak_memory_bytes": children[0].peak_memory_bytes,
            "tests_exit_code": children[-1].exit_code,
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
        self._confinement.before_fork()
        pid = os.fork()
        if pid:
            return Child(pid)
        try:
            signal.set_wakeup_fd(-1)  # the handler stays; it does nothing
            os.chdir(self._confinement.scratch)
            self._confinement.confine(role, limits)
            _keep_only(descriptors)
            os.write(len(descriptors) - 1, b"s")
            os.close(len(descriptors) - 1)
            run()
        finally:
            os._exit(1)


def _keep_only(descriptors: list[int]) -> None:
    """Renumber descriptors from 0 and close all others."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_HIGH_DESCRIPTOR) for descriptor in descriptors]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def main(control_descriptor: int) -> None:
    """Serve the judge at the other end of a descriptor; a zygote that cannot get to its level says why and ends."""
    control = socket.socket(fileno=control_descriptor)
    configuration, _ = receive_message(control)
    try:
        zygote = Zygote(control, configuration)
    except OSError as error:
        send_message(control, {"refused": str(error)}, [])
        return
    send_message(control, {"refused": None}, [])
    zygote.serve()
