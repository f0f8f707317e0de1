"""Objects of the program as the tests see them.

Functions and classes are `RemoteObject`s that can be called; their plain results are real values; an object that does
not travel (a generator, a node of a tree) is another `RemoteObject`, whose attributes, items and operators are those of
the object in the program's process. It never takes part in a comparison: what the program says about equality and
order cannot be trusted. What would look at the stand-in in place of the object is `unserialisable`.

An instance of a subclass of plain data is one of a stand-in subclass, which knows the attributes of the program's; an
exception is one of a class of the same name and family.
"""

from collections.abc import Callable
from typing import Any, Never, Protocol

_ATTRIBUTES = frozenset(("__name__", "__qualname__", "__dict__", "__wrapped__", "__annotations__", "__defaults__"))
_NUMBER, _TEXT = "_number_in_the_program", "_text_in_the_program"
_BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and_", "xor", "or_")
_UNARY = {"neg": "neg", "pos": "pos", "abs": "abs", "invert": "invert", "index": "index", "int": "int"}
_UNARY |= {"float": "float", "complex": "complex", "str": "str", "repr": "repr", "round": "round"}
_REFUSED = ("lt", "le", "gt", "ge", "enter", "exit", "await", "aiter", "reversed", "reduce_ex")
_REFUSED_OF_CLASSES = ("instancecheck", "subclasscheck", "mro_entries")
_MUTABLE_BASES = (list, dict, set, bytearray)


class Asking(Protocol):
    """How stand-ins reach what they stand for."""

    def request(self, operation: str, target: int | None, arguments: object) -> Any:
        """Have an operation done in the program's process."""

    def refuse(self, type_name: str) -> Never:
        """End the tests: the verdict is that a value cannot cross."""


class RemoteObject:
    """An object of the program that stays in its process."""

    __slots__ = ("_number", "_session", "_type_name")

    def __init__(self, session: Asking, number: int, type_name: str) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    @property  # type: ignore[misc]
    def __class__(self) -> Never:  # type: ignore[override]
        """Refuse `isinstance`, which asks for this where it is not told by the type."""
        _refuse(self)

    def __call__(self, *positional: object, **keyword: object) -> object:
        return _ask(self, "call", [list(positional), keyword])

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name not in _ATTRIBUTES:
            raise AttributeError(name)
        return _ask(self, "getattr", [name])

    def __setattr__(self, name: str, value: object) -> None:
        _ask(self, "setattr", [name, value])

    def __iter__(self) -> Any:
        return _ask(self, "iter", [])

    def __next__(self) -> object:
        item = _ask(self, "next", [])
        if type(item) is not list or len(item) != 1:
            raise StopIteration
        return item[0]

    def __len__(self) -> int:
        length = _ask(self, "len", [])
        return length if type(length) is int else _refuse(self)

    def __getitem__(self, key: object) -> object:
        return _ask(self, "getitem", [key])

    def __setitem__(self, key: object, value: object) -> None:
        _apply("setitem", self, key, value)

    def __delitem__(self, key: object) -> None:
        _apply("delitem", self, key)

    def __contains__(self, item: object) -> bool:
        return _ask(self, "contains", [item]) is True

    def __format__(self, spec: str) -> Any:
        return _apply("format", self, spec)

    def __eq__(self, other: object) -> bool:
        return True if self is other else _refuse(self)

    def __ne__(self, other: object) -> bool:
        return False if self is other else _refuse(self)

    def __bool__(self) -> bool:
        return _refuse(self)

    def __hash__(self) -> int:
        return id(self)


def number_of(remote: RemoteObject) -> int:
    """Return the number of an object in the program's process."""
    number: int = object.__getattribute__(remote, "_number")
    return number


def remote_class(name: str) -> type[RemoteObject]:
    """Return a class of remote objects that is called like that of the object."""
    return type(name, (RemoteObject,), {"__slots__": ()})


def stand_in_class(name: str, base: type, session: Asking) -> type:
    """Return a subclass of plain data whose instances know their number in the program's process."""
    if base in _MUTABLE_BASES:  # a copy that the tests may have changed: the program's methods do not see that
        refuse = _refusing(session, name)
        return type(name, (base,), {"__getattr__": _attribute(refuse), "__str__": refuse, "__repr__": refuse})

    own: dict[str, Any] = {"__getattr__": _attribute_of(session)}
    own["__str__"] = lambda self: session.request("apply", None, ["str", self])
    own["__repr__"] = lambda self: session.request("apply", None, ["repr", self])
    own["__format__"] = lambda self, spec: session.request("apply", None, ["format", self, spec])
    return type(name, (base,), own)


def stand_in(kind: Any, number: int, value: Any) -> Any:
    """Return an instance of a stand-in class."""
    made = kind(value) if issubclass(kind, _MUTABLE_BASES) else kind.__mro__[1].__new__(kind, value)
    made.__dict__[_NUMBER] = number
    return made


def number_of_stand_in(value: object) -> int | None:
    """Return the number of an instance of a stand-in class, or of an exception; None for anything else."""
    if issubclass(type(value), _MUTABLE_BASES):
        return None
    number: int | None = getattr(value, "__dict__", {}).get(_NUMBER)
    return number


def exception_class(name: str, bases: tuple[Any, ...], session: Asking) -> type:
    """Return a class of exceptions of the same family as one of the program's."""
    own: dict[str, Any] = {"__getattr__": _attribute_of(session)}
    own["__str__"] = lambda self: self.__dict__[_TEXT] if _TEXT in self.__dict__ else bases[0].__str__(self)
    return type(name, bases, own)


def exception(kind: Any, arguments: Any, attributes: Any, text: object, number: object) -> BaseException:
    """Return an exception like one of the program's. Raises TypeError where that is impossible."""
    try:
        error: BaseException = kind(*arguments)
    except Exception:
        error = kind.__new__(kind)
    error.args = tuple(arguments)
    for name, value in (attributes or {}).items():
        if not str(name).startswith("__"):
            setattr(error, str(name), value)
    if type(number) is int and number >= 0:
        error.__dict__[_NUMBER] = number
        if "__getattr__" in vars(kind) and not str(error).startswith(str(text)):
            error.__dict__[_TEXT] = str(text)
    return error


def _attribute_of(session: Asking) -> Callable[[Any, str], Any]:
    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__") or _NUMBER not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return session.request("getattr", self.__dict__[_NUMBER], [name])

    return attribute


def _attribute(refuse: Callable[..., Any]) -> Callable[[Any, str], Any]:
    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return refuse(self)

    return attribute


def _refusing(session: Asking, name: str) -> Callable[..., Any]:
    return lambda *arguments: session.refuse(name)


def _ask(remote: RemoteObject, operation: str, arguments: list[object]) -> Any:
    session: Asking = object.__getattribute__(remote, "_session")
    return session.request(operation, number_of(remote), arguments)


def _apply(name: str, *operands: object) -> Any:
    remote = next(each for each in operands if issubclass(type(each), RemoteObject))
    session: Asking = object.__getattribute__(remote, "_session")
    return session.request("apply", None, [name, *operands])


def _refuse(remote: RemoteObject) -> Never:
    session: Asking = object.__getattribute__(remote, "_session")
    session.refuse(object.__getattribute__(remote, "_type_name"))


def _give_operators() -> None:
    """Have the program use its operators, with either operand on the left, and refuse what cannot be had from it."""
    for name in _BINARY:
        word = name.rstrip("_")
        setattr(RemoteObject, f"__{word}__", lambda self, other, name=name: _apply(name, self, other))
        setattr(RemoteObject, f"__r{word}__", lambda self, other, name=name: _apply(name, other, self))
        setattr(RemoteObject, f"__i{word}__", lambda self, other, name=f"i{word}": _apply(name, self, other))
    for word, name in _UNARY.items():
        setattr(RemoteObject, f"__{word}__", lambda self, *digits, name=name: _apply(name, self, *digits))
    for word in (*_REFUSED, *_REFUSED_OF_CLASSES):
        setattr(RemoteObject, f"__{word}__", lambda self, *arguments: _refuse(self))


_give_operators()
