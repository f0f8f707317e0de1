"""Plain data crosses unchanged, type and all; everything else is refused."""

import datetime
import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.evaluation.judge.channel import (
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    Channel,
    ChannelClosedError,
    MalformedFrameError,
    NotPlainError,
    decode,
    encode,
)

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.builds(range, st.integers(), st.integers())
)
HASHABLE = st.recursive(ATOMS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=20,
)


def refuse(value: object, depth: int) -> object:
    raise NotPlainError(f"a {type(value).__name__}")


def fail(tag: str, body: object) -> object:
    raise MalformedFrameError(f"a tag {tag}")


def across(value: object) -> object:
    return decode(json.loads(json.dumps(encode(value, refuse))), fail)


def form(value: object) -> str:
    """Write a value so that equal texts mean equal values of equal types; a set has no order."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"{kind}({sorted(form(pair) for pair in value.items())})"
    if isinstance(value, list | tuple):
        return f"{kind}({[form(item) for item in value]})"
    if isinstance(value, set | frozenset):
        return f"{kind}({sorted(form(item) for item in value)})"
    return f"{kind}({value!r})"


@given(PLAIN)
def test_plain_data_crosses_unchanged(value):
    assert form(across(value)) == form(value)


@pytest.mark.parametrize("exponent", [0, 52, 53, 54, 64, 20_000, 3_000_000])
def test_ints_of_any_size_cross(exponent):
    for value in (1 << exponent, -(1 << exponent), (1 << exponent) + 1):
        assert across(value) == value


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


KNOWN = [
    OrderedDict([(2, 1), (1, [])]),
    Counter(a=0, b=-2),
    defaultdict(list, {1: [2]}),
    defaultdict(None, {1: 2}),
    deque([1, [2]], maxlen=3),
    deque(),
    datetime.date(2024, 2, 29),
    datetime.time(1, 2, 3, 4),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
    datetime.timedelta(-1, 2, 3),
]


@pytest.mark.parametrize("value", KNOWN, ids=str)
def test_collections_and_moments_cross_as_what_they_are(value):
    crossed = across([value])
    assert repr(crossed) == repr([value])
    assert crossed == [value]


def test_the_order_of_an_ordered_dict_crosses_as_it_is_now():
    value = OrderedDict.fromkeys("abc")
    value.move_to_end("a")
    assert across(value) == OrderedDict.fromkeys("bca")


def test_ellipsis_crosses_as_itself():
    assert across([...]) == [...]


@pytest.mark.parametrize("value", [object(), lambda: 1, iter([]), {1: object()}, [len], Liar(3), [Liar(3)]])
def test_what_is_no_plain_data_is_refused(value):
    with pytest.raises(NotPlainError):
        encode(value, refuse)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded():
    assert across(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    cycle: list[object] = []
    cycle.append(cycle)
    for value in (nested(MAX_DEPTH + 1), cycle):
        with pytest.raises(NotPlainError, match="nested"):
            encode(value, refuse)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("tdsfbycrDFTiqOCmQzexlh"), inner, max_size=2)
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_json_is_either_plain_data_or_malformed(node):
    try:
        value = decode(node, fail)
    except MalformedFrameError:
        return
    assert decode(encode(value, refuse), fail) is not None or value is None


def test_a_fraction_by_zero_is_malformed():
    assert across(Fraction(1, 3)) == Fraction(1, 3)
    with pytest.raises(MalformedFrameError):
        decode({"F": [1, 0]}, fail)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_frames_arrive_one_by_one(pipe):
    read, write = pipe
    Channel(write).send([1, "a"])
    Channel(write).send({"t": []})
    os.close(write)
    channel = Channel(read)
    assert [channel.receive(), channel.receive()] == [[1, "a"], {"t": []}]
    with pytest.raises(ChannelClosedError):
        channel.receive()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), MalformedFrameError),
        (b"\0\0\0\2{]", MalformedFrameError),
        (b"\0\0\0\1\xff", MalformedFrameError),
        ((9000).to_bytes(4, "big") + b"1" * 9000, MalformedFrameError),
        ((60000).to_bytes(4, "big") + b"[" * 60000, MalformedFrameError),
        (b"\0\0\0\5[1", ChannelClosedError),
        (b"\0\0", ChannelClosedError),
    ],
)
def test_a_hostile_frame_is_refused(pipe, data, error):
    read, write = pipe
    os.write(write, data)
    os.close(write)
    with pytest.raises(error):
        Channel(read).receive()


def test_a_value_too_large_for_a_frame_is_refused_before_it_is_sent(pipe):
    _, write = pipe
    with pytest.raises(NotPlainError):
        Channel(write).send("x" * MAX_FRAME_BYTES)
    os.close(write)
