"""One object in two places: JSON has no such thing, so the places travel beside the values.

    row = [0, 0]; shared_parts([row, row]) -> [[[0], [1]]]

A path is the positions from the outermost container to a part: of an item, or of a value of a dict.
"""

from collections import deque
from typing import Any

Path = list[int]
ATOMS = frozenset((bool, float, int, str, type(None)))
MUTABLE = (list, dict, set, bytearray, deque)
CONTAINERS = (*MUTABLE, tuple)


def shared_parts(value: object) -> list[list[Path]]:
    """Return [path, other path] for every mutable part that occurs again in a list or dict."""
    return _places([(value, [])])


def shared_with(arguments: object, result: object) -> list[list[Path]]:
    """Return the paths in [arguments, result]; the first of two is the arguments' own where there is one."""
    return _places([(arguments, [0]), (result, [1])])


def _places(roots: list[tuple[object, Path]]) -> list[list[Path]]:
    found: list[list[Path]] = []
    first: dict[int, Path] = {}
    for root in roots:
        pending = [root]
        for part, path in pending:  # grows: what lies deeper is looked at later
            if issubclass(type(part), MUTABLE):  # not `isinstance`: an object of the program would be asked
                if id(part) in first:
                    found.append([first[id(part)], path])
                    continue
                first[id(part)] = path
            inner: Any = _inner(part)
            if inner and not ATOMS.issuperset(map(type, inner)):
                inside = enumerate(inner)
                pending += [(each, [*path, at]) for at, each in inside if issubclass(type(each), CONTAINERS)]
    return found


def _inner(part: Any) -> Any:
    if issubclass(type(part), dict):
        return part.values()
    return part if issubclass(type(part), (list, tuple, deque)) else ()


def share_parts(value: Any, found: list[list[Path]]) -> None:
    """Put one object in both places of every pair, in a copy of the value; a place in a tuple stays as it is."""
    for path, (*parents, last) in found:
        parent = _part(value, parents)
        if isinstance(parent, dict):
            parent[list(parent)[last]] = _part(value, path)
        elif isinstance(parent, list | deque):
            parent[last] = _part(value, path)


def _part(value: Any, path: Path) -> Any:
    for position in path:
        value = list(value.values())[position] if isinstance(value, dict) else value[position]
    return value


def update(mine: Any, theirs: Any) -> bool:
    """Make a value equal to another in place; return False where that is impossible and `mine` must be replaced."""
    kind = type(mine)
    if kind is not type(theirs):
        return False
    if issubclass(kind, list):
        if len(mine) == len(theirs):
            mine[:] = [old if update(old, new) else new for old, new in zip(mine, theirs, strict=True)]
        else:
            mine[:] = theirs
        return True
    if issubclass(kind, dict):
        merged = {key: mine[key] if key in mine and update(mine[key], new) else new for key, new in theirs.items()}
        mine.clear()
        mine.update(merged)
        return True
    if issubclass(kind, (set, deque)):
        mine.clear()
        (mine.update if issubclass(kind, set) else mine.extend)(theirs)
        return True
    if issubclass(kind, bytearray):
        mine[:] = theirs
        return True
    if issubclass(kind, tuple):
        return len(mine) == len(theirs) and all(update(old, new) for old, new in zip(mine, theirs, strict=True))
    return mine is theirs or (type(mine) in ATOMS and bool(mine == theirs))
