"""The program's process: runs a hostile program, and answers calls of the tests on it.

Everything here is in the program's hands once it runs: nothing in this process knows a test, an expected value or the
verdict, and all its answers are treated as output of the program.
"""

import builtins
import contextlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from wmtp_ray.evaluation.judge import standard_files
from wmtp_ray.evaluation.judge.channel import BUILTIN, Channel, ChannelClosedError, NotPlainError, decode, encode
from wmtp_ray.evaluation.judge.given import GivenResults
from wmtp_ray.evaluation.judge.sharing import share_parts

PROGRAM_FD, CHANNEL_FD = 3, 4
FILE_NAME, MODULE_NAME = "<program>", "program"
_MAX_MESSAGE_CHARS = 2000
_NUM_FRAMES_OF_A_CALL = 3
_PLAIN = (bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_NUM_PLAIN_FRAMES = sys.getrecursionlimit()


def run_stdio() -> None:
    """Run the program as a script on the standard streams; its caller is to let the interpreter end.

    The end of the interpreter is part of a script: it waits for threads, runs exit handlers and `__del__`, and flushes.
    """
    _allow_frames(_NUM_PLAIN_FRAMES + 1)  # `exec`
    standard_files.name_them()
    module = _new_module("__main__")
    try:
        exec(compile(_read_program(), FILE_NAME, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        _print_error(error)
        sys.exit(1)


def serve_calls() -> NoReturn:
    """Load the program as a module, then do what the tests ask until they are done."""
    _allow_frames(_NUM_PLAIN_FRAMES + _NUM_FRAMES_OF_A_CALL)
    server = Server(Channel(CHANNEL_FD))
    trouble = server.load()
    try:
        while True:
            server.answer(trouble)
    except ChannelClosedError:
        os._exit(0)


class Server:
    """Answers the tests' requests; objects that do not travel stay here and are known by their number.

    request  [number, operation, target, arguments, one object in several places of them (`sharing.py`)]
    answer   [number, "value", value, arguments as they are now, or null if the call left them as they were,
              number of the result (`given.py`; -1 - i: it is positional argument i), changes of earlier results,
              name of its class if it travels as its base, or null]
             [number, "raised", handle of the class, message]
             [number, "memory" | "not_plain" | "not_loaded", message]
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._module = _new_module(MODULE_NAME)
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}
        self._given = GivenResults(self._carry)

    def load(self) -> list[str] | None:
        """Run the module; return what to answer to every request if that failed."""
        try:
            self.run(_read_program())
        except MemoryError:
            return ["memory", "MemoryError while the program was loaded"]
        except BaseException as error:
            return ["not_loaded", f"the program did not load: {_describe(error)}"]
        return None

    def run(self, source: str) -> None:
        """Run the module."""
        exec(compile(source, FILE_NAME, "exec", dont_inherit=True), self._module.__dict__)

    def answer(self, trouble: list[str] | None) -> None:
        """Read one request and answer it."""
        number, operation, target, arguments, shared = self._channel.receive()
        if trouble is not None:
            self._channel.send([number, *trouble])
            return
        try:
            self._channel.send([number, "value", *self._perform(operation, target, arguments, shared)])
        except ChannelClosedError:
            raise
        except NotPlainError as error:
            self._channel.send([number, "not_plain", str(error)])
        except MemoryError:
            self._channel.send([number, "memory", "MemoryError"])
        except BaseException as error:
            self._channel.send([number, "raised", self._carry(type(error)), _message(error)])

    def _perform(self, operation: str, target: Any, arguments: Any, shared: Any) -> list[object]:
        values: Any = decode(arguments, self._resolve)
        share_parts(values, shared)
        if operation == "names":
            names = [name for name in values if name in self._module.__dict__]
            return [{"d": [[name, self._named(self._module.__dict__[name])] for name in names]}, None, None, [], None]
        result: Any = _OPERATIONS[operation](self._objects[target], values)
        after, changes, value = encode(values, self._carry), self._given.changes(), encode(result, self._carry)
        identity = self._identity(operation, result, value, values)
        reduced = _reduced(result[0] if operation == "next" and result else result)
        return [value, None if after == arguments else after, identity, changes, reduced]

    def _identity(self, operation: str, result: Any, code: Any, values: Any) -> int | None:
        """Return the number by which the tests know a result."""
        if operation == "next":
            return self._given.number(result[0], code["t"][0]) if result else None
        if operation == "call" and isinstance(result, list | dict | set | bytearray):
            same = [index for index, argument in enumerate(values[0]) if argument is result]
            if same:
                return -1 - same[0]
        return self._given.number(result, code)

    def _named(self, value: object) -> object:
        """Encode the value of a module's name; a value that cannot be sent becomes a handle, which fails when used."""
        if isinstance(value, types.ModuleType):
            return {"h": [-1, "module", value.__name__]}
        try:
            return encode(value, self._carry)
        except NotPlainError:
            return {"h": self._handle(value, "object", "")}

    def _resolve(self, body: Any) -> object:
        return getattr(builtins, body[2]) if body[0] == BUILTIN else self._objects[body[0]]

    def _carry(self, value: object) -> Any:
        """Turn an object that is no plain data into a handle, or a scalar of numpy into a plain one."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return encode(value.item(), self._carry)
        if isinstance(value, type) and issubclass(value, BaseException):
            if value.__module__ == "builtins":
                return {"h": self._handle(value, "builtin exception", value.__name__)}
            bases = [self._carry(base) for base in value.__bases__ if issubclass(base, BaseException)]
            return {"h": self._handle(value, "exception", [base["h"] for base in bases])}
        return {"h": self._handle(value, "object", type(value).__name__)}

    def _handle(self, value: object, kind: str, name: object) -> list[object]:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return [number, kind, name]


def _call(target: Any, values: Any) -> object:
    positional, keyword = values
    return target(*positional, **keyword)


def _reduced(result: object) -> str | None:
    """Return the name of a class of plain data that is lost on the way, with its methods and attributes."""
    kind = type(result)
    if kind in _PLAIN or not isinstance(result, _PLAIN) or kind.__module__ == "numpy":
        return None
    return kind.__name__


def _next(target: Iterator[object], values: Any) -> object:
    """Return (item,), or () at the end: StopIteration may come from the iterator only."""
    try:
        return (next(target),)
    except StopIteration:
        return ()


_OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    "call": _call,
    "getattr": lambda target, values: getattr(target, values[0]),
    "setattr": lambda target, values: setattr(target, values[0], values[1]),
    "iter": lambda target, values: iter(target),
    "next": _next,
    "len": lambda target, values: len(target),
    "getitem": lambda target, values: target[values[0]],
    "contains": lambda target, values: values[0] in target,
}


def _read_program() -> str:
    with open(PROGRAM_FD, "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def _new_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    module.__file__ = os.path.join(os.getcwd(), "program.py")  # noqa: PTH109, PTH118
    sys.modules[name] = module
    return module


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_message(error)}"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        return "(its message cannot be made)"


def _print_error(error: BaseException) -> None:
    trace = error.__traceback__
    try:
        sys.excepthook(type(error), error, trace and trace.tb_next)  # without the frame of `run_stdio`
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(2, type(error).__name__.encode("utf-8", "replace"))


def _allow_frames(num_frames: int) -> None:
    """Let the caller's callees nest as deep as a script's functions do: what is beneath does not count."""
    frame, num_beneath = sys._getframe(1), 1
    while frame.f_back is not None:
        frame, num_beneath = frame.f_back, num_beneath + 1
    sys.setrecursionlimit(num_frames + num_beneath)
