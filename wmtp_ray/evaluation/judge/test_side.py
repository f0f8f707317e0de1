"""The tests' process: runs tests on a program that lives in another process, and writes the verdict.

The tests come from benchmarks; the values they see come from the program and are hostile data. A name that the tests
use and do not define is the program's, as if both stood in one file, except that the program cannot replace a builtin
under the tests: `sum` is the program's only where it is the function being tested.
"""

import builtins
import json
import marshal
import os
import traceback
from typing import Any, NoReturn

from wmtp_ray.evaluation.judge.channel import Channel
from wmtp_ray.evaluation.judge.remote import RemoteObject
from wmtp_ray.evaluation.judge.remote_session import ProgramTroubleError, Session
from wmtp_ray.evaluation.judge.tests_job import compile_tests
from wmtp_ray.evaluation.judge.verdict import BrokenTestsError, Status, printable

_MAX_TRACED_FRAMES = 100
TESTS_FD, CHANNEL_FD, VERDICT_FD = 3, 4, 5


def run_tests() -> NoReturn:
    """Read a job as `tests_job.py` makes it, write the verdict."""
    with open(TESTS_FD, "rb") as file:
        job = marshal.loads(file.read())  # of the judge's own making
    status, detail = judge(job, Session(Channel(CHANNEL_FD)))
    os.write(VERDICT_FD, json.dumps([status, printable(detail)]).encode())
    os._exit(0)


def judge(job: dict[str, Any], session: Session) -> tuple[Status, str]:
    """Run the tests and return status and detail; trouble that a test swallowed still counts."""
    outcome: tuple[Status, str] = ("pass", "")
    try:
        _run(job, session)
    except BrokenTestsError as error:
        outcome = ("error", str(error))
    except ProgramTroubleError:
        assert session.trouble is not None
    except MemoryError:
        outcome = ("memory", "the program's values do not fit into the tests' memory")
    except BaseException as error:
        compiled = job["compiled"]
        detail = _describe(error, compiled["sources"] if compiled else {})
        if compiled and compiled["streams"]:
            outcome = (
                "unserialisable",
                f"the tests use {compiled['streams'][0]}, which the program has its own of: {detail}",
            )
        else:
            outcome = "fail", detail
    return session.trouble or outcome


def _run(job: dict[str, Any], session: Session) -> None:
    entry_point = job["entry_point"]
    job["compiled"] = compiled = job["compiled"] or compile_tests(job["sections"])
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    namespace.update(_meanings(compiled, entry_point, session))
    session.namespace = namespace
    candidate = namespace.get(entry_point) if entry_point is not None else None
    if entry_point is not None and not issubclass(type(candidate), RemoteObject):
        session.stop("fail", f"the program defines no function {entry_point!r}")
    if compiled["seeds"]:
        _seed_both(session)
    for code in compiled["codes"]:
        exec(code, namespace)
    if job["call_check"]:
        if "check" not in namespace:
            raise BrokenTestsError("the tests define no check(candidate)")
        namespace["check"](candidate)
    session.check_stops()


def _seed_both(session: Session) -> None:
    """Have the program's `random` start anew wherever the tests have theirs do so."""
    import random

    seed_here = random.seed

    def seed(*arguments: Any) -> None:
        seed_here(*arguments)
        session.request("seed", None, list(arguments))

    random.seed = seed  # type: ignore[assignment]


def _meanings(compiled: dict[str, Any], entry_point: str | None, session: Session) -> dict[str, object]:
    names = set(compiled["names"])
    modules = {name: used for name, used in compiled["module_attributes"].items() if name != entry_point}
    shadowed = {name for name in names if hasattr(builtins, name)}
    asked = names - shadowed | ({entry_point} if entry_point is not None else set())
    meanings = session.names(sorted(asked), modules)
    if not meanings and entry_point is None and shadowed:
        meanings = session.names(sorted(shadowed), {})  # MBPP has a function under test called `sum`
    return meanings


def _describe(error: BaseException, sources: dict[str, str]) -> str:
    """Return which line of the tests failed, and why; sources by the file name they were compiled with."""
    words = type(error).__name__ + _message(error)
    for frame in reversed(traceback.extract_tb(error.__traceback__, limit=-_MAX_TRACED_FRAMES)):
        source = sources.get(frame.filename)
        if source is not None and frame.lineno is not None:
            return f"{words} at line {frame.lineno} of the tests: {source.splitlines()[frame.lineno - 1].strip()}"
    return words


def _message(error: BaseException) -> str:
    """Return the beginning of an error's message, which may hold all that a program returned, or fail to be made."""
    try:
        text = str(error)
    except BaseException:
        return " (its message cannot be made)"
    return f": {printable(text)}" if text else ""
