"""Which version of the critic stage 1 kept, and the held-out losses that it was chosen by. Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOutReading:
    """The stage's own loss on the held-out rows, after so many steps."""

    step: int
    loss: float


@dataclass(frozen=True)
class KeptCritic:
    """The version after `step` steps had the lowest loss of all readings; the stage made `steps` of `planned_steps`."""

    step: int
    loss: float
    steps: int
    planned_steps: int
    readings: tuple[HeldOutReading, ...]

    @property
    def words(self) -> str:
        """Say which version was kept, and where the stage ended."""
        ended = "" if self.steps == self.planned_steps else f"; the stage ended after {self.steps}"
        return f"kept after {self.step} of {self.planned_steps} steps, held-out loss {self.loss:.4f}{ended}"


def best_of(readings: Sequence[HeldOutReading]) -> HeldOutReading | None:
    """Return the reading of the lowest loss, of equal ones the first; None where none is a number."""
    finite = [reading for reading in readings if math.isfinite(reading.loss)]
    return min(finite, key=lambda reading: (reading.loss, reading.step), default=None)


def no_better_since(readings: Sequence[HeldOutReading]) -> int:
    """Count the last readings in a row that are no better than the best one before them."""
    best = best_of(readings)
    return len(readings) if best is None else sum(reading.step > best.step for reading in readings)
