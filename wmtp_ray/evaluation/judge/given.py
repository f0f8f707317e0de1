"""Results of the program that the tests may still hold.

A copy crosses to the tests; in one process there would be one object. So a result that is handed out again is the same
object for the tests too, and one that the program changes later changes there: a generator that yields one list again
and again is seen to do so. This holds for the last few results, of a size that can be looked at after every call.
"""

from wmtp_ray.evaluation.judge.channel import Carry, encode

NUM_KEPT = 8
_MAX_LENGTH = 1 << 16
_MAX_WATCHED_NODES = 256
_ATOMS = frozenset((bool, float, int, str, type(None)))
_CONTAINERS = (list, dict, set, bytearray, tuple)


class GivenResults:
    """The last results of a program, in the program's process."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry
        self._kept: dict[int, tuple[object, object]] = {}  # by number: the object, and its code if it is watched
        self._num_given = 0

    def number(self, result: object, code: object) -> int | None:
        """Return the number of a result, the same for the same object; None for one that needs none."""
        if not isinstance(result, _CONTAINERS) or len(result) > _MAX_LENGTH:
            return None
        known = [number for number, (kept, _) in self._kept.items() if kept is result]
        number = known[0] if known else self._num_given
        self._num_given += not known
        self._kept.pop(number, None)
        self._kept[number] = (result, code if _num_nodes(code) <= _MAX_WATCHED_NODES else None)
        if len(self._kept) > NUM_KEPT:
            del self._kept[next(iter(self._kept))]
        return number

    def changes(self) -> list[list[object]]:
        """Return [number, code] of every watched result that is not what it was when it was last looked at."""
        found: list[list[object]] = []
        for number, (kept, code) in self._kept.items():
            if code is None or (type(kept) is list and _ATOMS.issuperset(map(type, kept)) and kept == code):
                continue  # not watched, or quickly seen to be the same: a list of atoms is its own code
            now = encode(kept, self._carry)
            if now != code:
                self._kept[number] = (kept, now)
                found.append([number, now])
        return found


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
