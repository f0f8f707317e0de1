"""Objects of the program that are no plain data: how the tests get to know them, and how the program gets them back.

{"h": [number, "object", name of its class]}            stays here; -1 stands for a builtin that the tests name
{"h": [number, "module", name]}                         a module that a name of the program stands for
{"h": [number, "builtin exception", name]}, {"h": [number, "library exception", [module, name, bases]]},
{"h": [number, "exception", [name, bases]]}             a class of exceptions; bases are the bodies of handles
{"x": [class, arguments, attributes, text, cause, number or -1]}  an exception; a number if its class is no builtin
{"q": [number, name of its class, value of the base]}   an instance of a subclass that changes none of its operators
"""

import builtins
import sys
import types
from typing import Any

from wmtp_ray.evaluation.judge.channel import BUILTIN, encode
from wmtp_ray.evaluation.judge.lending import Ask, Borrowed

_MAX_MESSAGE_CHARS = 2000
_BASES: dict[type, Any] = {  # how to get the base's value, whatever the subclass says of itself
    int: lambda value: int.__add__(value, 0),
    float: float.__float__,
    str: str.__str__,
    **{kind: kind for kind in (bytes, tuple, frozenset, list, dict, set, bytearray)},
}
# What a class may define without another meaning of its operators. Its words are asked for, its hash is its base's.
_HARMLESS = frozenset(
    f"__{name}__"
    for name in (
        *("module", "qualname", "doc", "dict", "weakref", "slots", "annotations", "orig_bases", "parameters"),
        *("new", "init", "init_subclass", "class_getitem", "match_args", "repr", "str", "format", "hash", "dir"),
        *("reduce", "reduce_ex", "getstate", "setstate", "getnewargs", "getnewargs_ex", "copy", "deepcopy", "sizeof"),
    )
)


class ProgramObjects:
    """Objects that stay in the program's process, by number."""

    def __init__(self, ask: Ask) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}
        self._bases: dict[type, type | None] = {}
        self._borrowed = Borrowed(ask)

    def __getitem__(self, number: int) -> Any:
        return self._objects[number]

    def carry(self, value: Any, depth: int) -> Any:
        """Encode an object that is no plain data."""
        if (borrowed := self._borrowed.node(value)) is not None:
            return borrowed
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return encode(value.item(), self.carry, depth)
        kind: type = type(value)
        if issubclass(kind, BaseException):
            return self._exception(value, depth)
        if issubclass(kind, type) and issubclass(value, BaseException):
            return {"h": self._exception_class(value)}
        if kind not in self._bases:
            self._bases[kind] = _plain_base(kind)
        base = self._bases[kind]
        if base is None:
            return {"h": self.handle(value, "object", kind.__name__)}
        number = self.handle(value, "", "")[0]
        return {"q": [number, kind.__name__, encode(_BASES[base](value), self.carry, depth)]}

    def resolve(self, tag: str, body: Any) -> object:
        """Return the object that the tests speak of."""
        if tag == "l":
            return self._borrowed.resolve(body)
        return getattr(builtins, body[2]) if body[0] == BUILTIN else self._objects[body[0]]

    def handle(self, value: object, kind: str, name: object) -> list[object]:
        """Return the body of an object's handle."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return [number, kind, name]

    def _exception_class(self, kind: Any) -> list[object]:
        name: str = kind.__name__
        if getattr(builtins, name, None) is kind:
            return self.handle(kind, "builtin exception", name)
        bases = [self._exception_class(base) for base in kind.__bases__ if issubclass(base, BaseException)]
        is_library = kind.__module__.partition(".")[0] in sys.stdlib_module_names
        if is_library and getattr(sys.modules.get(kind.__module__), name, None) is kind:
            return self.handle(kind, "library exception", [kind.__module__, name, bases])
        return self.handle(kind, "exception", [name, bases])

    def _exception(self, error: Any, depth: int) -> object:
        kind = self._exception_class(type(error))
        attributes = dict(error.__dict__)
        if isinstance(error, OSError) and error.filename is not None:
            attributes["filename"] = error.filename
        is_builtin = kind[1] == "builtin exception"
        if not is_builtin:
            error.__traceback__ = None  # it is kept, and what its frames hold would be kept with it
        cause = error.__cause__ if isinstance(error.__cause__, BaseException) else None
        return {
            "x": [
                {"h": kind},
                encode(error.args, self.carry, depth),
                encode(attributes, self.carry, depth) if attributes else None,
                message(error),
                encode(cause, self.carry, depth),
                -1 if is_builtin else self.handle(error, "", "")[0],
            ]
        }

    def named(self, value: object) -> Any:
        """Encode what a name of the program stands for."""
        if isinstance(value, types.ModuleType):
            return {"h": [-1, "module", value.__name__]}
        return encode(value, self.carry)


def message(error: BaseException) -> str:
    """Return the beginning of an exception's message, which may fail to be made."""
    try:
        return str(error)[:_MAX_MESSAGE_CHARS]
    except BaseException:
        return "(its message cannot be made)"


def _plain_base(kind: type) -> type | None:
    """Return the type of plain data that a class is, but for names of its own; None if it changes what it does."""
    for position, base in enumerate(kind.__mro__):
        if base in _BASES:
            own = {name for each in kind.__mro__[:position] for name in vars(each) if name.startswith("__")}
            return base if own <= _HARMLESS else None
    return None
