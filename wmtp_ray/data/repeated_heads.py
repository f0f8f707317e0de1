"""Decoding lines that begin alike: rows of one problem have the same instruction and input, most of a line's bytes.

What was checked once is not checked again. A line that begins with the bytes of the last head, where

    head  {"instruction": "Add.", "input": "1 2",        tail  "output": "print(3)", "task_id": "sum_correct_0", ...}

is a record exactly when `{` + tail is an object of the keys that the head lacks: an object is its members, and those of
the head were checked when it was learned, as `{"instruction": "Add.", "input": "1 2"}`. Any other line is decoded whole
(`records.py`), so the lines accepted are the same. Only the index can use this: it keeps no text.
"""

import msgspec
from msgspec import UNSET, UnsetType

from wmtp_ray.data.records import BareMetadata, Program, Record, decode_record, empty_program

JSON_BLANKS = b" \t\n\r"
NO_HEAD = b"\xff"  # begins no line of UTF-8


class Head(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The members of a record that a problem's rows share."""

    instruction: str
    input: str


class Tail(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The members of a record that differ, typed as in `Record`."""

    output: Program
    task_id: str
    is_correct: bool | UnsetType = UNSET
    metadata: BareMetadata | UnsetType = UNSET


_decode_head = msgspec.json.Decoder(Head).decode
_decode_tail = msgspec.json.Decoder(Tail).decode


class LineDecoder:
    """Decodes lines in file order; remembers one head."""

    def __init__(self) -> None:
        self._head = NO_HEAD
        self._instruction: str | None = None
        self._heads_differ = False

    def decode(self, line: bytes) -> Record | Tail:
        """Check one line without its line end, like `decode_record`; raises MalformedRow."""
        head = self._head
        if line.startswith(head):
            try:
                tail: Tail = _decode_tail(b"{" + line[len(head) :])
            except (msgspec.DecodeError, UnicodeDecodeError):
                return decode_record(line)
            if tail.output.isspace():
                raise empty_program()
            return tail
        record = decode_record(line)
        if record.instruction == self._instruction and not self._heads_differ:
            self._learn(line)
        self._instruction = record.instruction
        return record

    def _learn(self, line: bytes) -> None:
        """Take the head of a line, if its keys stand in the order of the schema; else do not try again."""
        end = line.find(b'"output"')  # not within a string, where its quotes would be escaped
        members = line[: max(end, 0)].rstrip(JSON_BLANKS)
        try:
            _decode_head(members.removesuffix(b",") + b"}")
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._heads_differ = True
        else:
            self._head = line[:end]
