"""Classes of problems by the labels of their rows: both labels, correct rows only, incorrect rows only.

They decide whether weighting can help: where every problem has correct rows, training on these alone is hard to beat.
A class is a problem's, over all of its rows in the languages of a run, held out or not and of any length: what
`wmtp data inspect` counts is what a plan draws from. Suffixes: R rows, P problems, N rows given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from wmtp_ray.config.sampling import ProblemClass
from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.errors import PlanError

PROBLEM_CLASSES: tuple[ProblemClass, ...] = get_args(ProblemClass)  # a class's place is its code
NO_ROW = -1  # the code of a problem that has no row in the languages

ClassCodes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ClassCounts:
    """The problems of one class, and their rows in the languages."""

    num_problems: int
    num_rows: int


def class_of_problems(index: RowIndex, counted_R: Bool) -> ClassCodes:
    """Return each problem's class by the rows that count, as its place in PROBLEM_CLASSES, or NO_ROW, [P]."""
    return _classes(*_rows_by_label(index, counted_R))


def codes_of(problem_classes: Sequence[ProblemClass]) -> list[int]:
    """Return the codes of classes."""
    return [PROBLEM_CLASSES.index(name) for name in problem_classes]


def count_classes(index: RowIndex, counted_R: Bool) -> dict[ProblemClass, ClassCounts]:
    """Count problems and rows of every class, by the rows that count."""
    correct_P, incorrect_P = _rows_by_label(index, counted_R)
    class_P, rows_P = _classes(correct_P, incorrect_P), correct_P + incorrect_P
    return {
        name: ClassCounts(int((class_P == code).sum()), int(rows_P[class_P == code].sum()))
        for code, name in enumerate(PROBLEM_CLASSES)
    }


def require_rows_of(
    problem_classes: Sequence[ProblemClass], class_N: ClassCodes, *, index_rows: int, left_out: Mapping[str, int]
) -> None:
    """Raise PlanError when none of the rows that earlier filters left is of the classes; `class_N` are theirs."""
    if np.isin(class_N, codes_of(problem_classes)).any():
        return
    found = ", ".join(f"{(class_N == code).sum():,} of {name}" for code, name in enumerate(PROBLEM_CLASSES))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    raise PlanError(
        f"train.sampling.problem_classes=[{', '.join(problem_classes)}] leaves no row: of {index_rows:,} rows"
        f"{f', after leaving out {reasons},' if reasons else ''} {len(class_N):,} remain, by the class of their "
        f"problem: {found}; name a class that has rows, give null for all, or let an earlier filter keep more"
    )


def _rows_by_label(index: RowIndex, counted_R: Bool) -> tuple[Int64, Int64]:
    """Numbers of correct and of incorrect rows, [P] each."""
    num_problems = len(index.problem_names)
    correct_P = np.bincount(index.problem_R[counted_R & index.is_correct_R], minlength=num_problems)
    incorrect_P = np.bincount(index.problem_R[counted_R & ~index.is_correct_R], minlength=num_problems)
    return correct_P, incorrect_P


def _classes(correct_P: Int64, incorrect_P: Int64) -> ClassCodes:
    has_correct_P, has_incorrect_P = correct_P > 0, incorrect_P > 0
    masks: dict[ProblemClass, Bool] = {
        "both": has_correct_P & has_incorrect_P,
        "only_correct": has_correct_P & ~has_incorrect_P,
        "only_incorrect": ~has_correct_P & has_incorrect_P,
    }
    class_P = np.full(len(correct_P), NO_ROW, np.int8)
    for code, name in enumerate(PROBLEM_CLASSES):
        class_P[masks[name]] = code
    return class_P
