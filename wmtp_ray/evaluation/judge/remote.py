"""The tests' view of the program: its names, answered by another process.

Functions and classes become `RemoteObject`s that can be called; their plain results are real values; an object that
does not travel (a generator, a node of a tree) is another `RemoteObject`, which can be asked for attributes, items and
the next item, and handed back. It never takes part in a comparison: what the program says about equality is worth
nothing.
"""

import builtins
import importlib
import sys
from dataclasses import dataclass
from types import BuiltinFunctionType, ModuleType
from typing import Any, Never

from wmtp_ray.evaluation.judge.channel import (
    BUILTIN,
    Channel,
    ChannelClosedError,
    MalformedFrameError,
    NotPlainError,
    decode,
    encode,
)
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


class Session:
    """Requests to the program's process; `trouble` is the first that no test may recover from."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._num_requests = 0
        self._known: dict[int, object] = {}
        self.trouble: tuple[Status, str] | None = None

    def names(self, names: list[str]) -> dict[str, object]:
        """Return what the program means by each of these names, as far as it has them, and by no other."""
        outcome, found, after = self._exchange("names", None, names)
        if outcome != "value":
            self.stop(_STATUS_OF_OUTCOME.get(outcome, "fail"), str(found))
        if not isinstance(found, dict) or not found.keys() <= set(names) or after is not None:
            self.stop("fail", _INTRUSION)
        meanings = {
            name: _import_for_tests(name, value.name) if isinstance(value, _Module) else value
            for name, value in found.items()
        }
        return {name: value for name, value in meanings.items() if value is not None or found[name] is None}

    def request(self, operation: str, target: int | None, arguments: object) -> Any:
        """Have an operation done and return its result; mutable arguments are brought up to date in place.

        Raises what the program raises: an exception of the same builtin class, or a stand-in for the program's own.
        """
        outcome, value, after = self._exchange(operation, target, arguments)
        if outcome == "raised":
            raise _exception(value, after)
        if outcome != "value":
            self.stop(_STATUS_OF_OUTCOME.get(outcome, "fail"), str(value))
        if after is not None:
            update(arguments, after)
        return value

    def stop(self, status: Status, detail: str) -> Never:
        """End the tests with this verdict, whatever they catch."""
        self.trouble = self.trouble or (status, detail)
        raise ProgramTroubleError(detail)

    def _exchange(self, operation: str, target: int | None, arguments: object) -> tuple[str, Any, Any]:
        """Return outcome, value, and the arguments as they are now (or the message of an exception)."""
        self._num_requests += 1
        try:
            message = [self._num_requests, operation, target, encode(arguments, _carry)]
        except NotPlainError as error:
            self.stop("unserialisable", f"the tests pass on {error}")
        try:
            self._channel.send(message)
            number, outcome, value, *rest = self._channel.receive()
            if number == self._num_requests and isinstance(outcome, str):
                return outcome, decode(value, self._resolve), decode(rest[0], self._resolve) if rest else None
        except ChannelClosedError:
            self.stop("fail", "the program ended during a call")
        except NotPlainError as error:
            self.stop("unserialisable", f"the tests pass on {error}")
        except (MalformedFrameError, ValueError, TypeError) as error:
            self.stop("fail", f"{_INTRUSION}: {error}")
        return self.stop("fail", _INTRUSION)

    def _resolve(self, body: Any) -> object:
        number, kind, name = body
        if kind == "module":
            return _Module(str(name))
        if type(number) is not int:
            raise TypeError("the number of a handle is no number")
        if number not in self._known:
            make = {"object": self._remote, "exception": _stand_in, "builtin exception": _builtin_exception}[kind]
            self._known[number] = make(number, str(name))
        return self._known[number]

    def _remote(self, number: int, name: str) -> "RemoteObject":
        return RemoteObject(self, number, name)


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


def _builtin_exception(number: int, name: str) -> type[BaseException]:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception


def _stand_in(number: int, name: str) -> type[BaseException]:
    """Return a class of its own for an exception class of the program, derived from the same builtin one."""
    return type("ProgramException", (_builtin_exception(number, name),), {})


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
