"""One zygote, seen from the judge: start it, have it run one check after the other, end it.

Not thread-safe: one check at a time. Programs, tests and outputs travel in anonymous files whose descriptors are handed
through the zygote, so that they are gone with the last process that has them open.
"""

import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.evaluation.judge import disk
from wmtp_ray.evaluation.judge.control import receive_message, send_message
from wmtp_ray.evaluation.judge.limits import Limits

_START_DEADLINE_S = 30.0
_GRACE_S = 10.0
_MAX_ERROR_BYTES = 1 << 16
# The zygote loads its modules without running this package's own __init__, and without the project on its path. It
# loads what programs often import, but neither `threading` nor `random`: both run code of theirs after every fork.
_BOOTSTRAP = """
import site, sys, types
control, *packages = sys.argv[1:]
for name, path in zip(packages[::2], packages[1::2]):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [path]
site.setquit(); site.sethelper(); site.setcopyright()
import bisect, collections, copy, datetime, decimal, functools, heapq, itertools, math, operator, re, string, typing
from wmtp_ray.evaluation.judge.zygote import main
main(int(control))
"""
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "",
    "PYTHONHASHSEED": "0",  # a verdict must not depend on the order of a set
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "1",  # each arena reserves address space, which is limited
    "LD_BIND_NOW": "1",  # a child that resolves a function on its first call copies a page of pointers to functions
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")},
}
_SYSTEM_PATHS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


class ZygoteError(Exception):
    """The zygote or one of its children failed, through no fault of a program; the worker is of no further use."""


class RefusedError(Exception):
    """This machine does not give the level that was asked for."""


@dataclass(frozen=True)
class RunReport:
    """How a run ended, as the zygote saw it, and what it wrote: `written` is the verdict or standard output.

    `exit_code` is 0 for a program that the zygote ended, with its tests or at a limit.
    """

    limit_passed: str | None
    exit_code: int
    cpu_s: float
    peak_memory_bytes: int
    tests_exit_code: int
    tests_cpu_s: float
    seconds: float
    written: bytes
    errors: bytes


class Worker:
    """A running zygote at one level of isolation. Raises RefusedError or ZygoteError when it does not come up.

    `is_usable` is False once a check could not be cleaned up after; the report on that check holds.
    """

    def __init__(self, level: str, scratch_bytes: int) -> None:
        self.is_usable = True
        self._scratch = Path(tempfile.mkdtemp(prefix="judge-"))
        ours, theirs = socket.socketpair()
        self._control = ours
        packages = [part for name, path in _packages() for part in (name, str(path))]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-S", "-s", "-X", "utf8", "-c", _BOOTSTRAP, str(theirs.fileno()), *packages],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=[theirs.fileno()],
            )
        try:
            self._configure(level, scratch_bytes)
        except BaseException:
            self.close()
            raise

    def run_function(self, program: bytes, job: bytes, limits: Limits) -> RunReport:
        """Run a program and the tests that call it; `written` is the tests' verdict."""
        with _Files() as files:
            verdict = files.create(b"")
            self._send({"kind": "function", "limits": asdict(limits)}, [files.create(program)])
            self._send({}, [files.create(job), verdict])
            report = self._receive_report(limits)
            return RunReport(**report, written=_content(verdict, _MAX_ERROR_BYTES), errors=b"")

    def run_stdio(self, program: bytes, stdin: bytes, limits: Limits) -> RunReport:
        """Run a program on standard input; `written` is its standard output."""
        with _Files() as files:
            output, errors = files.create(b""), files.create(b"")
            descriptors = [files.create(program), files.create(stdin), output, errors]
            self._send({"kind": "stdio", "limits": asdict(limits)}, descriptors)
            report = self._receive_report(limits)
            tail = _content(errors, _MAX_ERROR_BYTES, from_end=True)
            return RunReport(**report, written=_content(output, limits.output_bytes), errors=tail)

    def close(self) -> None:
        """End the zygote and all it started."""
        self._control.close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        disk.remove(str(self._scratch))

    def _configure(self, level: str, scratch_bytes: int) -> None:
        libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        configuration = {
            "level": level,
            "scratch": str(self._scratch),
            "readable": list(dict.fromkeys([*_SYSTEM_PATHS, *libraries])),
            "libraries": list(dict.fromkeys(libraries[2:])),
            "scratch_bytes": scratch_bytes,
        }
        self._control.settimeout(_START_DEADLINE_S)
        self._send(configuration, [])
        refused = self._receive()["refused"]
        if refused is not None:
            raise RefusedError(refused)

    def _receive_report(self, limits: Limits) -> dict[str, Any]:
        self._control.settimeout(limits.hard_wall_s + _GRACE_S)
        report = self._receive()
        self.is_usable = report.pop("reusable")
        if not report.pop("all_started"):
            raise ZygoteError("a process of the check could not be confined")
        return report

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            send_message(self._control, message, descriptors)
        except OSError as error:
            raise ZygoteError(f"the zygote is gone: {error}") from None

    def _receive(self) -> dict[str, Any]:
        try:
            return receive_message(self._control)[0]
        except TimeoutError:
            raise ZygoteError("the zygote does not answer") from None
        except (EOFError, OSError) as error:
            raise ZygoteError(f"the zygote ended: {error}") from None


class _Files(contextlib.ExitStack):
    """Anonymous files, closed together."""

    def create(self, content: bytes) -> int:
        """Return the descriptor of a file with this content, at its beginning."""
        if sys.platform == "linux":
            descriptor = os.memfd_create("judge", os.MFD_CLOEXEC)
            self.callback(os.close, descriptor)
        else:
            descriptor = self.enter_context(tempfile.TemporaryFile()).fileno()  # noqa: SIM115 entered here
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor


def _content(descriptor: int, max_bytes: int, from_end: bool = False) -> bytes:
    size = os.fstat(descriptor).st_size
    offset = max(0, size - max_bytes) if from_end else 0
    parts = []
    while (num_bytes := min(size - offset, max_bytes)) > 0 and (part := os.pread(descriptor, num_bytes, offset)):
        parts.append(part)
        offset += len(part)
        max_bytes -= len(part)
    return b"".join(parts)


def _packages() -> list[tuple[str, Path]]:
    """Return the packages around this module, outermost first, with their directories."""
    names = __name__.split(".")[:-1]
    here = Path(__file__).parent
    depths = range(len(names))
    return [(".".join(names[: depth + 1]), [here, *here.parents][len(names) - 1 - depth]) for depth in depths]
