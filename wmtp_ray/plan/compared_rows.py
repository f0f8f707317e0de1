"""Which rows of its problem a row is compared with, where a weighting asks what sets correct and incorrect rows apart.

A function of the indexes, configuration and seed: neither ranks nor steps change it, so a resumed run compares the same
rows. Suffixes: R rows of an index, P problems, N rows given.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wmtp_ray.config.schema import DataConfig
from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import rows_in_languages
from wmtp_ray.plan.randomness import draw

MAX_COMPARED = 16  # rows of each class, at most: what a row costs to read


@dataclass(frozen=True, eq=False)
class ComparedRows:
    """The rows of `source` that the rows of `index` may be compared with, by the names of their problems.

    `is_compared_R` speaks of the source's rows. Of a problem with many of them `MAX_COMPARED` of each class are
    compared, drawn by `seed` and the problem's name. Nothing is read of a problem that no row is asked for.
    """

    index: RowIndex
    source: RowIndex
    is_compared_R: Bool
    seed: int

    @classmethod
    def of_run(cls, index: RowIndex, source: RowIndex | None, data: DataConfig, seed: int) -> "ComparedRows":
        """Keep the rows that stage 2 could draw, of either class: by language and length. None: those of the index."""
        source = source or index
        kept_R = rows_in_languages(source, data.languages) & (source.num_tokens_R <= data.max_tokens)
        return cls(index, source, kept_R, seed)

    def of_row(self, row: int) -> Int64:
        """Return the source's rows, ascending and of both classes, that a row of the index is compared with.

        Of the same file it is never compared with itself.
        """
        problem = int(self._problem_in_source_P[self.index.problem_R[row]])
        start, stop = np.searchsorted(self._problem_of_sorted, [problem, problem + 1])
        rows = self._by_problem[start:stop]
        drawn = [self._drawn(rows[self.source.is_correct_R[rows] == label], problem) for label in (True, False)]
        found = np.sort(np.concatenate(drawn))
        others: Int64 = found[found != row] if self.source is self.index else found
        return others

    def has_other(self, row_ids_N: Int64) -> Bool:
        """Say of each row whether its problem has a row of the other class that it may be compared with, [N]."""
        problem_N = self._problem_in_source_P[self.index.problem_R[row_ids_N]]
        found_N: Bool = (problem_N >= 0) & np.where(
            self.index.is_correct_R[row_ids_N], self._has_row_of(False)[problem_N], self._has_row_of(True)[problem_N]
        )
        return found_N

    def _has_row_of(self, label: bool) -> Bool:
        rows = self.is_compared_R & (self.source.is_correct_R == label)
        has_P: Bool = np.bincount(self.source.problem_R[rows], minlength=len(self.source.problem_names)) > 0
        return has_P

    def _drawn(self, rows: Int64, problem: int) -> Int64:
        if len(rows) <= MAX_COMPARED:
            return rows
        return draw(rows, MAX_COMPARED, self.seed, "compared rows", self.source.problem_names[problem])

    @cached_property
    def _problem_in_source_P(self) -> Int64:
        """The source's code of each problem of the index, -1 where it has no row of it."""
        if self.source is self.index:
            return np.arange(len(self.index.problem_names))
        codes = {name: code for code, name in enumerate(self.source.problem_names)}
        return np.array([codes.get(name, -1) for name in self.index.problem_names], dtype=np.int64)

    @cached_property
    def _by_problem(self) -> Int64:
        rows = np.flatnonzero(self.is_compared_R)
        by_problem: Int64 = rows[np.argsort(self.source.problem_R[rows], kind="stable")].astype(np.int64, copy=False)
        return by_problem

    @cached_property
    def _problem_of_sorted(self) -> Int64:
        problems: Int64 = self.source.problem_R[self._by_problem].astype(np.int64)
        return problems


def require_others(compared: ComparedRows, row_ids_P: Int64, *, weighting: str) -> float:
    """Return the share of planned rows with a row of the other class to compare with; PlanError when it is 0."""
    found = float(compared.has_other(row_ids_P).mean())
    if found == 0.0:
        raise PlanError(
            f"weighting.type={weighting} compares each row with the nearest of the other class of its problem, but of "
            f"the {len(np.unique(row_ids_P)):,} rows that stage 2 draws none has one in {compared.source.path}: give "
            "a file of problems with correct and incorrect rows (`wmtp data inspect` counts them) as "
            "weighting.compared_file or data.train_file, let data.languages or data.max_tokens keep more rows, or "
            "choose another weighting.type"
        )
    return found
