"""The tests' process: runs tests on a program that lives in another process, and writes the verdict.

The tests come from benchmarks; the values they see come from the program and are hostile data. A name that the tests
use and do not define is the program's, as if both stood in one file, except that the program cannot replace a builtin
under the tests: `sum` is the program's only where it is the function being tested.
"""

import builtins
import json
import os
import symtable
import traceback
from typing import Any, NoReturn

from wmtp_ray.evaluation.judge.channel import Channel
from wmtp_ray.evaluation.judge.remote import ProgramTroubleError, RemoteObject, Session
from wmtp_ray.evaluation.judge.verdict import Status

TESTS_FD, CHANNEL_FD, VERDICT_FD = 3, 4, 5
FILE_NAME = "<tests>"


class BrokenTestsError(Exception):
    """The tests themselves cannot be run, whatever the program."""


def run_tests() -> NoReturn:
    """Read a job {"sections": sources in order, "entry_point": name or null, "call_check": bool}; write the verdict."""
    with open(TESTS_FD, "rb") as file:
        job = json.loads(file.read())
    status, detail = judge(job, Session(Channel(CHANNEL_FD)))
    os.write(VERDICT_FD, json.dumps([status, detail]).encode())
    os._exit(0)


def judge(job: dict[str, Any], session: Session) -> tuple[Status, str]:
    """Run the tests and return status and detail; trouble that a test swallowed still counts."""
    outcome: tuple[Status, str] = ("pass", "")
    try:
        _run(job["sections"], job["entry_point"], job["call_check"], session)
    except BrokenTestsError as error:
        outcome = ("error", str(error))
    except ProgramTroubleError:
        assert session.trouble is not None
    except MemoryError:
        outcome = ("memory", "the program's values do not fit into the tests' memory")
    except BaseException as error:
        outcome = ("fail", _describe(error, job["sections"]))
    return session.trouble or outcome


def _run(sections: list[str], entry_point: str | None, call_check: bool, session: Session) -> None:
    codes = [_compile(source, number) for number, source in enumerate(sections)]
    names = free_names(sections)
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    namespace.update(_meanings(names, entry_point, session))
    candidate = namespace.get(entry_point) if entry_point is not None else None
    if entry_point is not None and not isinstance(candidate, RemoteObject):
        session.stop("fail", f"the program defines no function {entry_point!r}")
    for code in codes:
        exec(code, namespace)
    if call_check:
        if "check" not in namespace:
            raise BrokenTestsError("the tests define no check(candidate)")
        namespace["check"](candidate)


def _compile(source: str, number: int) -> Any:
    try:
        return compile(source, _file_name(number), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenTestsError(f"the tests do not compile: {error}") from None


def _meanings(names: set[str], entry_point: str | None, session: Session) -> dict[str, object]:
    shadowed = {name for name in names if hasattr(builtins, name)}
    asked = names - shadowed | ({entry_point} if entry_point is not None else set())
    meanings = session.names(sorted(asked))
    if not meanings and entry_point is None and shadowed:
        meanings = session.names(sorted(shadowed))  # MBPP has a function under test called `sum`
    return meanings


def free_names(sections: list[str]) -> set[str]:
    """Return the global names that sources use and none of them defines.

    "def check(f): assert f(1) == helper(limit)" -> {"helper", "limit"}
    """
    used: set[str] = set()
    defined: set[str] = set()
    for source in sections:
        top = symtable.symtable(source, FILE_NAME, "exec")
        for symbol in top.get_symbols():
            bound = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
            (defined if bound else used).add(symbol.get_name())
        pending = list(top.get_children())
        while pending:
            table = pending.pop()
            pending += table.get_children()
            used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return used - defined


def _file_name(number: int) -> str:
    return f"<tests {number}>"


def _describe(error: BaseException, sections: list[str]) -> str:
    """Say which line of the tests failed, and why."""
    files = {_file_name(number): source.splitlines() for number, source in enumerate(sections)}
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        lines = files.get(frame.filename)
        if lines is not None and frame.lineno is not None:
            return f"{words} at line {frame.lineno} of the tests: {lines[frame.lineno - 1].strip()}"
    return words
