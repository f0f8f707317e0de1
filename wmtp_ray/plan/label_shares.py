"""Correct rows in a given share of every step: which places of a run they take, and how long an epoch then is.

Place p of the run (a row, counted from 0) is a correct row's where floor((p + 1) s) > floor(p s), so any n consecutive
places hold n s correct rows, rounded down or up, whatever the steps. Draws nothing itself. P places.

Example: s = 0.4. floor(p s) for p = 0..5 is 0 0 0 1 1 2, so the places are [incorrect, incorrect, correct, incorrect,
correct] and so on: 2 of each 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wmtp_ray.contracts import Bool, Int64


@dataclass(frozen=True)
class LabelShare:
    """The share of correct rows, exactly as it was written: 0.1 is one in ten."""

    correct: Fraction

    @classmethod
    def of(cls, share: float) -> "LabelShare":
        return cls(Fraction(str(share)))

    def is_correct(self, num_places: int) -> Bool:
        """Say of each place of a run whether a correct row stands there, [P]."""
        numerator, denominator = self.correct.numerator, self.correct.denominator
        before_P = np.arange(num_places + 1, dtype=np.int64) * numerator // denominator
        return np.diff(before_P) > 0

    def count(self, num_places: int, *, correct: bool) -> int:
        """Count the places of one label among the first `num_places`."""
        num_correct = int(num_places * self.correct)
        return num_correct if correct else num_places - num_correct

    def counts(self, places: Sequence[int], *, correct: bool) -> list[int]:
        """Turn places of the run into places among the rows of one label."""
        return [self.count(place, correct=correct) for place in places]

    def longest_epoch(self, num_correct: int, num_incorrect: int) -> int:
        """Return how many rows an epoch may have, wherever it begins, so that it shows no row twice."""
        return min(int(num_correct / self.correct), int(num_incorrect / (1 - self.correct)))


def interleave(share: LabelShare, correct: Int64, incorrect: Int64) -> Int64:
    """Put the rows of both labels at their places, each in its own order."""
    num_places = len(correct) + len(incorrect)
    is_correct_P = share.is_correct(num_places)
    rows_P = np.empty(num_places, dtype=np.int64)
    rows_P[is_correct_P], rows_P[~is_correct_P] = correct, incorrect
    return rows_P
