"""Drawing from a pool by phases and epochs: no row twice in an epoch, every bin its share of every phase.

Knows neither steps nor how long a run is: `curriculum` and `finish` do. Suffix: K bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wmtp_ray.config.sampling import CurriculumPhase, Stage2Sampling
from wmtp_ray.contracts import Int32, Int64, RowIndex
from wmtp_ray.plan.phases import PlannedPhase
from wmtp_ray.plan.randomness import draw, shuffled
from wmtp_ray.plan.row_pool import ALL_ROWS, RowPool


@dataclass(frozen=True, eq=False)
class RowDraw:
    """Rows to draw from one pool, and where their phases and epochs begin, in rows, the end included.

    `label` names the draw's randomness; several draws of a run have several labels.
    """

    pool: RowPool
    phase_starts: Sequence[int]
    epoch_starts: Sequence[int]
    label: tuple[str, ...] = ()


@dataclass
class PhaseTally:
    """What the segments of one phase (one per epoch it touches) came to."""

    wanted_K: Int64
    rows_K: Int64
    missing_K: Int64
    extra_K: Int64
    row_ids: list[Int32] = field(default_factory=list)

    @classmethod
    def empty(cls, num_bins: int) -> "PhaseTally":
        zeros_K = np.zeros(num_bins, dtype=np.int64)
        return cls(zeros_K, zeros_K, zeros_K, zeros_K)

    def __add__(self, other: "PhaseTally") -> "PhaseTally":
        return PhaseTally(
            self.wanted_K + other.wanted_K,
            self.rows_K + other.rows_K,
            self.missing_K + other.missing_K,
            self.extra_K + other.extra_K,
            [*self.row_ids, *other.row_ids],
        )


def schedule_of(sampling: Stage2Sampling) -> tuple[CurriculumPhase, ...]:
    """Return the phases of the curriculum; without one, a single phase of all rows."""
    if sampling.curriculum_learning:
        return sampling.difficulty_schedule
    return (CurriculumPhase(epoch_range=(0.0, 1.0), difficulty_weights={ALL_ROWS: 1.0}),)


def epoch_starts(total_rows: int, rows_per_epoch: int) -> list[int]:
    """Return where every epoch begins, and the end: 7 rows in epochs of 3 -> [0, 3, 6, 7]."""
    return [*range(0, total_rows, rows_per_epoch), total_rows]


def draw_phases(wanted: RowDraw, schedule: Sequence[CurriculumPhase], seed: int) -> list[PhaseTally]:
    """Walk the epochs; in each, allot its part of every phase, draw once per bin, and deal the draw to the phases."""
    pool, starts = wanted.pool, wanted.phase_starts
    tallies = [PhaseTally.empty(len(pool.bins)) for _ in schedule]
    for epoch, (start, end) in enumerate(pairwise(wanted.epoch_starts)):
        left_K, given = pool.num_rows_by_bin, []
        for place, phase in enumerate(schedule):
            num_rows = max(0, min(end, starts[place + 1]) - max(start, starts[place]))
            weights_K = np.array([phase.difficulty_weights.get(name, 0.0) for name in pool.bins])
            wanted_K = largest_remainder(num_rows, weights_K)
            given_K = allot(wanted_K, weights_K, left_K)
            left_K = left_K - given_K
            given.append(given_K)
            tally = tallies[place]
            tally.wanted_K = tally.wanted_K + wanted_K
            tally.rows_K = tally.rows_K + given_K
            tally.missing_K = tally.missing_K + np.maximum(wanted_K - given_K, 0)
            tally.extra_K = tally.extra_K + np.maximum(given_K - wanted_K, 0)
        _deal(wanted, given, epoch, seed, tallies)
    return tallies


def _deal(wanted: RowDraw, given: Sequence[Int64], epoch: int, seed: int, tallies: Sequence[PhaseTally]) -> None:
    """Draw an epoch's rows of each bin and append each phase's share, shuffled across bins."""
    pool = wanted.pool
    ends_SK = np.cumsum(np.stack(given), axis=0)
    drawn = [
        draw(rows, int(total), seed, *wanted.label, "rows", epoch, name)
        for name, rows, total in zip(pool.bins, pool.row_ids_by_bin, ends_SK[-1], strict=True)
    ]
    for place, (end_K, given_K) in enumerate(zip(ends_SK, given, strict=True)):
        parts = [rows[end - num : end] for rows, end, num in zip(drawn, end_K, given_K, strict=True)]
        tallies[place].row_ids.append(shuffled(np.concatenate(parts), seed, *wanted.label, "order", epoch, place))


def rows_in_order(tallies: Sequence[PhaseTally]) -> Int64:
    """Return the rows of a draw, phase after phase."""
    return np.concatenate([rows for tally in tallies for rows in tally.row_ids]).astype(np.int64)


def largest_remainder(total: int, weights_K: npt.NDArray[np.float64]) -> Int64:
    """Split `total` in proportion to the weights: floors first, the rest to the largest fractions, ties to the first.

    The parts sum to `total` exactly and a weight of 0 gets 0. Example: 10 over [0.7, 0.25, 0.05] -> [7, 3, 0].
    """
    shares_K = total * weights_K / weights_K.sum()
    parts_K: Int64 = np.floor(shares_K).astype(np.int64)
    fractions_K = np.where(weights_K > 0, shares_K - parts_K, -1.0)
    parts_K[np.argsort(-fractions_K, kind="stable")[: total - int(parts_K.sum())]] += 1
    return parts_K


def allot(wanted_K: Int64, weights_K: npt.NDArray[np.float64], available_K: Int64) -> Int64:
    """Give every bin the rows it wants as far as it has them; the other bins supply what exhausted bins lack.

    The missing rows are shared by weight among the bins that this phase weighs and that have rows left; when all of
    those are dry, by rows left among all bins. Needs sum(wanted) <= sum(available). Example: wanted [6, 4, 0] by
    weights [0.6, 0.4, 0], available [2, 5, 9] -> [2, 5, 3].
    """
    assert wanted_K.sum() <= available_K.sum()
    given_K = np.minimum(wanted_K, available_K)
    while (missing := int(wanted_K.sum() - given_K.sum())) > 0:
        spare_K = available_K - given_K
        shares_K = np.where(spare_K > 0, weights_K, 0.0)
        if shares_K.sum() == 0.0:
            shares_K = spare_K.astype(np.float64)
        given_K = given_K + np.minimum(largest_remainder(missing, shares_K), spare_K)
    return given_K


def planned_phases(
    index: RowIndex,
    bins: Sequence[str],
    schedule: Sequence[CurriculumPhase],
    tallies: Sequence[PhaseTally],
    boundaries: Sequence[int],
) -> tuple[PlannedPhase, ...]:
    """Describe the phases; `boundaries` are their steps, one more than there are phases."""
    return tuple(
        PlannedPhase(
            name=f"phase {place + 1} ({phase.epoch_range[0]:.4g} to {phase.epoch_range[1]:.4g})",
            start_step=boundaries[place],
            end_step=boundaries[place + 1],
            rows_by_bin=_by_bin(bins, tally.rows_K),
            wanted_rows_by_bin=_by_bin(bins, tally.wanted_K),
            weights={name: float(phase.difficulty_weights.get(name, 0.0)) for name in bins},
            tokens=sum(int(index.num_tokens_R[rows].sum(dtype=np.int64)) for rows in tally.row_ids),
        )
        for place, (phase, tally) in enumerate(zip(schedule, tallies, strict=True))
    )


def dry_warnings(phases: Sequence[PlannedPhase], tallies: Sequence[PhaseTally], rows: str = "rows") -> tuple[str, ...]:
    """Say of every bin that had too few rows where the others came from; `rows` is what the rows are called."""
    pairs = zip(phases, tallies, strict=True)
    return tuple(text for phase, tally in pairs for text in _dry_warnings(phase, tally, rows))


def _dry_warnings(phase: PlannedPhase, tally: PhaseTally, rows: str) -> list[str]:
    bins = list(phase.weights)
    extra = {name: more for name, more in _by_bin(bins, tally.extra_K).items() if more}
    sources = ", ".join(f"{name} (+{more:,})" for name, more in extra.items())
    unasked = ", ".join(name for name in extra if phase.weights[name] == 0.0)
    note = f"; {unasked}: weight 0 in this phase, but every bin with a weight is dry" if unasked else ""
    return [
        f'{phase.name}: bin "{name}" wanted {wanted:,} {rows} and only {wanted - int(missing):,} were available; '
        f"the rest came from {sources}{note}"
        for (name, wanted), missing in zip(_by_bin(bins, tally.wanted_K).items(), tally.missing_K, strict=True)
        if missing
    ]


def _by_bin(bins: Sequence[str], rows_K: Int64) -> dict[str, int]:
    return {name: int(rows) for name, rows in zip(bins, rows_K, strict=True)}
