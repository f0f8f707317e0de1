"""How many of the heads' drafts a forward checks: always all, or as many as give most tokens a second, as measured.

No torch. Whatever the number, the same tokens are decided.

A forward of B rows that checks h drafts feeds B * (1 + h) tokens. Where a token more is nearly free (few rows, a small
model) drafts pay even when half of them are wrong; where arithmetic is the limit four tokens cost four times as much
as one, and the same drafts lose. So cost is measured where the rows are decoded:

    drafts          0      1      2      3
    seconds         0.10   0.16   0.22   0.28      of a forward that checks so many, and drafts so many
    tokens          1.0    1.8    2.5    3.0       1, and the shares of first, second, third drafts that were right
    tokens/second   10.0   11.2   11.4   10.7      2 drafts from here on

Shape suffix: H draft horizons, 2 first.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, Protocol

Drafting = Literal["fixed", "measured"]

_FIRST_BLOCKS = 256  # rows' blocks that tell the acceptance to some 3 %, before the first trial
_REPEATS = 4  # forwards of each number in a trial; the fastest counts, since other work only adds to a time
_GAIN = 1.1  # fewer drafts have to be so much faster: times are noisy, and what is dropped does not come back


class DraftCount(Protocol):
    """The number of drafts of the next block, and of the heads whose caches are kept up."""

    @property
    def checked(self) -> int:
        """Drafts that the next forward checks."""
        ...

    @property
    def kept(self) -> int:
        """Heads that still draft; `checked` never rises above it, and it never rises."""
        ...

    def note(self, accepted_B: Sequence[int], check_s: float, draft_s: float) -> None:
        """Learn of a forward that checked `checked` drafts of each row: how many were right, and how long it took.

        `check_s` is the pass up to horizon 1's choices, `draft_s` that of the `kept` heads.
        """
        ...


class FixedDrafts:
    """All drafts, always: what a row counts of its forwards depends on that row alone."""

    def __init__(self, num: int) -> None:
        self.checked = self.kept = num

    def note(self, accepted_B: Sequence[int], check_s: float, draft_s: float) -> None:
        """Learn nothing."""


class MeasuredDrafts:
    """As many drafts as give most tokens a second.

    Checks all of them over the first 256 blocks of rows, then tries every number, four forwards each, and drops the
    heads beyond the best. The next trial is due after twice as many blocks as stood before the last; at 0 there is
    none. During a trial all kept heads draft, so that it can end at any number.
    """

    def __init__(self, num: int) -> None:
        self.kept = num
        self._due_blocks, self._num_blocks = _FIRST_BLOCKS, 0
        self._right_H = [0] * num
        self._asked_H = [0] * num
        self._trial: list[int] = []
        self._check_s: dict[int, float] = {}
        self._draft_s = float("inf")

    @property
    def checked(self) -> int:
        return self._trial[-1] if self._trial else self.kept

    def note(self, accepted_B: Sequence[int], check_s: float, draft_s: float) -> None:
        if self.kept == 0:
            return
        for draft in range(self.checked):
            self._asked_H[draft] += len(accepted_B)
            self._right_H[draft] += sum(accepted > draft for accepted in accepted_B)
        self._num_blocks += len(accepted_B)
        if self._trial:
            tried = self._trial.pop()
            self._check_s[tried] = min(check_s, self._check_s.get(tried, check_s))
            self._draft_s = min(draft_s, self._draft_s)
            if not self._trial:
                self._end_trial()
        elif self._num_blocks >= self._due_blocks:
            self._trial = [*range(self.kept + 1)] * _REPEATS

    def _end_trial(self) -> None:
        tokens = [*accumulate((r / a for r, a in zip(self._right_H, self._asked_H, strict=True)), initial=1.0)]
        rates = [tokens[num] / self._seconds(num) for num in range(self.kept + 1)]
        best = max(range(self.kept + 1), key=rates.__getitem__)
        if rates[best] > _GAIN * rates[self.kept]:
            self.kept = best
            del self._right_H[best:], self._asked_H[best:]
        self._due_blocks, self._check_s, self._draft_s = 2 * self._num_blocks, {}, float("inf")

    def _seconds(self, num: int) -> float:
        """Seconds of a forward that checks `num` drafts and has as many heads draft; each head costs the same."""
        return self._check_s[num] + self._draft_s * num / self.kept


_KINDS: dict[Drafting, type[FixedDrafts] | type[MeasuredDrafts]] = {"fixed": FixedDrafts, "measured": MeasuredDrafts}


def draft_count(drafting: Drafting, num: int) -> DraftCount:
    """Return the rule for at most `num` drafts."""
    return _KINDS[drafting](num)
