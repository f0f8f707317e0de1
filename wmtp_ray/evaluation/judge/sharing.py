"""One object in two places of an argument: JSON has no such thing, so the places travel beside it.

    row = [0, 0]; shared_parts([row, row]) -> [[[0], [1]]]

A path is the positions from the outermost container to a part: of an item, or of a value of a dict.
"""

from typing import Any

Path = list[int]


def shared_parts(value: object) -> list[list[Path]]:
    """Return [path, other path] for every mutable part that occurs again in a list or dict."""
    found: list[list[Path]] = []
    first: dict[int, Path] = {}
    pending: list[tuple[object, Path]] = [(value, [])]
    while pending:
        part, path = pending.pop()
        if isinstance(part, list | dict | set | bytearray):
            if id(part) in first:
                found.append([first[id(part)], path])
                continue
            first[id(part)] = path
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        pending += [
            (item, [*path, position])
            for position, item in enumerate(inner)
            if isinstance(item, list | dict | set | bytearray | tuple)
        ]
    return found


def share_parts(value: Any, found: list[list[Path]]) -> None:
    """Put one object in both places of every pair, in a copy of the value; a place in a tuple stays as it is."""
    for path, (*parents, last) in found:
        parent = _part(value, parents)
        if isinstance(parent, dict):
            parent[list(parent)[last]] = _part(value, path)
        elif isinstance(parent, list):
            parent[last] = _part(value, path)


def _part(value: Any, path: Path) -> Any:
    for position in path:
        value = list(value.values())[position] if isinstance(value, dict) else value[position]
    return value
