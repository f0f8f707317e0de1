"""The tests' requests to the program, which another process answers.

Every answer is checked against what was asked: a program may say anything. In between, the program may ask for
functions that the tests lent to it.
"""

import builtins
import importlib
import sys
from dataclasses import dataclass
from types import BuiltinFunctionType, ModuleType
from typing import Any, NamedTuple, Never

from wmtp_ray.evaluation.judge.channel import (
    BUILTIN,
    MAX_DEPTH,
    Channel,
    ChannelClosedError,
    MalformedFrameError,
    NotPlainError,
    decode,
    encode,
)
from wmtp_ray.evaluation.judge.given import SharedObjects
from wmtp_ray.evaluation.judge.lending import Lender
from wmtp_ray.evaluation.judge.remote import (
    RemoteObject,
    exception,
    exception_class,
    number_of,
    number_of_stand_in,
    remote_class,
    stand_in,
    stand_in_class,
)
from wmtp_ray.evaluation.judge.sharing import ATOMS, CONTAINERS, share_parts, shared_parts, update
from wmtp_ray.evaluation.judge.verdict import Status

_INTRUSION = "the program wrote to the channel of its tests"
_STATUS_OF_OUTCOME: dict[str, Status] = {"memory": "memory", "not_plain": "unserialisable", "not_loaded": "fail"}
_MODULES_BESIDE_THE_STANDARD_LIBRARY = {("numpy", "numpy"), ("np", "numpy")}
_PLAIN_BASES = (int, float, str, bytes, tuple, frozenset, list, dict, set, bytearray)


class ProgramTroubleError(BaseException):
    """The program cannot be judged further; a BaseException, so that no test mistakes it for an expected error."""


@dataclass(frozen=True)
class _Module:
    """A name of the program stands for a module."""

    name: str


class _Answer(NamedTuple):
    """The program's answer, as `program_side.Server` describes it."""

    outcome: str
    value: Any
    after: Any = None
    number: Any = None
    changes: Any = ()
    places: Any = ()
    kept: Any = ()
    names: Any = ()


class Session:
    """Requests to the program's process; `trouble` is the first that no test may recover from."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._num_requests = 0
        self._known: dict[int, object] = {}
        self._classes: dict[tuple[type, str], type] = {RemoteObject: RemoteObject}  # type: ignore[dict-item]
        self._shared = SharedObjects(self._carry)
        self._lender = Lender()
        self._stops: list[StopIteration] = []  # raised by the program, and not known to be caught
        self._asks_for_names = False
        self._module_attributes: dict[str, list[str]] = {}
        self._given_names: dict[str, object] = {}
        self.namespace: dict[str, Any] = {}  # of the tests: a name that the program gives another meaning is set here
        self.trouble: tuple[Status, str] | None = None

    def names(self, names: list[str], module_attributes: dict[str, list[str]]) -> dict[str, object]:
        """Return the program's values of those of these names that it defines.

        `module_attributes`: what the tests use of names that are modules' by right; the tests get the module.
        """
        answer = self._exchange("names", None, names)
        found = answer.value
        if answer.outcome != "value":
            self.stop(_STATUS_OF_OUTCOME.get(answer.outcome, "fail"), str(found))
        if type(found) is not dict or not found.keys() <= set(names) or answer.after is not None:
            self.stop("fail", _INTRUSION)
        self._module_attributes = module_attributes
        meanings = {name: self._meaning(name, value) for name, value in found.items()}
        given = {name: value for name, value in meanings.items() if value is not None or found[name] is None}
        for name, number in answer.changes:
            if type(given.get(name)) in CONTAINERS and given[name] is found[name]:
                self._shared.keep(number, given[name], self._code(given[name]))
        self._given_names |= given
        return given

    def _meaning(self, name: str, value: object) -> object:
        if type(value) is _Module:
            return _import_for_tests(name, value.name)
        if name in self._module_attributes:
            module = _import_for_tests(name, "numpy" if name == "np" else name)
            if module is not None and all(hasattr(module, each) for each in self._module_attributes[name]):
                return module
        if issubclass(type(value), type) and issubclass(AssertionError, value):  # type: ignore[arg-type]
            self.stop("unserialisable", f"{name} would catch what the tests assert")
        return value

    def request(self, operation: str, target: int | None, arguments: object) -> Any:
        """Have an operation done and return its result; mutable arguments are brought up to date in place.

        Raises what the program raises: an exception of the same builtin class, or a stand-in for the program's own.
        """
        self.check_stops()
        answer = self._exchange(operation, target, arguments)
        if answer.outcome not in ("value", "raised"):
            self.stop(_STATUS_OF_OUTCOME.get(answer.outcome, "fail"), str(answer.value))
        try:
            result = self._result(operation, answer, arguments)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            self.stop("fail", f"{_INTRUSION}: {error}")
        if answer.outcome == "value":
            return result
        if not issubclass(type(result), BaseException):
            self.stop("fail", _INTRUSION)
        if isinstance(result, StopIteration):
            self._stops.append(result)
        raise result

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

    def refuse(self, type_name: str) -> Never:
        """End the tests, which look at a stand-in in place of the object."""
        self.stop("unserialisable", f"the tests look into a {type_name} object")

    def _result(self, operation: str, answer: _Answer, arguments: Any) -> Any:
        """Bring all that both sides hold up to date; return the value, as the object that the tests have it in."""
        if answer.after is not None:
            update(arguments, answer.after)
        self._shared.apply(answer.changes, lambda code: decode(code, self._resolve))
        both = [arguments, answer.value]
        share_parts(both, answer.places)
        value = both[1]
        positional = arguments[0] if operation == "call" else arguments
        for position, number in answer.kept:
            self._shared.keep(number, positional[position], self._code(positional[position]))
        for name, code in answer.names:
            self._rename(name, code)
        if answer.number is None:
            return value
        item = value[0] if operation == "next" else value
        known = self._shared.known(answer.number)
        item = known if known is not None and update(known, item) else item
        self._shared.keep(answer.number, item, self._code(item))
        return [item] if operation == "next" else item

    def _code(self, value: object) -> object:
        """Encode what both sides hold; None if that is impossible, and what the tests do to it is not looked at."""
        if type(value) is list and ATOMS.issuperset(map(type, value)):
            return value.copy()
        try:
            return encode(value, self._carry)
        except NotPlainError:
            return None

    def _rename(self, name: str, code: object) -> None:
        """Give a name of the program another meaning, unless it is the tests' own by now, or was never given."""
        if name in self._given_names and self.namespace.get(name) is self._given_names[name]:
            self._asks_for_names = True
            self._given_names[name] = self.namespace[name] = self._meaning(name, decode(code, self._resolve))
            self._asks_for_names = False

    def _exchange(self, operation: str, target: int | None, arguments: object) -> _Answer:
        self._num_requests += 1
        mine = self._num_requests
        try:
            code = encode(arguments, self._carry)
            self._channel.send([mine, operation, target, code, shared_parts(arguments), self._shared.changes()])
            while True:
                number, *rest = self._channel.receive()
                if number != "ask":
                    break
                self._channel.send(self._lend(*rest))
            if number == mine and isinstance(rest[0], str):
                return self._decode(operation, *rest)
        except ChannelClosedError:
            self.stop("fail", "the program ended during a call")
        except NotPlainError as error:
            self.stop("unserialisable", f"the tests pass on {error}")
        except (MalformedFrameError, ValueError, TypeError, LookupError) as error:
            self.stop("fail", f"{_INTRUSION}: {error}")
        return self.stop("fail", _INTRUSION)

    def _lend(self, operation: object, number: object, arguments: object) -> list[object]:
        """Do what the program asks of a function or an iterator of the tests; return the answer."""
        values: Any = decode(arguments, self._resolve)
        positional, keyword = values
        self._lender.lent(number)
        try:
            outcome, result = "value", self._lender.do(operation, number, positional, keyword)
        except ProgramTroubleError:
            raise
        except BaseException as error:
            outcome, code = "raised", self._carry(error, MAX_DEPTH)
        else:
            code = encode(result, self._carry)
        after = encode(values, self._carry)
        return ["reply", outcome, code, None if after == arguments else after]

    def _decode(self, operation: str, outcome: str, value: object, *rest: Any) -> _Answer:
        self._asks_for_names = operation == "names"
        after, number, changes, more = rest if rest else (None, None, [], None)  # words come without these
        places, kept, names = more or ([], [], [])
        decoded = decode(value, self._resolve)
        if type(places) is not list or type(kept) is not list or type(names) is not list or type(changes) is not list:
            raise TypeError("an answer of another form")
        if number is not None and type(number) is not int:
            raise TypeError("the number of a result is no number")
        return _Answer(outcome, decoded, decode(after, self._resolve), number, changes, places, kept, names)

    def _carry(self, value: object, depth: int) -> object:
        """Send back an object of the program, or lend what the tests have; nothing else can be sent."""
        kind = type(value)
        if issubclass(kind, RemoteObject):
            return {"h": [number_of(value), "object", ""]}  # type: ignore[arg-type]
        number = number_of_stand_in(value)
        if number is not None:
            return {"h": [number, "object", ""]}
        if issubclass(kind, BaseException):
            return self._lender.raised(value, self._carry)  # type: ignore[arg-type]
        name: str = value.__name__ if isinstance(value, BuiltinFunctionType | type) else ""
        if getattr(builtins, name, None) is value:
            return {"h": [BUILTIN, "builtin", name]}
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return encode(value.item(), self._carry, depth)
        lent = self._lender.lend(value)
        if lent is None:
            raise NotPlainError(f"a {kind.__name__}, which is no plain data")
        return lent

    def _resolve(self, tag: str, body: Any) -> object:
        if tag == "l":
            return self._lender.lent(body[0])
        if tag == "x":
            kind, arguments, attributes, text, cause, number = body
            known = decode(kind, self._resolve)
            if not issubclass(type(known), type) or not issubclass(known, BaseException):  # type: ignore[arg-type]
                raise TypeError("an exception of no class of exceptions")
            error = exception(
                known,
                decode(arguments, self._resolve),
                decode(attributes, self._resolve),
                text,
                number,
            )
            error.__cause__ = decode(cause, self._resolve)  # type: ignore[assignment]
            return error
        if tag == "q":
            number, name, code = body
            value = decode(code, self._resolve)
            if type(value) not in _PLAIN_BASES or type(number) is not int:
                raise TypeError("a subclass of no plain data")
            return stand_in(self._class(type(value), str(name)), number, value)
        if tag != "h":
            raise TypeError("a tag of no kind")
        return self._remote(*body)

    def _remote(self, number: object, kind: str, name: Any) -> object:
        if kind == "module" and self._asks_for_names:
            return _Module(str(name))
        if type(number) is not int:
            raise TypeError("the number of a handle is no number")
        if number not in self._known:
            self._known[number] = self._make(number, kind, name)
        return self._known[number]

    def _make(self, number: int, kind: str, name: Any) -> object:
        if kind == "object":
            return self._class(RemoteObject, str(name))(self, number, str(name))
        if kind == "builtin exception":
            return _exception_called(builtins, str(name)) or Exception
        if kind == "library exception":
            module, name, bases = name
            found = str(module).partition(".")[0] in sys.stdlib_module_names and sys.modules.get(str(module))
            known = _exception_called(found, str(name)) if found else None
            if known is not None and known.__module__ == module:
                return known
            name = [name, bases]
        elif kind != "exception":
            raise TypeError("a handle of no kind")
        class_name, bodies = name
        bases = tuple(self._remote(*body) for body in bodies)
        if not bases or not all(issubclass(type(base), type) and issubclass(base, BaseException) for base in bases):
            raise TypeError("an exception class with another base")
        return exception_class(str(class_name), bases, self)

    def _class(self, base: Any, name: str) -> Any:
        """Return the one class of remote objects, or of stand-ins, of this name."""
        if base is RemoteObject and name in ("function", "type", ""):
            return RemoteObject
        if (base, name) not in self._classes:
            made = remote_class(name) if base is RemoteObject else stand_in_class(name, base, self)
            self._classes[base, name] = made
        return self._classes[base, name]


def _exception_called(module: object, name: str) -> type[BaseException] | None:
    kind = getattr(module, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


def _import_for_tests(name: str, module: str) -> ModuleType | None:
    """Return the real module that tests use because the program imports it; never another than the name says."""
    standard = name == module and name in sys.stdlib_module_names
    if standard or (name, module) in _MODULES_BESIDE_THE_STANDARD_LIBRARY:
        return importlib.import_module(module)
    return None
