"""What "difficulty" means for a row: the data set's code, a rating, or a percentile; 0 = unknown in each of them.

The code is no scale and codes of different sites do not compare, so a percentile ranks a problem only among problems
of its own site that are graded in the same way. Chooses no rows. Suffixes: R rows, P problems, G ranked problems,
S scales, V distinct grades on a scale.

Percentiles of one site, where the problems a to d have ratings, e and f a grade of 1 to 5, g to i a letter (7 = A):

    problem      a    b    c    d     e   f     g   h   i
    grade      800  800 1200 2000     2   4     7   7   9
    easier       0    0    2    3     0   1     0   0   2
    tied         2    2    1    1     1   1     2   2   1
    of           4    4    4    4     2   2     3   3   3
    percentile  25   25   63   88    25  75    34  34  84     = ceil(100 * (easier + tied / 2) / of)
"""

from collections.abc import Mapping

import numpy as np

from wmtp_ray.config.sampling import UNKNOWN, DifficultySource
from wmtp_ray.contracts import Int16, Int64, RowIndex

FIRST_LETTER = 7  # raw codes from here on are letters; 1 to 5 are grades, 0 and 6 say nothing
LAST_GRADE = 5
NUM_KINDS = 3  # of scales at one site: ratings, grades, letters
GRADES = 2**15  # more than any grade, so that scale * GRADES + grade names both
FIRST_OF_TAIL = 12  # raw codes from here on are described together
# Numbers described together, first and width: ratings 800-1199, percentiles 1-25.
BANDS: Mapping[DifficultySource, tuple[int, int]] = {"cf_rating": (0, 400), "quantile": (1, 25)}


def difficulty_of_rows(index: RowIndex, source: DifficultySource) -> Int16:
    """Return each row's difficulty in the numbers of `source`, [R]; 0 is unknown.

    `raw`: the data set's code as it is. `cf_rating`: the Codeforces rating. `quantile`: the percentile, 1 to 100, of
    the row's problem among the problems of its site (`index.source_R`) on the same scale: those with a rating by
    rating, else those of raw 1 to 5 by that, else those of raw 7 and above by letter; the rest is unknown. A problem
    counts once, as the first of its rows says, even where later rows contradict it; ties share their middle rank.
    """
    if source == "raw":
        return index.difficulty_R
    if source == "cf_rating":
        return np.maximum(index.cf_rating_R, 0)
    return _percentile_of_problems(index)[index.problem_R]


def rows_by_difficulty(difficulty_N: Int16) -> dict[int, int]:
    """Count rows per difficulty, ascending."""
    values, counts = np.unique(difficulty_N, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def describe_difficulties(rows: Mapping[int, int], source: DifficultySource) -> str:
    """Describe counts per difficulty in one line.

    raw: "unknown: 1,512,000; 7: 90; 12+: 30,412"; cf_rating: "unknown: 12; 800-1199: 90"; quantile: "1-25: 40".
    """
    by_label: dict[str, int] = {}
    for difficulty, count in sorted(rows.items()):
        label = _label(difficulty, source)
        by_label[label] = by_label.get(label, 0) + count
    return "; ".join(f"{label}: {count:,}" for label, count in by_label.items())


def _label(difficulty: int, source: DifficultySource) -> str:
    if difficulty == 0:
        return UNKNOWN
    if source not in BANDS:
        return str(difficulty) if difficulty < FIRST_OF_TAIL else f"{FIRST_OF_TAIL}+"
    first, width = BANDS[source]
    low = first + (difficulty - first) // width * width
    return f"{low}-{low + width - 1}"


def _percentile_of_problems(index: RowIndex) -> Int16:
    """Rank the problems, [P] over `index.problem_names`; 0 where unknown or without a row."""
    first_row_P = np.full(len(index.problem_names), -1, dtype=np.int64)
    # Where a problem repeats, the last assignment stays: backwards, that is its first row.
    first_row_P[index.problem_R[::-1]] = np.arange(len(index) - 1, -1, -1)
    rating_P, code_P = index.cf_rating_R[first_row_P], index.difficulty_R[first_row_P]
    is_rated_P = rating_P > 0
    is_graded_P = (code_P >= 1) & (code_P <= LAST_GRADE)
    ranked_G = np.flatnonzero((first_row_P >= 0) & (is_rated_P | is_graded_P | (code_P >= FIRST_LETTER)))
    kind_P = np.where(is_rated_P, 0, np.where(is_graded_P, 1, 2))
    scale_G = index.source_R[first_row_P[ranked_G]].astype(np.int64) * NUM_KINDS + kind_P[ranked_G]
    percentile_P = np.zeros(len(first_row_P), dtype=np.int16)
    percentile_P[ranked_G] = _percentiles(scale_G, np.where(is_rated_P, rating_P, code_P)[ranked_G])
    return percentile_P


def _percentiles(scale_G: Int64, grade_G: Int16) -> Int64:
    """Return ceil(100 * (easier + tied / 2) / of), counted within each scale."""
    grades_V, place_G, tied_V = np.unique(scale_G * GRADES + grade_G, return_inverse=True, return_counts=True)
    _, first_S, scale_V = np.unique(grades_V // GRADES, return_index=True, return_inverse=True)
    before_V = np.cumsum(tied_V) - tied_V
    before_S = before_V[first_S]
    of_S = np.diff(before_S, append=len(grade_G))
    percentile_V: Int64 = -(-100 * (2 * (before_V - before_S[scale_V]) + tied_V) // (2 * of_S[scale_V]))
    return percentile_V[place_G]
