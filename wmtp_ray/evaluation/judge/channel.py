"""Plain data over a file descriptor: frames of tagged JSON, never pickle.

A frame is a length of four bytes, big-endian, and that many bytes of JSON. Whoever reads takes every frame for hostile:
its size and its nesting are bounded, and no tag builds anything but plain data.

JSON has no tuples, so whatever it cannot say stands in an object of one tag:

    (1, {2: "b"})   ->  {"t": [1, {"d": [[2, "b"]]}]}
    10**20          ->  {"i": "0x56bc75e2d63100000"}

Tags: i int (hexadecimal: decimal conversion is limited and slow), t tuple, d dict, s set, f frozenset, b bytes,
y bytearray, c complex, r range, D Decimal, F Fraction, T a type of plain data, O OrderedDict, C Counter,
m defaultdict, Q deque, z date, time, datetime or timedelta, e Ellipsis. Only these very types are plain data.

Tags for the rest, whose meaning is the two sides' own: h the handle of an object that stays in the program's process,
x an exception of the program, q an instance of a subclass of plain data, l what the tests lent to the program.
"""

import datetime
import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

MAX_FRAME_BYTES = 32 << 20
MAX_DEPTH = 200
_EXACT_INT = 1 << 53
_HEADER_BYTES = 4
_ENCODER, _DECODER = json.JSONEncoder(separators=(",", ":")), json.JSONDecoder()
BUILTIN = -1  # in place of a handle's number: the builtin of that name; only the tests may say so
_PLAIN_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, complex, range)
}

_MOMENTS: dict[str, type] = {
    kind.__name__: kind for kind in (datetime.date, datetime.time, datetime.datetime, datetime.timedelta)
}
Carry = Callable[[object, int], object]  # encodes or refuses an object that may hold others so deep
Resolve = Callable[[str, Any], object]  # makes something of a tag for the rest, and its body


class ChannelClosedError(Exception):
    """The other side is gone."""


class MalformedFrameError(Exception):
    """A frame was oversized, or no tagged JSON."""


class NotPlainError(Exception):
    """A value is no plain data, or nested too deep, or too large for a frame."""


class Channel:
    """Frames over one connected descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: object) -> None:
        """Write a message of encoded values. Raises NotPlainError before a byte is written if it is too large."""
        try:
            body = _ENCODER.encode(message).encode()
        except (RecursionError, ValueError) as error:
            raise NotPlainError(f"a value is nested too deep ({error})") from None
        if len(body) > MAX_FRAME_BYTES:
            raise NotPlainError(f"a value takes {len(body)} bytes, more than {MAX_FRAME_BYTES}")
        self._write(len(body).to_bytes(_HEADER_BYTES, "big") + body)

    def receive(self) -> Any:
        """Return the next message. Raises MalformedFrameError, or ChannelClosedError at the end."""
        length = int.from_bytes(self._read(_HEADER_BYTES), "big")
        if length > MAX_FRAME_BYTES:
            raise MalformedFrameError(f"a frame of {length} bytes, more than {MAX_FRAME_BYTES}")
        body = self._read(length)
        try:
            text = body.decode()
            message, end = _DECODER.raw_decode(text)
            if end != len(text):
                raise ValueError("more than one value")
            return message
        except (ValueError, RecursionError) as error:
            raise MalformedFrameError(f"a frame that is no JSON: {error}") from None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise ChannelClosedError(str(error)) from None

    def _read(self, num_bytes: int) -> bytes:
        parts = []
        while num_bytes:
            try:
                part = os.read(self._fd, min(num_bytes, 1 << 20))
            except OSError as error:
                raise ChannelClosedError(str(error)) from None
            if not part:
                raise ChannelClosedError("end of file")
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)


def encode(value: object, carry: Carry, depth: int = MAX_DEPTH) -> object:
    """Turn a value into what `Channel.send` takes; `carry` encodes or refuses what is no plain data."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -_EXACT_INT < cast(int, value) < _EXACT_INT else {"i": hex(cast(int, value))}
    if depth == 0:
        raise NotPlainError(f"a value is nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [encode(item, carry, depth - 1) for item in cast("list[object]", value)]
    encode_as = _ENCODERS.get(kind)
    return carry(value, depth - 1) if encode_as is None else encode_as(value, carry, depth - 1)


def _items(iterable: Any, carry: Carry, depth: int) -> list[object]:
    return [encode(item, carry, depth) for item in iterable]


def _pairs(mapping: Any, carry: Carry, depth: int) -> list[object]:
    return [[encode(key, carry, depth), encode(value, carry, depth)] for key, value in mapping.items()]


def _type(value: type, carry: Carry, depth: int) -> object:
    return {"T": value.__name__} if value in _PLAIN_TYPES.values() else carry(value, depth)


def _moment(value: Any, carry: Carry, depth: int) -> object:
    if isinstance(value, datetime.timedelta):
        return {"z": ["timedelta", value.days, value.seconds, value.microseconds]}
    parts = [value.year, value.month, value.day] if isinstance(value, datetime.date) else []
    if not isinstance(value, datetime.time | datetime.datetime):
        return {"z": ["date", *parts]}
    if value.tzinfo is not None or value.fold:
        return carry(value, depth)
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return {"z": [type(value).__name__, *parts, *clock]}


_ENCODERS: dict[type, Callable[[Any, Carry, int], object]] = {
    tuple: lambda value, carry, depth: {"t": _items(value, carry, depth)},
    dict: lambda value, carry, depth: {"d": _pairs(value, carry, depth)},
    set: lambda value, carry, depth: {"s": _items(value, carry, depth)},
    frozenset: lambda value, carry, depth: {"f": _items(value, carry, depth)},
    bytes: lambda value, carry, depth: {"b": value.hex()},
    bytearray: lambda value, carry, depth: {"y": value.hex()},
    complex: lambda value, carry, depth: {"c": [value.real, value.imag]},
    range: lambda value, carry, depth: {"r": _items((value.start, value.stop, value.step), carry, depth)},
    type: _type,
    Decimal: lambda value, carry, depth: {"D": str(value)},
    Fraction: lambda value, carry, depth: {"F": _items((value.numerator, value.denominator), carry, depth)},
    OrderedDict: lambda value, carry, depth: {"O": _pairs(value, carry, depth)},
    Counter: lambda value, carry, depth: {"C": _pairs(value, carry, depth)},
    defaultdict: lambda value, carry, depth: {
        "m": [encode(value.default_factory, carry, depth), _pairs(value, carry, depth)]
    },
    deque: lambda value, carry, depth: {"Q": [_items(value, carry, depth), value.maxlen]},
    type(...): lambda value, carry, depth: {"e": 0},
    **dict.fromkeys(_MOMENTS.values(), _moment),
}


def decode(node: object, resolve: Resolve) -> object:
    """Turn a received node into a value; `resolve` makes something of a tag that is no plain data.

    Raises MalformedFrameError for anything that `encode` does not write.
    """
    try:
        return _decode(node, resolve)
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise MalformedFrameError(f"a value that is no tagged JSON: {type(error).__name__}") from None


def _decode(node: object, resolve: Resolve) -> object:
    if isinstance(node, list):
        return [_decode(item, resolve) for item in node]
    if isinstance(node, dict):
        ((tag, body),) = node.items()
        decode_as = _DECODERS.get(tag)
        return resolve(tag, body) if decode_as is None else decode_as(body, resolve)
    return node


def _all(body: list[Any], resolve: Resolve) -> list[Any]:
    return [_decode(item, resolve) for item in body]


def _all_pairs(body: list[Any], resolve: Resolve) -> list[Any]:
    return [_all(pair, resolve) for pair in body]


def _counter(body: list[Any], resolve: Resolve) -> object:
    counter: Counter[Any] = Counter()
    counter.update(dict(_all_pairs(body, resolve)))
    return counter


_DECODERS: dict[str, Callable[[Any, Resolve], object]] = {
    "i": lambda body, resolve: int(body, 16),
    "t": lambda body, resolve: tuple(_all(body, resolve)),
    "d": lambda body, resolve: dict(_all_pairs(body, resolve)),
    "s": lambda body, resolve: set(_all(body, resolve)),
    "f": lambda body, resolve: frozenset(_all(body, resolve)),
    "b": lambda body, resolve: bytes.fromhex(body),
    "y": lambda body, resolve: bytearray.fromhex(body),
    "c": lambda body, resolve: complex(*_all(body, resolve)),
    "r": lambda body, resolve: range(*_all(body, resolve)),
    "T": lambda body, resolve: _PLAIN_TYPES[body],
    "D": lambda body, resolve: Decimal(body),
    "F": lambda body, resolve: Fraction(*_all(body, resolve)),
    "O": lambda body, resolve: OrderedDict(_all_pairs(body, resolve)),
    "C": _counter,
    "m": lambda body, resolve: defaultdict(cast("Any", _decode(body[0], resolve)), _all_pairs(body[1], resolve)),
    "Q": lambda body, resolve: deque(_all(body[0], resolve), body[1]),
    "e": lambda body, resolve: ...,
    "z": lambda body, resolve: _MOMENTS[body[0]](*body[1:]),
}
