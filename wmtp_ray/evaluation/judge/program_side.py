"""The program's process: runs a hostile program, and answers calls of the tests on it.

Everything here is in the program's hands once it runs: nothing in this process knows a test, an expected value or the
verdict, and all its answers are treated as output of the program.
"""

import _thread  # not `threading`, which runs code of its own after every fork
import builtins
import contextlib
import operator
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from wmtp_ray.evaluation.judge import standard_files
from wmtp_ray.evaluation.judge.channel import Channel, ChannelClosedError, NotPlainError, decode, encode
from wmtp_ray.evaluation.judge.given import SharedObjects
from wmtp_ray.evaluation.judge.program_objects import ProgramObjects, message
from wmtp_ray.evaluation.judge.sharing import ATOMS, CONTAINERS, MUTABLE, share_parts, shared_with, update

PROGRAM_FD, CHANNEL_FD = 3, 4
FILE_NAME, MODULE_NAME = "<program>", "program"
_NUM_FRAMES_OF_A_CALL = 4
_NUM_OWN_REFERENCES = 2  # to an argument after a call: the list of them, and the question
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

    request  [number, operation, target, arguments, one object in several places of them (`sharing.py`), changes of
              shared objects (`given.py`)]
    answer   [number, "value" | "raised", result, arguments as they are now, or null if the call left them as they
              were, number of the result, changes of shared objects, more], where more is null or [one object in
              several places of [arguments, result], numbers of arguments that are kept, names with another meaning]
             [number, "memory" | "not_plain" | "not_loaded", message]

    In between the program may ask for what the tests lent to it (`lending.py`), and be asked before it is answered:

    request  ["ask", "call" | "next", number, arguments]
    answer   ["reply", "value" | "raised", result, arguments as they are now, or null]
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._module = _new_module(MODULE_NAME)
        self._objects = ProgramObjects(self._ask)
        self._carry = self._objects.carry
        self._shared = SharedObjects(self._carry)
        self._meanings: dict[str, object] = {}  # of the names that the tests use, as the tests know them
        self._asking = _thread.RLock()

    def load(self) -> list[str] | None:
        """Run the module; return what to answer to every request if that failed."""
        try:
            self.run(_read_program())
        except MemoryError:
            return ["memory", "MemoryError while the program was loaded"]
        except BaseException as error:
            return ["not_loaded", f"the program did not load: {type(error).__name__}: {message(error)}"]
        return None

    def run(self, source: str) -> None:
        """Run the module."""
        exec(compile(source, FILE_NAME, "exec", dont_inherit=True), self._module.__dict__)

    def answer(self, trouble: list[str] | None) -> None:
        """Read one request and answer it."""
        request = self._channel.receive()
        if trouble is not None:
            self._channel.send([request[0], *trouble])
            return
        self._answer(request)

    def _answer(self, request: list[Any]) -> None:
        number, operation, target, arguments, shared, changes = request
        try:
            values: Any = decode(arguments, self._objects.resolve)
            share_parts(values, shared)
            self._shared.apply(changes, lambda code: decode(code, self._objects.resolve))
            if operation == "names":
                self._channel.send([number, "value", *self._names(values)])
                return
            try:
                outcome, result = "value", self._perform(operation, target, values)
            except (ChannelClosedError, NotPlainError, MemoryError):
                raise
            except BaseException as error:
                outcome, result = "raised", error.with_traceback(None)
            self._channel.send([number, outcome, *self._told(operation, result, values, arguments)])
        except ChannelClosedError:
            raise
        except NotPlainError as error:
            self._channel.send([number, "not_plain", str(error)])
        except MemoryError:
            self._channel.send([number, "memory", "MemoryError"])

    def _perform(self, operation: str, target: Any, values: Any) -> object:
        return _OPERATIONS[operation](None if target is None else self._objects[target], values)

    def _told(self, operation: str, result: Any, values: Any, arguments: Any) -> list[object]:
        """Return all that the tests are to know after an operation."""
        after, changes, value = encode(values, self._carry), self._shared.changes(), encode(result, self._carry)
        number = None
        if operation != "next":
            number = self._shared.number(result, value)
        elif isinstance(result, list) and result:
            number = self._shared.number(result[0], value[0])  # type: ignore[index]
        places: list[object] = []
        if after != arguments or (isinstance(result, CONTAINERS) and not _is_alone(result, values)):
            places = list(shared_with(values, result))
        kept = self._kept(values, after) if operation in ("call", "setattr") else []
        names = self._changed_names()
        more = [places, kept, names] if places or kept or names else None
        return [value, None if after == arguments else after, number, changes, more]

    def _kept(self, values: Any, after: Any) -> list[list[int]]:
        """Return [position, number] of the mutable arguments that the program has not let go of."""
        codes = after[0] if isinstance(after, list) and after and isinstance(after[0], list) else after
        positional = values[0] if codes is not after else values
        kept = []
        for position in range(len(positional)):
            if (
                isinstance(positional[position], MUTABLE)
                and sys.getrefcount(positional[position]) > _NUM_OWN_REFERENCES
            ):
                number = self._shared.number(positional[position], codes[position])
                kept += [] if number is None else [[position, number]]
        return kept

    def _names(self, wanted: list[str]) -> list[object]:
        """Return the meanings of names, and [name, number] of those that are mutable data."""
        defined = self._module.__dict__
        self._meanings = {name: defined[name] for name in wanted if name in defined}
        codes = {name: self._named(value) for name, value in self._meanings.items()}
        numbers = [[name, self._shared.number(self._meanings[name], code)] for name, code in codes.items()]
        shared = [pair for pair in numbers if pair[1] is not None]
        return [{"d": [[name, code] for name, code in codes.items()]}, None, None, shared, None]

    def _named(self, value: object) -> Any:
        """Encode the value of a module's name; a value that cannot be sent becomes a handle, which fails when used."""
        try:
            return self._objects.named(value)
        except NotPlainError:
            return {"h": self._objects.handle(value, "object", "")}

    def _changed_names(self) -> list[object]:
        """Return [name, meaning] of the names that stand for another object now."""
        changed: list[object] = []
        for name, known in self._meanings.items():
            value = self._module.__dict__.get(name, known)
            if value is not known:
                self._meanings[name] = value
                changed.append([name, self._named(value)])
        return changed

    def _ask(self, operation: str, number: int, positional: list[Any], keyword: dict[str, Any]) -> Any:
        """Have the tests use what they lent; answer what they ask before that is done."""
        with self._asking:
            arguments: Any = [positional, keyword]
            code = encode(arguments, self._carry)
            self._channel.send(["ask", operation, number, code])
            while (message := self._channel.receive())[0] != "reply":
                self._answer(message)
        _, outcome, value, after = message
        result: Any = decode(value, self._objects.resolve)
        if after is not None:
            update(arguments, decode(after, self._objects.resolve))
        if outcome == "raised":
            raise result
        return result


def _is_alone(result: Any, values: Any) -> bool:
    """Whether a result holds no other object, and is none of the arguments; False where that takes long to find out."""
    if isinstance(result, dict) or not ATOMS.issuperset(map(type, result)):
        return False
    return not (values and isinstance(values[0], list) and any(result is each for each in values[0]))


def _call(target: Any, values: Any) -> object:
    positional, keyword = values
    return target(*positional, **keyword)


def _next(target: Iterator[object], values: Any) -> object:
    """Return [item], or [] at the end: StopIteration may come from the iterator only."""
    try:
        return [next(target)]
    except StopIteration:
        return []


def _apply(target: Any, values: Any) -> object:
    """Use an operator, or a builtin function, by its name."""
    name, *operands = values
    function = getattr(operator, name, None) or getattr(builtins, name)
    return function(*operands)


def _seed(target: Any, values: Any) -> None:
    """Seed the program's `random`, as the tests have seeded theirs."""
    import random

    random.seed(*values)


_OPERATIONS: dict[str, Callable[[Any, Any], object]] = {
    "call": _call,
    "apply": _apply,
    "seed": _seed,
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
