"""How long to wait before a request is repeated: doubling, with a random part, never less than the server asks for."""

import random

FIRST_S = 0.5
LONGEST_S = 30.0


class BackOff:
    """The waits of one request: about 0.5, 1, 2, .. 30 s, each shortened by up to a half so that repeats spread."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._next_s = FIRST_S

    def next_s(self, asked_s: float | None) -> float:
        """Return the next wait; `asked_s` is the server's Retry-After."""
        wait_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, LONGEST_S)
        return max(wait_s, asked_s or 0.0)
