"""The standard streams by name, for a program in whose root there is no /proc: `open("/dev/stdin")`.

Opening a name gives the stream itself, as with a pipe: what was read from it is gone.
"""

import builtins
import io
import os
import re
from typing import Any

_NUMBERS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_BY_NUMBER = re.compile(r"(?:/dev/fd|/proc/self/fd)/([0-9]{1,3})")


def name_them() -> None:
    """Make this process's `open` and `os.open` accept these names, permanently."""
    open_file, open_descriptor = io.open, os.open

    def open_by_name(file: Any, *arguments: Any, **keywords: Any) -> Any:
        number = _number(file)
        return open_file(file if number is None else os.dup(number), *arguments, **keywords)

    def open_descriptor_by_name(path: Any, *arguments: Any, **keywords: Any) -> int:
        number = _number(path)
        return open_descriptor(path, *arguments, **keywords) if number is None else os.dup(number)

    open_by_name.__name__ = open_descriptor_by_name.__name__ = "open"
    builtins.open = io.open = open_by_name
    os.open = open_descriptor_by_name


def _number(file: Any) -> int | None:
    """Return the descriptor that a path names, or None."""
    try:
        path = os.fsdecode(file)
    except TypeError:
        return None  # a descriptor, or nothing that can be opened
    found = _BY_NUMBER.fullmatch(path)
    return int(found[1]) if found else _NUMBERS.get(path)
