"""Decoding that gives way: where it has to wait for a core, others want it, and it rests longer than that took.

A process of the lowest priority still gets a part of a core that others keep busy: with Linux' SCHED_IDLE beside ranks
of niceness 15 one of 8 %. A thread sees it by its own time, which then lags behind the time on the wall, and rests
`RESTS` times as long. Measured with one busy process of niceness 15 on the same core: 8 % without rests, 4 % with.
"""

import time
from collections.abc import Callable

RESTS = 3.0
_BUSY_BELOW = 0.5  # own time by time on the wall: a core that no other process wants gives nearly 1
_LONGEST_S = 10.0  # of a stretch, as far as it counts


class GivesWay:
    """Call it between two stretches of work, from the thread that does it."""

    def __init__(
        self,
        wall: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = time.thread_time,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._wall = wall
        self._own = own
        self._rest = rest
        self._began: tuple[float, float] | None = None

    def begin(self) -> None:
        """Begin anew: the thread has waited for something else than a core."""
        self._began = None

    def __call__(self, *arguments: object) -> None:
        """Rest if the stretch since the last call waited for a core; `arguments` are those of a hook."""
        if self._began is not None:
            wall_s, own_s = self._wall() - self._began[0], self._own() - self._began[1]
            if own_s < _BUSY_BELOW * wall_s:
                self._rest(RESTS * min(wall_s, _LONGEST_S))
        self._began = (self._wall(), self._own())
