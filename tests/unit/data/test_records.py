"""The fast decoders accept what a plain reading of the schema accepts, and return the same, for any bytes."""

import json
import math
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from wmtp_ray.data.records import EmptyProgram, MalformedRow, decode_record
from wmtp_ray.data.repeated_heads import LineDecoder
from wmtp_ray.data.rows import Row, decode_row, problem_of

MakeLine = Callable[..., bytes]
Fields = dict[str, object]

TEXTS = [
    '"plain"',
    '"é≤😀 \u2028\x85\x7f"',
    '"\\u00e9\\n\\t\\"\\\\\\/"',
    '"\\ud83d\\ude00"',
    '"\\u0000"',
    '"\\"output\\": 1, \\"difficulty\\": 99"',
    '"output"',
    '"sum_correct_0"',
]
STRANGE = [
    *('""', '" \\n\\t"', '"\\u2003\\u0085"'),
    *('"\\ud800"', '"\\udc00 alone"', '"\\ud83d\\u0041"', '"\\x"', '"\\u12g4"', '"a\tb"', '"open'),
    *("true", "false", "null", "NaN", "-Infinity", "0", "-0", "7", "7.0", "1e1", "70e-1", "1e400", "-1e999"),
    *("007", "+1"),
    *("1.", ".5", "32768", "-32769", "128", "18446744073709551616", "1" * 400, '"7"', "[]", "{}", "nul", "tru e"),
    *('{"difficulty": 98, "is_correct": "no"}', "[1e400]", "[" * 1100 + "]" * 1100, '[[{"a": [NaN]}]]', '["\\ud800"]'),
]
FAVOURED: dict[str, list[str]] = {
    **dict.fromkeys(["instruction", "input", "output", "task_id", "source"], TEXTS),
    **{key: ["true", "false"] for key in ["is_correct", "has_tests"]},
    **{key: ["3", "null", "-0"] for key in ["language", "cf_rating"]},
    "difficulty": ["7", "-32768"],
    "contest": ['"codeforces"', "null"],
    "further": ["0.5", "[1, [2]]", '{"difficulty": 98, "is_correct": "no"}', "null"],
}
BYTES = [b"", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\x00", b'"', b"\\", b",", b"}", b"\x01", b"e9"]
METADATA_KEYS = ["source", "difficulty", "has_tests"]
TOP_KEYS = ["instruction", "input", "output", "task_id", "is_correct"]
BLANKS = st.sampled_from(["", "", "", " ", "\t\r\n "])


def usually(draw: st.DrawFn, ordinary: list[str], strange: list[str]) -> str:
    return draw(st.sampled_from(strange if seldom(draw, 60) else ordinary))


def seldom(draw: st.DrawFn, one_in: int) -> bool:
    return draw(st.integers(1, one_in)) == one_in  # not 1, which is drawn more often


def spelled(draw: st.DrawFn, key: str) -> str:
    return f'"\\u{ord(key[0]):04x}{key[1:]}"' if seldom(draw, 20) else f'"{key}"'


@st.composite
def objects(draw: st.DrawFn, required: list[str], optional: list[str], nested: str = "") -> str:
    """An object with most of its keys, some twice, in any order, each with a value that mostly fits."""
    keys = [key for key in required if not seldom(draw, 100)]
    keys += draw(st.lists(st.sampled_from(optional), max_size=2))
    if draw(st.booleans()):
        keys = draw(st.permutations(keys))
    members = [
        f"{spelled(draw, key)}{draw(BLANKS)}:{draw(BLANKS)}{usually(draw, FAVOURED[key], STRANGE)}" for key in keys
    ]
    if nested:
        members.insert(draw(st.integers(0, len(members))), nested)
    return "{" + draw(BLANKS) + f"{draw(BLANKS)},{draw(BLANKS)}".join(members) + draw(BLANKS) + "}"


@st.composite
def lines(draw: st.DrawFn, required: list[str] = TOP_KEYS) -> bytes:
    """Lines of which most are records, by the schema's grammar rather than by an encoder's habits."""
    metadata = draw(objects(METADATA_KEYS, ["language", "cf_rating", "contest", "further", "source", "difficulty"]))
    nested = f"{spelled(draw, 'metadata')}: {metadata}" if not seldom(draw, 50) else ""
    optional = [*TOP_KEYS, "further", "difficulty"] if draw(st.booleans()) else required
    return draw(objects(required, optional, nested)).encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn, required: list[str] = TOP_KEYS) -> bytes:
    """A line with a few bytes replaced, taken out or put in, or cut short."""
    line = bytearray(draw(lines(required)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(line) - 1, 0)))
        new = draw(st.sampled_from(BYTES))
        line[at : at + draw(st.integers(0, 2))] = new
    return bytes(line[: draw(st.integers(0, len(line)))] if seldom(draw, 6) else line)


def naive_fields(line: bytes, loads: Callable[[bytes], object]) -> Fields | None:
    """The fields of a row, None where the line is none: every rule of the schema, one after the other."""
    try:
        record = loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("metadata")) is not dict:
        return None
    metadata = record["metadata"]
    found: Fields = {key: record.get(key) for key in TOP_KEYS} | {key: metadata.get(key) for key in METADATA_KEYS}
    optional = {"language": 0, "cf_rating": 0, "contest": ""}
    found |= {key: unknown if metadata.get(key) is None else metadata[key] for key, unknown in optional.items()}
    kinds = {"is_correct": bool, "has_tests": bool, "difficulty": int, "language": int, "cf_rating": int}
    if any(type(value) is not kinds.get(key, str) for key, value in found.items()):
        return None
    bounds = {"difficulty": 2**15, "language": 2**7, "cf_rating": 2**15}
    if not found["output"].strip():  # type: ignore[attr-defined]
        return None
    fits = all(-bound <= found[key] < bound for key, bound in bounds.items())  # type: ignore[operator]
    return found if fits else None


def fields_of(row: Row) -> Fields:
    return {key: getattr(row, key) for key in Row.__struct_fields__}


def decoded_fields(line: bytes) -> Fields | None:
    try:
        return fields_of(decode_row(line))
    except MalformedRow:
        return None


def strict_loads(line: bytes) -> object:
    """json.loads without what we refuse: NaN, Infinity, numbers beyond a double, lone surrogates, a byte order mark."""

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(text)
        return value

    def integer(text: str) -> int:
        number(text)
        return int(text)

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:  # also of keys that come twice
        json.dumps(pairs, ensure_ascii=False).encode("utf-8")
        return dict(pairs)

    text = line.decode("utf-8")
    return json.loads(text, parse_float=number, parse_int=integer, parse_constant=number, object_pairs_hook=members)


@settings(deadline=None)
@given(line=lines() | mutated())
def test_a_line_is_a_row_exactly_when_the_schema_says_so(line: bytes) -> None:
    assert decoded_fields(line) == naive_fields(line, orjson.loads)


@settings(deadline=None)
@given(line=lines() | mutated())
def test_what_is_json_is_what_json_loads_takes_but_for_what_cannot_be_encoded(line: bytes) -> None:
    if line.count(b"[") < 500:  # nesting, where every parser draws a line of its own
        assert decoded_fields(line) == naive_fields(line, strict_loads)


@given(line=st.binary(max_size=40))
def test_no_bytes_break_the_decoder(line: bytes) -> None:
    assert decoded_fields(line) is None


def outcome(decode: Callable[[bytes], object], line: bytes) -> tuple[object, ...]:
    """What an index takes from a line, or why it takes nothing."""
    try:
        record = decode(line)
    except MalformedRow as error:
        return (str(error),)
    metadata = record.metadata  # type: ignore[attr-defined]
    labels = None if metadata is UNSET else [getattr(metadata, key) for key in FAVOURED if hasattr(metadata, key)]
    return (record.task_id, record.is_correct, labels)  # type: ignore[attr-defined]


@st.composite
def lines_that_begin_alike(draw: st.DrawFn) -> list[bytes]:
    heads = [
        '{"instruction": "a", "input": "b", ',
        '{"input":"b","instruction":"output"\t,',
        '{ "input" : "é", "\\u0069nstruction":"a"\t,',
        '{"instruction": "a", "input": 1,',
        '{"task_id": "x", "instruction": "a", "input": "b", ',
        '{"instruction": "a", "further": 1e400, "input": "b",',
    ]
    head = draw(st.sampled_from(heads)).encode()
    metadata = b'{"source": "made_up", "difficulty": 1, "has_tests": true}'
    first = head + b'"output": "x", "task_id": "t", "is_correct": true, "metadata": ' + metadata + b"}"
    alike = st.builds(lambda rest: head + rest.lstrip(b"{"), lines(TOP_KEYS[2:]) | mutated(TOP_KEYS[2:]))
    return [first, first, *draw(st.lists(alike | alike | lines(), min_size=1, max_size=4))]


@settings(max_examples=40, deadline=None)
@given(stream=lines_that_begin_alike())
def test_lines_that_begin_alike_are_decoded_as_each_alone(stream: list[bytes]) -> None:
    decoder = LineDecoder()
    assert [outcome(decoder.decode, line) for line in stream] == [outcome(decode_record, line) for line in stream]


def test_a_head_is_learned_from_two_rows_and_only_its_tail_decoded(line: MakeLine) -> None:
    stream = [line(task_id=f"sum_correct_{n}", output=f"print({n})") for n in range(4)]
    decoder = LineDecoder()
    kinds = [type(decoder.decode(each)).__name__ for each in [*stream, line(instruction="Another.")]]
    assert kinds == ["_BareRecord", "_BareRecord", "Tail", "Tail", "_BareRecord"]


def test_a_head_does_not_hide_what_is_wrong_behind_it(line: MakeLine) -> None:
    decoder = LineDecoder()
    for _ in range(3):
        decoder.decode(line())
    with pytest.raises(MalformedRow, match='found 1 in "input", expected a string'):
        decoder.decode(line()[:-1] + b', "input": 1}')
    with pytest.raises(MalformedRow, match="invalid UTF-8"):
        decoder.decode(line(output="X").replace(b"X", b"\xff"))


@given(parts=st.lists(st.sampled_from(["_correct_", "_incorrect_", "correct_", "in", "_", "a", "1"]), max_size=6))
def test_a_problem_ends_where_the_last_suffix_begins(parts: list[str]) -> None:
    task_id = "".join(parts)
    starts = [n for n in range(len(task_id)) if task_id.startswith(("_correct_", "_incorrect_"), n)]
    assert problem_of(task_id) == (task_id[: starts[-1]] if starts else task_id)


@pytest.mark.parametrize("output", ["", " ", "\n\t \r\n", "\u2003\x85\x1c"])
def test_a_row_without_a_program_is_refused_whatever_stood_before_it(line: MakeLine, output: str) -> None:
    decoder = LineDecoder()
    for _ in range(3):
        decoder.decode(line())
    for decode in (decoder.decode, decode_record, lambda each: decode_record(each[:-1] + b', "further": 1}')):
        with pytest.raises(EmptyProgram, match='found no program in "output"'):
            decode(line(output=output))
    assert decode_record(line(output=f"{output}x")).output == f"{output}x"


def test_a_byte_order_mark_in_the_middle_of_a_file_is_named(line: MakeLine) -> None:
    with pytest.raises(MalformedRow, match="byte order mark in the middle of the file"):
        decode_record(b"\xef\xbb\xbf" + line())
