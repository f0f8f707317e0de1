"""The rows that stage 2 draws from, by difficulty bin: what remains of the candidates after bins and cap.

Draws nothing but the cap per problem. Suffixes: R rows of the index, C candidates, K bins, P planned rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wmtp_ray.config.sampling import DifficultyBins, DifficultySource, Stage2Sampling
from wmtp_ray.contracts import Bool, Int16, Int32, Int64, RowIndex
from wmtp_ray.plan.candidates import Candidates, within_problem_cap
from wmtp_ray.plan.difficulty import difficulty_of_rows, rows_by_difficulty

OVER_CAP = "over the cap of their problem (train.sampling.max_rows_per_problem)"
ALL_ROWS = "all"


@dataclass(frozen=True, eq=False)
class RowPool:
    """The candidates by bin, and the counts of rows that were left out."""

    bins: tuple[str, ...]
    row_ids_by_bin: tuple[Int32, ...]  # half the memory of what holds millions of rows
    outside_bins: dict[int, int]
    left_out: dict[str, int]

    @property
    def num_rows_by_bin(self) -> Int64:
        return np.array([len(row_ids) for row_ids in self.row_ids_by_bin], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        return int(self.num_rows_by_bin.sum())

    def where(self, chosen_R: Bool) -> "RowPool":
        """Return the pool of the chosen rows alone, by the same bins."""
        return replace(self, row_ids_by_bin=tuple(rows[chosen_R[rows]] for rows in self.row_ids_by_bin))


def row_pool(
    index: RowIndex, candidates: Candidates, sampling: Stage2Sampling, difficulty_source: DifficultySource
) -> RowPool:
    """Sort the candidates into the bins that the schedule draws from; without curriculum into one."""
    row_ids_C, left_out = candidates.row_ids_C, dict(candidates.left_out)
    if not sampling.curriculum_learning:
        return RowPool((ALL_ROWS,), (_capped(index, row_ids_C, sampling, left_out).astype(np.int32),), {}, left_out)
    difficulty_R, bins = difficulty_of_rows(index, difficulty_source), sampling.drawn_bins
    difficulty_C = difficulty_R[row_ids_C]
    codes_C = bin_of_rows(difficulty_C, bins)
    outside_bins = rows_by_difficulty(difficulty_C[codes_C < 0])
    if sampling.max_rows_per_problem is not None:
        row_ids_C = _capped(index, row_ids_C[codes_C >= 0], sampling, left_out)
        codes_C = bin_of_rows(difficulty_R[row_ids_C], bins)
    by_bin = tuple(row_ids_C[codes_C == code].astype(np.int32) for code in range(len(bins)))
    return RowPool(tuple(bins), by_bin, outside_bins, left_out)


def bin_of_rows(difficulty_R: Int16, bins: DifficultyBins) -> npt.NDArray[np.int8]:
    """Return each row's bin as its place in `bins`, -1 outside every bin. Ranges are inclusive and disjoint.

    With {low: [1, 3], medium: [4, 7]}: difficulties [0, 1, 3, 4, 9] -> [-1, 0, 0, 1, -1].
    """
    codes_R = np.full(len(difficulty_R), -1, dtype=np.int8)
    for code, (low, high) in enumerate(bins.values()):
        codes_R[(difficulty_R >= low) & (difficulty_R <= high)] = code
    return codes_R


def rows_by_bin(
    index: RowIndex, row_ids_P: Int64, *, sampling: Stage2Sampling, difficulty_source: DifficultySource
) -> dict[str, int]:
    """Count drawn rows by the bin that they were drawn from."""
    if not sampling.curriculum_learning:
        return {ALL_ROWS: len(row_ids_P)}
    bins = sampling.drawn_bins
    codes_P = bin_of_rows(difficulty_of_rows(index, difficulty_source)[row_ids_P], bins)
    counts_K = np.bincount(codes_P, minlength=len(bins))
    return {name: int(rows) for name, rows in zip(bins, counts_K, strict=True)}


def _capped(index: RowIndex, row_ids_C: Int64, sampling: Stage2Sampling, left_out: dict[str, int]) -> Int64:
    """Apply the cap per problem, if there is one, and count in `left_out` what it takes."""
    if sampling.max_rows_per_problem is None:
        return row_ids_C
    kept = row_ids_C[within_problem_cap(index, row_ids_C, sampling.max_rows_per_problem, sampling.seed)]
    left_out[OVER_CAP] = len(row_ids_C) - len(kept)
    return kept
