"""Every record that we save as JSON: written from its type, checked against its type when it is read.

A record is a frozen dataclass (or a plain container of typed values). Reading compares every field with its annotation;
a field that is missing or of another type is an error that names the file, the field, what was found and what to do.
Fields that came later have defaults, so that records of earlier versions are read; fields that a later version may add
are passed over, but where the record's class sets REFUSES_UNKNOWN_FIELDS. JSON of other programs (config.json,
params.json, tokenizer.json, rows) is not read here.

A number that is not finite is written as null, as JSON has neither NaN nor infinity; where a record must give it back,
`write_exact_record` spells it as Python does.
"""

import json
import re
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ArtifactError, WmtpError

Record = TypeVar("Record")
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<place>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_OTHER_TYPE = re.compile(r"Expected (?P<expected>.+), got (?P<found>.+)")
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "null": "null",
    "object": "an object", "array": "a list",
}  # fmt: skip


def encode_record(record: object) -> bytes:
    """Spell a record as indented JSON, with a line break at its end."""
    return msgspec.json.format(msgspec.json.encode(record, enc_hook=_plain), indent=2) + b"\n"


def encode_line(record: object) -> bytes:
    """Spell a record as one line of a JSONL file."""
    return msgspec.json.encode(record, enc_hook=_plain) + b"\n"


def write_record(path: Path, record: object) -> None:
    """Write a record to its file, replacing an older one at once."""
    atomic_write(path, encode_record(record))


def write_exact_record(path: Path, record: object) -> None:
    """Write a record as `write_record` does, but with NaN and infinity as Python's `json` spells them."""
    atomic_write(path, f"{json.dumps(msgspec.to_builtins(record, enc_hook=_plain), indent=1)}\n".encode())


def read_record(path: Path, kind: type[Record], remedy: str) -> Record:
    """Read a record of type `kind` from its file; ArtifactError, which ends with `remedy`, for anything else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    return decode_record(content, kind, path, remedy)


def decode_record(
    content: bytes, kind: type[Record], where: object, remedy: str, refusal: type[WmtpError] = ArtifactError
) -> Record:
    """Read a record from bytes; `where` (a file, or a line of one) and `remedy` are for the message of `refusal`."""
    try:
        if not getattr(kind, "REFUSES_UNKNOWN_FIELDS", False):
            return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise refusal(f"{where}: {_told(error)}; {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # what only Python's json reads: NaN and infinity
    try:
        values = json.loads(content)
    except ValueError as error:
        raise refusal(f"{where} is damaged: found no JSON ({error}), expected a record; {remedy}") from error
    return convert_record(values, kind, where, remedy, refusal)


def convert_record(
    values: Any, kind: type[Record], where: object, remedy: str, refusal: type[WmtpError] = ArtifactError
) -> Record:
    """Make a record of values that JSON gave, as `decode_record` does of bytes."""
    try:
        record = msgspec.convert(values, type=kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise refusal(f"{where}: {_told(error)}; {remedy}") from error
    if getattr(kind, "REFUSES_UNKNOWN_FIELDS", False) and (unknown := sorted(values.keys() - vars(record).keys())):
        raise refusal(f"{where}: found the field {unknown[0]}, which this version does not know; {remedy}")
    return record


def is_json(content: bytes) -> bool:
    """Whether bytes are JSON at all: a line that a killed process left is not."""
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _plain(value: object) -> object:
    """What a field may hold beside its own type: a number of numpy, a path."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a record holds {type(value).__name__}, which JSON does not know")


def _told(error: msgspec.ValidationError) -> str:
    """Return which field is wrong: "Expected `int`, got `str` - at `$.a.b`" -> "found text in the field a.b, ..."."""
    parts = _PLACE.match(str(error))
    assert parts is not None
    what, place = parts["what"], parts["place"] or ""
    if (missing := _MISSING.fullmatch(what)) is not None:
        return f"the field {_below(place, missing['field'])} is missing"
    if (other := _OTHER_TYPE.fullmatch(what)) is not None:
        expected, found = _named(other["expected"]), _named(other["found"])
        return f"found {found} {_in_field(place)}, expected {expected}"
    return f"found what is not allowed {_in_field(place)}: {what[:1].lower()}{what[1:]}"


def _below(place: str, field: str) -> str:
    return f"{place}.{field}" if place else field


def _in_field(place: str) -> str:
    return f"in the field {place}" if place else "as the whole record"


def _named(kinds: str) -> str:
    """Name msgspec's kinds: "`int | null`" -> "a whole number or null"."""
    return " or ".join(_KINDS.get(kind, kind) for kind in kinds.strip("`").split(" | "))
