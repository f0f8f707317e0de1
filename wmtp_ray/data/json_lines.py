"""Decode JSON and JSON lines from bytes: byte order mark, line ends, and the number of a line that cannot be read.

A UTF-8 byte order mark is skipped, LF and CRLF end lines, and nothing else does: U+2028 and U+0085 are characters of a
string. Reads no files and knows no records.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.errors import DataError

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_KINDS = {
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
    b"version https://git-lfs": "a pointer of Git LFS",
}
_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def utf8_of(content: bytes, path: Path) -> bytes:
    """Return the content without a byte order mark; DataError for another encoding or kind of file, by its name."""
    for mark, name in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise _other_encoding(path, name)
    head = content[:64]
    if head.count(b"\0") * 3 > len(head):  # "{" and a NUL, without a mark
        raise _other_encoding(path, "UTF-16")
    for magic, name in _KINDS.items():
        if content.startswith(magic):
            raise DataError(f"{path}: found {name}, expected JSON as UTF-8; unpack it, or give the file its own suffix")
    return content.removeprefix(codecs.BOM_UTF8)


def json_lines(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield every line's number from 1 and its value, blank lines passed over; DataError for a line that is no JSON."""
    lines = utf8_of(content, path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _value(line, f"{path}:{number}", is_end=number == len(lines))


def json_array(content: bytes, path: Path) -> list[Any]:
    """Return the values of a file that is one JSON array; DataError for anything else."""
    value = _value(utf8_of(content, path), f"{path}", is_end=True)
    if not isinstance(value, list):
        raise DataError(f"{path}: found {named(value)}, expected one array of records; as JSON lines, name it .jsonl")
    return value


def named(value: object) -> str:
    """Name a JSON value's type for a message."""
    return _NAMES.get(type(value), type(value).__name__)


def _value(text: bytes, where: str, *, is_end: bool) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        is_torn = is_end and error.pos >= len(text.decode("utf-8", "replace").rstrip())
        why = "it breaks off" if is_torn else f"{error.msg.partition(': line')[0]} at character {error.pos + 1}"
        remedy = "the file is torn: copy it again" if is_torn else "fix what wrote it, or take it out"
        raise DataError(f"{where}: found no JSON ({why}), expected one value as UTF-8; {remedy}") from error


def _other_encoding(path: Path, name: str) -> DataError:
    return DataError(
        f"{path}: found text in {name}, expected UTF-8; write it anew, such as with `iconv -f {name} -t UTF-8`"
    )
