"""Mutable objects that the program and the tests both hold: each has a copy, where one process would have one object.

What one side does to its copy, the other side is told with the next message. So a result that the program changes
later changes in the tests too (a generator that yields one list again and again is seen to do so), an argument that
the program keeps is the tests' own, and what the tests do to either reaches the program. This holds for the last few
objects, of a size that can be looked at after every call.
"""

from collections.abc import Callable
from typing import Any

from wmtp_ray.evaluation.judge.channel import Carry, encode
from wmtp_ray.evaluation.judge.sharing import ATOMS, CONTAINERS, update

NUM_KEPT = 8
_MAX_LENGTH = 1 << 16
_MAX_WATCHED_NODES = 256


class SharedObjects:
    """The last objects that both sides hold, by number, as they are in this process."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry
        self._kept: dict[int, tuple[object, object]] = {}  # by number: the object, and its code if it is watched
        self._num_given = 0

    def number(self, shared: object, code: object) -> int | None:
        """Return the number of an object, the same for the same object; None for one that needs none.

        Called in the program's process, which knows best what is one object.
        """
        if not isinstance(shared, CONTAINERS) or len(shared) > _MAX_LENGTH:
            return None
        known = [number for number, (kept, _) in self._kept.items() if kept is shared]
        number = known[0] if known else self._num_given
        self._num_given += not known
        self.keep(number, shared, code)
        return number

    def keep(self, number: int, shared: object, code: object) -> None:
        """Keep an object under its number, as the last one; `code` is what the other side knows of it."""
        self._kept.pop(number, None)
        self._kept[number] = (shared, code if _num_nodes(code) <= _MAX_WATCHED_NODES else None)
        if len(self._kept) > NUM_KEPT:
            del self._kept[next(iter(self._kept))]

    def known(self, number: int) -> object | None:
        """Return the object of a number, or None."""
        return self._kept.get(number, (None, None))[0]

    def changes(self) -> list[list[object]]:
        """Return [number, code] of every watched object that is not what it was when it was last looked at."""
        found: list[list[object]] = []
        for number, (kept, code) in self._kept.items():
            if code is None or (type(kept) is list and ATOMS.issuperset(map(type, kept)) and kept == code):
                continue  # not watched, or quickly seen to be the same: a list of atoms is its own code
            now = encode(kept, self._carry)
            if now != code:
                self._kept[number] = (kept, now)
                found.append([number, now])
        return found

    def apply(self, changes: list[Any], decode: Callable[[Any], object]) -> None:
        """Do to the objects of this side what the other side did to its own."""
        for number, code in changes:
            if number in self._kept:
                kept, known = self._kept[number]
                update(kept, decode(code))
                self._kept[number] = (kept, None if known is None else encode(kept, self._carry))


def _num_nodes(code: object) -> int:
    """Count the nodes of an encoded value, up to the limit that matters."""
    count, pending = 0, [code]
    while pending and count <= _MAX_WATCHED_NODES:
        node = pending.pop()
        count += 1
        if isinstance(node, list | dict):
            if len(node) > _MAX_WATCHED_NODES:
                return len(node)
            pending += node if isinstance(node, list) else node.values()
    return count
