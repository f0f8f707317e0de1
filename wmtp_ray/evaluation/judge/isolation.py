"""Which level of isolation this machine gives: found by running programs that must be stopped.

| level | what holds a program | needs |
|---|---|---|
| namespace | landlock, and a root, network, process ids and host of its own | Linux with user namespaces |
| landlock | Landlock for files, seccomp for system calls, rlimits, no privileges | Linux 6.2 or later |
| landlock-weak | the same with a Landlock that does not govern truncation | Linux 5.13 or later |
| seatbelt | sandbox_init with a deny-default profile, rlimits, a watch on memory | macOS |
| rlimits | rlimits only: files, processes and network are open | asking for it by name |

There is no level 0. Feature flags are not trusted: a container may announce a call and refuse it.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from wmtp_ray.errors import SandboxError
from wmtp_ray.evaluation.judge import landlock
from wmtp_ray.evaluation.judge.limits import limits_for
from wmtp_ray.evaluation.judge.tests_job import prepare_tests
from wmtp_ray.evaluation.judge.worker import RefusedError, Worker, ZygoteError

_RANK = {"rlimits": 0, "landlock-weak": 1, "seatbelt": 2, "landlock": 2, "namespace": 3}
LEVELS = tuple(_RANK)
_SELF_TEST_MEMORY_BYTES = 1 << 30
_SELF_TEST_FILE_BYTES = 1 << 20
_SELF_TEST_S = 5.0

# A program that reports what it could do and should not have been able to.
_SELF_TEST_PROGRAM = """
import os, socket

def opens_a_socket(secret, judge):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()

def reads_outside(secret, judge):
    open(secret).read()

def writes_outside(secret, judge):
    open(secret, "a").write("written")

def creates_outside(secret, judge):
    open(secret + ".new", "w").close()

def deletes_outside(secret, judge):
    os.unlink(secret)

def changes_a_mode_outside(secret, judge):
    os.chmod(secret, 0o777)

def signals_the_judge(secret, judge):
    os.kill(judge, 0)

def forks(secret, judge):
    if os.fork() == 0:
        os._exit(0)

ATTEMPTS = [opens_a_socket, reads_outside, writes_outside, creates_outside, deletes_outside, changes_a_mode_outside]
ATTEMPTS += [signals_the_judge, forks]

def could(secret, judge):
    done = []
    for attempt in ATTEMPTS:
        try:
            attempt(secret, judge)
        except OSError:
            continue
        done.append(attempt.__name__)
    return done

def works(items):
    with open("own.txt", "w") as file:
        file.write("own")
    return [item + 1 for item in items], open("own.txt").read()
"""


def open_worker(isolation: str, required: str | None, scratch_bytes: int) -> tuple[Worker, str]:
    """Return a worker at the best level that passes its self-test, and the level.

    `isolation` is "auto" or a level; `required` the lowest level to accept, None for what is asked for by name, or for
    "landlock" ("seatbelt" on macOS) with "auto". Raises SandboxError when there is none.
    """
    for name in (isolation, required):
        if name not in (*LEVELS, "auto", None) or (name == "auto" and name is required):
            raise SandboxError(f"There is no isolation level {name!r}; choose one of auto, {', '.join(LEVELS)}")
    lowest = required or (_default_requirement() if isolation == "auto" else isolation)
    reasons = []
    for level in _candidates(isolation):
        if _RANK[level] < _RANK[lowest]:
            reasons.append(f"{level}: below the required level")
            continue
        try:
            return _tested_worker(level, scratch_bytes), level
        except (RefusedError, ZygoteError, OSError) as error:
            reasons.append(f"{level}: {error}")
    raise SandboxError(_refusal(lowest, reasons))


def _default_requirement() -> str:
    return "seatbelt" if sys.platform == "darwin" else "landlock"


def _candidates(isolation: str) -> list[str]:
    if isolation != "auto":
        return [isolation]
    if sys.platform == "darwin":
        return ["seatbelt"]
    return ["namespace", "landlock", "landlock-weak"]


def _tested_worker(level: str, scratch_bytes: int) -> Worker:
    """Start a worker and have it prove its level."""
    if level == "landlock" and landlock.abi_version() < landlock.FULL_ABI:
        raise RefusedError(f"Landlock has ABI {landlock.abi_version()}, below {landlock.FULL_ABI}")
    worker = Worker(level, scratch_bytes)
    try:
        _self_test(worker, must_block=level != "rlimits")
    except BaseException:
        worker.close()
        raise
    return worker


def _self_test(worker: Worker, must_block: bool) -> None:
    """Raise RefusedError naming what a program could do, or that an honest program did not work."""
    with tempfile.TemporaryDirectory(prefix="judge-self-test-") as directory:
        secret = Path(directory) / "secret"
        secret.write_text("secret", encoding="utf-8")
        blocked = f"assert could({str(secret)!r}, {os.getpid()}) == [], could({str(secret)!r}, {os.getpid()})"
        works = 'assert works([1, 2]) == ([2, 3], "own")'
        job = prepare_tests((works, blocked if must_block else ""), entry_point=None, call_check=False)
        limits = limits_for(_SELF_TEST_S, _SELF_TEST_MEMORY_BYTES, _SELF_TEST_FILE_BYTES, _SELF_TEST_FILE_BYTES)
        report = worker.run_function(_SELF_TEST_PROGRAM.encode(), job, limits)
    status, detail = json.loads(report.written or b'["fail", "the tests ended without a verdict"]')
    if status != "pass":
        raise RefusedError(f"the self-test ended in {status}: {detail}")


def _refusal(lowest: str, reasons: list[str]) -> str:
    return (
        f"Programs cannot be judged at isolation level {lowest!r} on this machine "
        f"({platform.system()} {platform.release()}). Tried: {'; '.join(reasons)}. Allow the missing primitive "
        "(Landlock: a kernel from 6.2 on with landlock among its security modules; seccomp: no filter around this "
        "process that forbids it), or accept less: isolation_required='landlock-weak', or isolation='rlimits', which "
        "protects neither your files nor your network from model-written programs"
    )
