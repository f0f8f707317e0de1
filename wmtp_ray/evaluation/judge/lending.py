"""Functions and iterators that the tests lend to the program, and exceptions that come out of them.

They run in the tests' process, whatever the program does with them. In the program's process a function is a
`LentFunction` and an iterator is a generator; each call of it is a message to the tests, which may call the program
again before they answer.

    node      {"l": [number, "function" | "iterator", name]}
              {"l": [number, "exception", [name of its class, of the nearest builtin class, arguments]]}
"""

import builtins
import functools
import operator
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import Any

from wmtp_ray.evaluation.judge.channel import Carry, NotPlainError, encode

Ask = Callable[[str, int, list[Any], dict[str, Any]], Any]
_FUNCTIONS = (
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    MethodDescriptorType,
    functools.partial,
    operator.itemgetter,
    operator.attrgetter,
    operator.methodcaller,
)
_INSIDES = {"__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__signature__"}


class LentFunction:
    """A function of the tests, in the program's process."""

    __slots__ = ("__dict__", "__weakref__", "_ask", "_number")

    def __init__(self, ask: Ask, number: int, name: str) -> None:
        self._ask = ask
        self._number = number
        self.__name__ = self.__qualname__ = name

    def __call__(self, *positional: Any, **keyword: Any) -> Any:
        return self._ask("call", self._number, list(positional), keyword)

    def __getattr__(self, name: str) -> Any:
        if name in _INSIDES:
            raise NotPlainError("the program looks into a function of the tests")
        raise AttributeError(f"'function' object has no attribute {name!r}")


class Borrowed:
    """What the tests lent, in the program's process."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._by_number: dict[int, object] = {}
        self._nodes: dict[int, object] = {}  # by id

    def resolve(self, body: Any) -> object:
        """Return the one object that stands for a loan."""
        number, kind, name = body
        if number not in self._by_number:
            self._by_number[number] = borrowed = self._make(number, kind, name)
            self._nodes[id(borrowed)] = {"l": body}
        return self._by_number[number]

    def node(self, value: object) -> object | None:
        """Return the node of an object that stands for a loan; None for any other."""
        return self._nodes.get(id(value))

    def _make(self, number: int, kind: str, name: Any) -> object:
        if kind == "function":
            return LentFunction(self._ask, number, name)
        return self._items(number) if kind == "iterator" else _exception(*name)

    def _items(self, number: int) -> Iterator[object]:
        while item := self._ask("next", number, [], {}):
            yield item[0]


class Lender:
    """What the tests lent, in their own process."""

    def __init__(self) -> None:
        self._lent: list[Any] = []
        self._numbers: dict[int, int] = {}

    def lend(self, value: object) -> object | None:
        """Return the node of a function or an iterator; None for anything else."""
        if isinstance(value, _FUNCTIONS):
            return {"l": [self._number(value), "function", str(getattr(value, "__name__", type(value).__name__))]}
        if hasattr(type(value), "__next__"):
            return {"l": [self._number(value), "iterator", type(value).__name__]}
        return None

    def lent(self, number: object) -> Any:
        """Return what a number stands for. Raises LookupError or TypeError for a number that was not given out."""
        if type(number) is not int or number < 0:
            raise LookupError(number)
        return self._lent[number]

    def raised(self, error: BaseException, carry: Carry) -> object:
        """Return the node of an exception that a function of the tests raised."""
        kind = next(kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)
        try:
            arguments = encode(error.args, carry)
        except NotPlainError:
            arguments = encode((str(error),), carry)
        return {"l": [self._number(error), "exception", [type(error).__name__, kind, arguments]]}

    def do(self, operation: object, number: object, positional: list[Any], keyword: dict[str, Any]) -> object:
        """Do what the program asks of a loan: call it, or return [its next item], or [] at its end."""
        if operation == "call":
            return self.lent(number)(*positional, **keyword)
        try:
            return [next(self.lent(number))]
        except StopIteration:
            return []

    def _number(self, value: object) -> int:
        number = self._numbers.setdefault(id(value), len(self._lent))
        if number == len(self._lent):
            self._lent.append(value)
        return number


def _exception(name: str, builtin_name: str, arguments: Any) -> BaseException:
    base: Any = getattr(builtins, builtin_name)
    kind: Any = base if name == builtin_name else type(name, (base,), {})
    try:
        error: BaseException = kind(*arguments["t"])
    except Exception:
        error = kind.__new__(kind)
    return error
