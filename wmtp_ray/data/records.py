"""One line of a JSONL as a record: decoded and checked against the row schema (`rows.py`) at the machine's speed.

A line that holds the schema's keys and nothing else is decoded straight into its fields, every string of it. Whatever
that decoder refuses (further keys, a broken line, a wrong type) is decoded again slowly and exactly: orjson decides
what is JSON, the schema what is a record, and the message says why not. Both accept the same lines and return the same
records.

A program is a text with something else than white space in it: an empty one would teach a model to end at once.

Refused though `json.loads` takes them: NaN and Infinity, numbers beyond a double (1e400), nesting beyond orjson's
1024 levels, and lone surrogates ("\\ud800"), which no tokenizer could encode. Reads no files and knows no offsets.
"""

from typing import Annotated, TypeVar

import msgspec
import orjson
from msgspec import UNSET, UnsetType

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
INT8 = (-(2**7), 2**7 - 1)
INT16 = (-(2**15), 2**15 - 1)
Int8 = Annotated[int, msgspec.Meta(ge=INT8[0], le=INT8[1])]
Int16 = Annotated[int, msgspec.Meta(ge=INT16[0], le=INT16[1])]
# A pattern would cost half a decoding: emptiness is the decoder's part, white space ours.
Program = Annotated[str, msgspec.Meta(min_length=1)]

_JSON_NAMES = {str: "a string", bool: "true or false", int: "an integer", dict: "an object", list: "a list"}
_MISSING = object()
_Kind = TypeVar("_Kind")


class MalformedRow(ValueError):
    """A line is not a row; the message says what was found and what was expected, not where."""


class EmptyProgram(MalformedRow):
    """A line would be a row but for its program, which is empty or white space."""


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """The object `metadata` of a record; None is unknown."""

    source: str
    difficulty: Int16
    has_tests: bool
    language: Int8 | None = None
    cf_rating: Int16 | None = None
    contest: str | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """A line's fields, unchanged. UNSET labels are absent: see `missing_label` and `legacy_metadata.py`."""

    instruction: str
    input: str
    output: Program
    task_id: str
    is_correct: bool | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class BareMetadata(Metadata, frozen=True, gc=False, forbid_unknown_fields=True):
    """Without further keys: the decoder checks less of a value that it skips (UTF-8, range, depth) than orjson."""


class _BareRecord(Record, frozen=True, gc=False, forbid_unknown_fields=True):
    metadata: BareMetadata | UnsetType = UNSET


_decode_bare = msgspec.json.Decoder(_BareRecord).decode


def decode_record(line: bytes) -> Record:
    """Check one line without its line end, labels where it has them; raises MalformedRow."""
    try:
        record: Record = _decode_bare(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _check(_decode_object(line))
    if record.output.isspace():
        raise empty_program()
    return record


def empty_program() -> EmptyProgram:
    """Report that a record has no program."""
    return EmptyProgram('found no program in "output" (empty or white space), expected one')


def missing_label(metadata: Metadata | UnsetType) -> MalformedRow:
    """Return which label a record lacks, given its `metadata`: that or, where it is there, `is_correct`."""
    return _missing("metadata", dict) if metadata is UNSET else _missing("is_correct", bool)


def _decode_object(line: bytes) -> dict[str, object]:
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedRow(f"{_why_undecodable(line, error)}, expected a JSON object") from error
    if not isinstance(content, dict):
        raise MalformedRow(f"found {_name(content)}, expected a JSON object")
    return content


def _why_undecodable(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        return f"found invalid UTF-8 at byte {unicode_error.start} of the line"
    if line.startswith(BYTE_ORDER_MARK):
        return "found a byte order mark in the middle of the file (were files joined?)"
    # orjson appends its own idea of line and column, which is about this one line
    return f"found invalid or truncated JSON at character {error.pos} ({error.msg.partition(': line')[0]})"


def _check(content: dict[str, object]) -> Record:
    try:
        record = msgspec.convert(content, Record)
    except msgspec.ValidationError:
        _refuse(content)
        raise  # never: the two checks agree
    if record.output.isspace():
        raise empty_program()
    return record


def _refuse(content: dict[str, object]) -> None:
    """Raise MalformedRow for the first field that is not of the schema."""
    metadata = _field(content, "metadata", dict) if "metadata" in content else None
    for key in ("instruction", "input", "output", "task_id"):
        _field(content, key, str)
    if "is_correct" in content:
        _field(content, "is_correct", bool)
    if metadata is not None:
        _refuse_metadata(metadata)
    if not content["output"]:
        raise empty_program()


def _refuse_metadata(metadata: dict[str, object]) -> None:
    _field(metadata, "source", str, "metadata.")
    _integer(metadata, "difficulty", INT16)
    _field(metadata, "has_tests", bool, "metadata.")
    for key, bounds in (("language", INT8), ("cf_rating", INT16)):
        if metadata.get(key) is not None:
            _integer(metadata, key, bounds)
    if metadata.get("contest") is not None:
        _field(metadata, "contest", str, "metadata.")


def _field(content: dict[str, object], key: str, kind: type[_Kind], prefix: str = "") -> _Kind:
    value = content.get(key, _MISSING)
    if isinstance(value, kind) and type(value) is kind:  # the exact type: True is no integer
        return value
    if value is _MISSING:
        raise _missing(f"{prefix}{key}", kind)
    raise MalformedRow(f'found {_name(value)} in "{prefix}{key}", expected {_JSON_NAMES[kind]}')


def _integer(metadata: dict[str, object], key: str, bounds: tuple[int, int]) -> None:
    value = _field(metadata, key, int, "metadata.")
    if not bounds[0] <= value <= bounds[1]:
        raise MalformedRow(f'found {value} in "metadata.{key}", expected {bounds[0]}..{bounds[1]}')


def _missing(key: str, kind: type) -> MalformedRow:
    return MalformedRow(f'found no key "{key}", expected {_JSON_NAMES[kind]}')


def _name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return f"{value!r}".lower()
    return _JSON_NAMES[type(value)]
