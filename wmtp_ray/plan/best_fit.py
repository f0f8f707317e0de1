"""Planned rows to sequences of one fixed size, nearly full. Knows token counts only; reads no index, draws nothing.

Whole rows, never cut. Every sequence is the best fit of its window: the set of waiting rows with the largest total, by
subset sums on the bits of one integer. Longest-first best-fit needs large windows and stops short of full where rows
are alike (`bench/packing.py` shows both), because it leaves only small gaps that no row is small enough for.

Suffixes: P planned rows, Q sequences.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.contracts import Int32, Int64
from wmtp_ray.errors import PlanError


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Sequence q holds the rows at `order_P[sequence_starts_Q[q]:sequence_starts_Q[q + 1]]` of the plan.

    `order_P` is a permutation of the planned positions; `sequence_starts_Q` has num_sequences + 1 entries.
    """

    order_P: Int64
    sequence_starts_Q: Int64

    @property
    def num_sequences(self) -> int:
        return len(self.sequence_starts_Q) - 1

    def positions(self, sequence: int) -> Int64:
        """Return the planned positions of one sequence's rows, ascending."""
        return self.order_P[self.sequence_starts_Q[sequence] : self.sequence_starts_Q[sequence + 1]]


def pack_best_fit(num_tokens_P: Int32, sequence_tokens: int, *, window_rows: int) -> PackedRows:
    """Pack rows in plan order into sequences of at most `sequence_tokens` tokens; PlanError when a row is longer.

    Each sequence takes the first waiting row and, of the waiting rows less than `window_rows` places behind it, those
    that fill it best; of equally good choices the one that reaches least far. So sequences stand in the order of their
    first rows, no row moves by `window_rows` places or more, and two rows that far apart keep their order. A window
    should hold several sequences' rows; it costs nothing where rows fit exactly, which ends the search. The last few
    sequences are filled with what is left. Depends on the arguments alone.

    Example: rows of [5, 3, 4, 2, 6, 1] tokens, sequences of 7, a window of 4 rows. Row 0 has room for 2: row 3. Row 1
    has room for 4: row 2. Row 4 has room for 1: row 5. order_P [0 3 | 1 2 | 4 5], sequence_starts_Q [0 2 4 6]. Cut in
    plan order they would have been four sequences: 5, 3 4, 2, 6 1.
    """
    assert window_rows >= 1, "a window holds at least the row that opens the sequence"
    tokens = num_tokens_P.tolist()
    _require_fit(tokens, sequence_tokens)
    placed = bytearray(len(tokens))
    order: list[int] = []
    starts = [0]
    for first in range(len(tokens)):
        if placed[first]:
            continue
        behind = range(first + 1, min(first + window_rows, len(tokens)))
        room = sequence_tokens - tokens[first]
        chosen = [first, *_best_filling((row for row in behind if not placed[row]), tokens, room)]
        for row in chosen:
            placed[row] = True
        order += chosen
        starts.append(len(order))
    return PackedRows(np.array(order, dtype=np.int64), np.array(starts, dtype=np.int64))


def _require_fit(tokens: Sequence[int], sequence_tokens: int) -> None:
    assert min(tokens, default=1) >= 1, "rows must be counted before they are packed"
    longest = max(tokens, default=0)
    if longest > sequence_tokens:
        raise PlanError(
            f"a row has {longest:,} tokens and a sequence holds {sequence_tokens:,}; rows are never cut: raise "
            f"the sequence's tokens to {longest:,} or more, or lower data.max_tokens to {sequence_tokens:,} or less"
        )


def _best_filling(rows: Iterable[int], tokens: Sequence[int], room: int) -> list[int]:
    """Return the rows whose tokens add up to the most that `room` holds, ascending; reads no further than it must.

    Bit s of `totals[n]` says that some of the first n rows add up to s: rows of 2 and 3 tokens give the bits 0 2 3 5.
    """
    within_room = (1 << (room + 1)) - 1
    read: list[int] = []
    totals = [1]
    for row in rows:
        read.append(row)
        totals.append((totals[-1] | totals[-1] << tokens[row]) & within_room)
        if totals[-1] >> room:
            break
    best = totals[-1].bit_length() - 1
    chosen = []
    for row, totals_without in zip(reversed(read), reversed(totals[:-1]), strict=True):
        if not totals_without >> best & 1:
            chosen.append(row)
            best -= tokens[row]
    return chosen[::-1]
