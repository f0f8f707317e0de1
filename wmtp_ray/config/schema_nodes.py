"""A schema as JSON Schema, asked by dotted key: what a key may hold, and what its text means.

A value is read by the type that its key declares, never by what it looks like: `010` is ten for a number and text for a
name, `on` is true for a switch and text for a path. YAML 1.1 would decide by looks alone.

    a number      10, 010 (ten), 1_000, 1e-4, 0x10, .inf; not 12:30:45
    true, false   also yes, no, on, off
    text, a path  the whole text
    null          where the key allows it: null (in a file also ~ and nothing)
"""

import functools
import re
from typing import Any

from pydantic import BaseModel

from wmtp_ray.config.schema import RunConfig

Node = dict[str, Any]
TYPES = "x-types"  # of a node that is nothing but types
_NULLS = ("null", "Null", "NULL")
_SWITCHES = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_WHOLE = re.compile(r"[+-]?[0-9][0-9_]*")
_OTHER_BASE = re.compile(r"[+-]?0[xo][0-9A-Fa-f_]+")
_DECIMAL = re.compile(r"[+-]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?\.(inf|nan)", re.IGNORECASE)


class Plain(str):
    """A text of YAML without quotes, whose type its key decides."""

    __slots__ = ()


class Schema:
    """The nodes of a section and what is below it."""

    def __init__(self, section: type[BaseModel]) -> None:
        self.root: Node = section.model_json_schema()

    def deref(self, node: Node) -> Node:
        """Follow a reference to a section."""
        return self.root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def node_at(self, key: tuple[str | int, ...]) -> Node | None:
        """The node of a key; None for an unknown one."""
        node: Node | None = self.root
        for part in key:
            node = self.child(node, part) if node is not None else None
        return node

    def child(self, node: Node, part: str | int) -> Node | None:
        """The node of an entry of a section, mapping or list; None for an unknown one."""
        for option in self._options(node):
            if isinstance(part, int):
                items = option.get("prefixItems", [])
                found = items[part] if part < len(items) else option.get("items")
            else:
                found = option.get("properties", {}).get(part, option.get("additionalProperties"))
            if isinstance(found, dict):
                return found
        return None

    def types(self, node: Node | None) -> set[str]:
        """Which of string, integer, number, boolean, null, array and object a node takes; empty: anything."""
        if node is None:
            return set()
        if TYPES in node:
            return set(node[TYPES])
        return {option["type"] for option in self._options(node) if "type" in option}

    def read(self, value: object, node: Node | None, *, of_file: bool) -> object:
        """Give every plain text in `value` the type that its key declares."""
        if isinstance(value, dict):
            below = {name: self.child(node, name) if node is not None else None for name in value}
            return {name: self.read(each, below[name], of_file=of_file) for name, each in value.items()}
        if isinstance(value, list):
            nodes = [self.child(node, index) if node is not None else None for index in range(len(value))]
            return [self.read(each, found, of_file=of_file) for each, found in zip(value, nodes, strict=True)]
        return _typed(str(value), self.types(node), of_file=of_file) if isinstance(value, Plain) else value

    def _options(self, node: Node) -> list[Node]:
        node = self.deref(node)
        if "anyOf" not in node:
            return [node]
        return [option for each in node["anyOf"] for option in self._options(each)]


@functools.cache
def run_schema() -> Schema:
    """Return the schema of a run."""
    return Schema(RunConfig)


def is_path(node: Node | None) -> bool:
    """Whether a node takes a path."""
    return node is not None and any(option.get("format") == "path" for option in node.get("anyOf", [node]))


def _typed(text: str, types: set[str], *, of_file: bool) -> object:
    if text == "" or (of_file and text == "~"):
        return None
    if "string" not in types:
        return _by_its_looks(text, types)
    if text in _NULLS and (of_file or "null" in types):
        return None
    if "boolean" in types and text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    number = _number(text) if types & {"integer", "number"} else None
    return text if number is None else number


def _by_its_looks(text: str, types: set[str]) -> object:
    """Read a value that is not text, or of unknown type, as YAML 1.2 does; a switch also as yes, no, on, off."""
    if text in (*_NULLS, "~"):
        return None
    if text.lower() in ("true", "false") or (text.lower() in _SWITCHES and "boolean" in types):
        return _SWITCHES[text.lower()]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> int | float | None:
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _OTHER_BASE.fullmatch(text):
            return int(text, 0)
        if _NOT_FINITE.fullmatch(text):
            return float(text.replace(".", ""))
        return float(text) if _DECIMAL.fullmatch(text) else None
    except ValueError:  # underscores where Python wants none
        return None
