"""The tests' view of the program: its names, answered by another process.

Functions and classes become `RemoteObject`s that can be called; their plain results are real values; an object that
does not travel (a generator, a node of a tree) is another `RemoteObject`, which can be asked for attributes, items and
the next item, and handed back. It never takes part in a comparison: what the program says about equality cannot be
trusted.
"""

import builtins
import importlib
import sys
from dataclasses import dataclass
from types import BuiltinFunctionType, ModuleType
from typing import Any, NamedTuple, Never

from wmtp_ray.evaluation.judge.channel import (
    BUILTIN,
    Channel,
    ChannelClosedError,
    MalformedFrameError,
    NotPlainError,
    decode,
    encode,
)
from wmtp_ray.evaluation.judge.given import NUM_KEPT
from wmtp_ray.evaluation.judge.sharing import shared_parts
from wmtp_ray.evaluation.judge.verdict import Status

_INTRUSION = "the program wrote to the channel of its tests"
_STATUS_OF_OUTCOME: dict[str, Status] = {"memory": "memory", "not_plain": "unserialisable", "not_loaded": "fail"}
_MODULES_BESIDE_THE_STANDARD_LIBRARY = {("numpy", "numpy"), ("np", "numpy")}


class ProgramTroubleError(BaseException):
    """The program cannot be judged further; a BaseException, so that no test mistakes it for an expected error."""


@dataclass(frozen=True)
class _Module:
    """A name of the program stands for a module."""

    name: str


class _Answer(NamedTuple):
    """The program's answer; `after` is the message of an exception where it raised one."""

    outcome: str
    value: Any
    after: Any = None
    number: int | None = None
    changes: tuple[tuple[int, Any], ...] = ()


class Session:
    """Requests to the program's process; `trouble` is the first that no test may recover from.

    Every answer is checked against what was asked: a program may say anything.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._num_requests = 0
        self._known: dict[int, object] = {}
        self._given: dict[int, object] = {}  # by number: the last results, which the program may change
        self._stops: list[StopIteration] = []  # raised by the program, and not known to be caught
        self._asks_for_names = False
        self.reduced: str | None = None  # a class of the program that the tests have instances of by its base only
        self.trouble: tuple[Status, str] | None = None

    def names(self, names: list[str], module_attributes: dict[str, list[str]]) -> dict[str, object]:
        """Return the program's values of those of these names that it defines.

        `module_attributes`: what the tests use of names that are modules' by right; the tests get the module.
        """
        answer = self._exchange("names", None, names)
        found = answer.value
        if answer.outcome != "value":
            self.stop(_STATUS_OF_OUTCOME.get(answer.outcome, "fail"), str(found))
        if not isinstance(found, dict) or not found.keys() <= set(names) or answer.after is not None:
            self.stop("fail", _INTRUSION)
        meanings = {name: self._meaning(name, value, module_attributes) for name, value in found.items()}
        return {name: value for name, value in meanings.items() if value is not None or found[name] is None}

    def _meaning(self, name: str, value: object, module_attributes: dict[str, list[str]]) -> object:
        if isinstance(value, _Module):
            return _import_for_tests(name, value.name)
        if name in module_attributes:
            module = _import_for_tests(name, "numpy" if name == "np" else name)
            if module is not None and all(hasattr(module, attribute) for attribute in module_attributes[name]):
                return module
        if isinstance(value, type) and issubclass(AssertionError, value):
            self.stop("unserialisable", f"{name} would catch what the tests assert")
        return value

    def request(self, operation: str, target: int | None, arguments: object) -> Any:
        """Have an operation done and return its result; mutable arguments are brought up to date in place.

        Raises what the program raises: an exception of the same builtin class, or a stand-in for the program's own.
        """
        self.check_stops()
        answer = self._exchange(operation, target, arguments)
        if answer.outcome == "raised":
            error = _exception(answer.value, answer.after)
            if isinstance(error, StopIteration):
                self._stops.append(error)
            raise error
        if answer.outcome != "value":
            self.stop(_STATUS_OF_OUTCOME.get(answer.outcome, "fail"), str(answer.value))
        if answer.after is not None:
            update(arguments, answer.after)
        for number, now in answer.changes:
            if number in self._given:
                update(self._given[number], now)
        return self._result(operation, answer, arguments)

    def check_stops(self) -> None:
        """Stop if a StopIteration that the program raised in a call ended a loop of the tests, in silence.

        One that the tests caught has passed through a frame of theirs.
        """
        stops, self._stops = self._stops, []
        for error in stops:
            trace = error.__traceback__
            if trace is None or trace.tb_frame.f_globals is globals():
                self.stop("fail", "the program raised StopIteration in a call")

    def stop(self, status: Status, detail: str) -> Never:
        """End the tests with this verdict, whatever they catch."""
        self.trouble = self.trouble or (status, detail)
        raise ProgramTroubleError(detail)

    def _result(self, operation: str, answer: _Answer, arguments: Any) -> Any:
        """Return the value, as the object that the tests have it in already."""
        value, number = answer.value, answer.number
        if number is None or (operation == "next" and not (isinstance(value, tuple) and len(value) == 1)):
            return value
        if number < 0:
            same = -1 - number
            return arguments[0][same] if operation == "call" and same < len(arguments[0]) else value
        item = value[0] if operation == "next" else value
        known = self._given.pop(number, None)
        self._given[number] = known if known is not None and update(known, item) else item
        if len(self._given) > 2 * NUM_KEPT:
            del self._given[next(iter(self._given))]
        return (self._given[number],) if operation == "next" else self._given[number]

    def _exchange(self, operation: str, target: int | None, arguments: object) -> _Answer:
        self._num_requests += 1
        try:
            code = encode(arguments, _carry)
            message = [self._num_requests, operation, target, code, shared_parts(arguments)]
        except NotPlainError as error:
            self.stop("unserialisable", f"the tests pass on {error}")
        try:
            self._channel.send(message)
            number, outcome, value, *rest = self._channel.receive()
            if number == self._num_requests and isinstance(outcome, str):
                return self._decode(operation, outcome, value, rest)
        except ChannelClosedError:
            self.stop("fail", "the program ended during a call")
        except NotPlainError as error:
            self.stop("unserialisable", f"the tests pass on {error}")
        except (MalformedFrameError, ValueError, TypeError) as error:
            self.stop("fail", f"{_INTRUSION}: {error}")
        return self.stop("fail", _INTRUSION)

    def _decode(self, operation: str, outcome: str, value: object, rest: list[Any]) -> _Answer:
        self._asks_for_names = operation == "names"
        after = rest[0] if rest else None
        number, changes, reduced = rest[1:] if len(rest) > 1 else (None, (), None)  # an exception comes without these
        self.reduced = self.reduced if reduced is None else str(reduced)
        return _Answer(
            outcome,
            value=decode(value, self._resolve),
            after=decode(after, self._resolve),
            number=None if number is None else int(number),
            changes=tuple((int(given), decode(now, self._resolve)) for given, now in changes),
        )

    def _resolve(self, body: Any) -> object:
        number, kind, name = body
        if kind == "module" and self._asks_for_names:
            return _Module(str(name))
        if type(number) is not int:
            raise TypeError("the number of a handle is no number")
        if number not in self._known:
            self._known[number] = self._make(number, kind, name)
        return self._known[number]

    def _make(self, number: int, kind: str, name: Any) -> object:
        if kind == "object":
            return RemoteObject(self, number, str(name))
        if kind == "builtin exception":
            return _builtin_exception(str(name))
        if kind != "exception":
            raise TypeError("a handle of no kind")
        bases: list[Any] = [self._resolve(base) for base in name]
        if not all(isinstance(base, type) and issubclass(base, BaseException) for base in bases):
            raise TypeError("an exception class with another base")
        return type("ProgramException", tuple(bases), {})  # a stand-in, of the same family


class RemoteObject:
    """An object of the program that stays in its process."""

    __slots__ = ("_number", "_session", "_type_name")

    def __init__(self, session: Session, number: int, type_name: str) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    def __call__(self, *positional: object, **keyword: object) -> object:
        return _ask(self, "call", [list(positional), keyword])

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "getattr", [name])

    def __setattr__(self, name: str, value: object) -> None:
        _ask(self, "setattr", [name, value])

    def __iter__(self) -> Any:
        return _ask(self, "iter", [])

    def __next__(self) -> object:
        item = _ask(self, "next", [])
        if item == ():
            raise StopIteration
        return item[0]

    def __len__(self) -> int:
        length = _ask(self, "len", [])
        return length if isinstance(length, int) else _refuse(self)

    def __getitem__(self, key: object) -> object:
        return _ask(self, "getitem", [key])

    def __contains__(self, item: object) -> bool:
        return _ask(self, "contains", [item]) is True

    def __eq__(self, other: object) -> bool:
        return True if self is other else _refuse(self)

    def __ne__(self, other: object) -> bool:
        return False if self is other else _refuse(self)

    def __bool__(self) -> bool:
        return _refuse(self)

    def __instancecheck__(self, instance: object) -> bool:
        return _refuse(self)

    def __hash__(self) -> int:
        return id(self)


def _ask(remote: RemoteObject, operation: str, arguments: list[object]) -> Any:
    session: Session = object.__getattribute__(remote, "_session")
    return session.request(operation, object.__getattribute__(remote, "_number"), arguments)


def _refuse(remote: RemoteObject) -> Never:
    session: Session = object.__getattribute__(remote, "_session")
    session.stop("unserialisable", f"the tests look into a {object.__getattribute__(remote, '_type_name')} object")


def _carry(value: object) -> object:
    """Send back an object of the program; nothing else that is no plain data can be sent."""
    if isinstance(value, RemoteObject):
        return {"h": [object.__getattribute__(value, "_number"), "object", ""]}
    name = getattr(value, "__name__", None)
    if isinstance(value, BuiltinFunctionType) and isinstance(name, str) and getattr(builtins, name, None) is value:
        return {"h": [BUILTIN, "builtin", name]}
    raise NotPlainError(f"a {type(value).__name__}, which is no plain data")


def _exception(kind: Any, message: object) -> BaseException:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = RuntimeError
    error: BaseException = kind.__new__(kind)  # no __init__: some classes want more than a message
    error.args = (str(message),)
    return error


def _builtin_exception(name: str) -> type[BaseException]:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception


def _import_for_tests(name: str, module: str) -> ModuleType | None:
    """Return the real module that tests use because the program imports it; never another than the name says."""
    standard = name == module and name in sys.stdlib_module_names
    if standard or (name, module) in _MODULES_BESIDE_THE_STANDARD_LIBRARY:
        return importlib.import_module(module)
    return None


def update(mine: Any, theirs: Any) -> bool:
    """Make a value equal to another in place; return False where that is impossible and `mine` must be replaced."""
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, list):
        if len(mine) == len(theirs):
            mine[:] = [old if update(old, new) else new for old, new in zip(mine, theirs, strict=True)]
        else:
            mine[:] = theirs
        return True
    if isinstance(mine, dict):
        merged = {key: mine[key] if key in mine and update(mine[key], new) else new for key, new in theirs.items()}
        mine.clear()
        mine.update(merged)
        return True
    if isinstance(mine, set):
        mine.clear()
        mine.update(theirs)
        return True
    if isinstance(mine, bytearray):
        mine[:] = theirs
        return True
    if isinstance(mine, tuple):
        return len(mine) == len(theirs) and all(update(old, new) for old, new in zip(mine, theirs, strict=True))
    return bool(mine is theirs or (not isinstance(mine, RemoteObject) and mine == theirs))
