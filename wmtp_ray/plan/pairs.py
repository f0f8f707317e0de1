"""Rows drawn within problems, correct and incorrect side by side: for the critic's pretraining and its health.

A critic that sees problems of different base rates, or correct programs that are shorter, learns the problem or the
length instead of the program. So correct and incorrect rows come from the same problem, matched by length where
possible, or by the edits between them (`nearest_pairs.py`), at most `max_rows_per_problem` of each. Suffixes: N rows
drawn from, P problems, U pairs.

Matching by length, for the rows of one problem sorted by response length: going through them, a row is paired with the
nearest earlier row of the other class that is still free. c and i are correct and incorrect rows:

    tokens  10 12 15 40 41 90
    class    c  c  i  i  c  i     pairs: (12, 15), (10, 40), (41, 90); of about equal length: none
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.plan.nearest_pairs import Distances, match_by_distance
from wmtp_ray.plan.randomness import Keys, draw, random_keys, shuffled

EQUAL_LENGTH_FRAC = 0.1  # a pair counts as length-matched when its lengths differ by at most this share of the longer


@dataclass(frozen=True, eq=False)
class WithinProblemDraw:
    """Pairs (correct row, incorrect row) of one problem each, and rows without a partner."""

    pairs_U2: Int64
    singles_N: Int64
    num_length_matched_pairs: int

    @property
    def num_rows(self) -> int:
        return self.pairs_U2.size + len(self.singles_N)

    def ordered(self, seed: int, epoch: int) -> Int64:
        """Return all rows in the order of an epoch: pairs shuffled, a pair's rows adjacent, correct first.

        Pairs start at even places, so that no pair spans two steps of an even number of rows: singles are dealt out
        by twos, and one left over by that stands last.
        """
        singles_N = shuffled(self.singles_N, seed, "singles", epoch)
        num_twos = len(singles_N) // 2
        units_U2 = np.concatenate([self.pairs_U2, singles_N[: 2 * num_twos].reshape(-1, 2)])
        return np.concatenate([shuffled(units_U2, seed, "order", epoch).reshape(-1), singles_N[2 * num_twos :]])


def rows_of_two_sided_problems(index: RowIndex, row_ids_N: Int64) -> Int64:
    """Keep the rows whose problem has a correct and an incorrect row among `row_ids_N`."""
    problem_N, correct_N = index.problem_R[row_ids_N], index.is_correct_R[row_ids_N]
    num_problems = len(index.problem_names)
    two_sided_P = (np.bincount(problem_N[correct_N], minlength=num_problems) > 0) & (
        np.bincount(problem_N[~correct_N], minlength=num_problems) > 0
    )
    return row_ids_N[two_sided_P[problem_N]]


def draw_balanced(
    index: RowIndex,
    row_ids_N: Int64,
    *,
    num_rows: int,
    correct_ratio: float,
    max_rows_per_problem: int,
    seed: int,
    distances: Distances | None = None,
) -> WithinProblemDraw:
    """Draw correct and incorrect rows of the same problems, round-robin over problems until `num_rows`.

    At ratio 0.5 a problem gives whole pairs, so an odd `num_rows` or cap is rounded down. At another ratio it gives
    single rows besides, and the ratio holds over problems together (each problem rounds up or down at random).
    Length-matched pairs are preferred or, with `distances`, the nearest ones. Problems with one class give nothing.
    """
    row_ids_N = rows_of_two_sided_problems(index, row_ids_N)
    problem_N, correct_N = index.problem_R[row_ids_N], index.is_correct_R[row_ids_N]
    num_problems = len(index.problem_names)
    rows_at_a_time = 2 if correct_ratio == 0.5 else 1
    rounding_P = np.zeros(num_problems)
    if rows_at_a_time == 1:
        rounding_P = random_keys(num_problems, seed, "ratio").astype(np.float64) / 2.0**64
    num_correct_P = np.bincount(problem_N[correct_N], minlength=num_problems)
    num_incorrect_P = np.bincount(problem_N[~correct_N], minlength=num_problems)
    limit_P = np.minimum(
        np.ceil((num_correct_P + 1 - rounding_P) / correct_ratio).astype(np.int64) - 1,
        np.floor((num_incorrect_P + rounding_P) / (1 - correct_ratio)).astype(np.int64),
    )
    limit_P = np.where(num_correct_P > 0, np.minimum(limit_P, max_rows_per_problem), 0)
    taken_P = round_robin(limit_P, num_rows, rows_at_a_time, seed)
    correct_P = np.minimum(np.floor(correct_ratio * taken_P + rounding_P).astype(np.int64), num_correct_P)
    incorrect_P = np.minimum(taken_P - correct_P, num_incorrect_P)
    if distances is None:
        tier_N, key_N = _match_by_length(index, row_ids_N, seed)
    else:
        tier_N, key_N = match_by_distance(index, row_ids_N, np.minimum(correct_P, incorrect_P), distances, seed)
    pairs_U2, singles_N = _take(row_ids_N, problem_N, correct_N, tier_N, key_N, correct_P, incorrect_P)
    is_unequal_U = _is_unequal(*index.response_tokens_R[pairs_U2].astype(np.int64).T)
    return WithinProblemDraw(pairs_U2, singles_N, num_length_matched_pairs=int((~is_unequal_U).sum()))


def draw_unbalanced(
    index: RowIndex, row_ids_N: Int64, *, num_rows: int, max_rows_per_problem: int, seed: int
) -> WithinProblemDraw:
    """Draw rows whatever their class, round-robin over problems until `num_rows`; no pairs."""
    problem_N = index.problem_R[row_ids_N]
    limit_P = np.minimum(np.bincount(problem_N, minlength=len(index.problem_names)), max_rows_per_problem)
    taken_P = round_robin(limit_P, num_rows, 1, seed)
    order_N = np.lexsort((random_keys(len(row_ids_N), seed, "rows"), problem_N))
    chosen_N = row_ids_N[order_N[_rank_within(problem_N[order_N]) < taken_P[problem_N[order_N]]]]
    return WithinProblemDraw(np.empty((0, 2), dtype=np.int64), chosen_N, 0)


def round_robin(limit_P: Int64, total: int, rows_at_a_time: int, seed: int) -> Int64:
    """Take `rows_at_a_time` rows of every problem in turn until `total` is reached; returns rows per problem.

    A problem gives at most its limit; both are rounded down to whole turns. In the last round, which problems still
    give is drawn. Example: limits [2, 8, 5], total 10, 2 at a time -> [2, 4, 4].
    """
    limit_P, left = limit_P // rows_at_a_time, total // rows_at_a_time
    low, high = 0, int(limit_P.max(initial=0))
    while low < high:  # the most full rounds that do not exceed the total
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(limit_P, middle).sum() <= left else (low, middle - 1)
    taken_P = np.minimum(limit_P, low)
    unfinished = np.flatnonzero(limit_P > low)
    num_last = min(left - int(taken_P.sum()), len(unfinished))
    taken_P[draw(unfinished, num_last, seed, "last round")] += 1
    return taken_P * rows_at_a_time


def _match_by_length(index: RowIndex, row_ids_N: Int64, seed: int) -> tuple[npt.NDArray[np.int8], Keys]:
    """Pair correct with incorrect rows; returns each row's tier (0 matched, 1 paired, 2 alone) and random key.

    The two rows of a pair share their key and no other row has it. Pairing is that of brackets: along a problem's rows
    by length, (correct - incorrect) so far is a height; a row steps between two heights, and the steps across
    one level alternate in class, so the first is paired with the second, the third with the fourth.
    """
    problem_N = index.problem_R[row_ids_N].astype(np.int64)
    length_N = index.response_tokens_R[row_ids_N].astype(np.int64)
    by_length = np.argsort(problem_N * (int(length_N.max(initial=0)) + 1) + length_N, kind="stable")
    problem_N, length_N = problem_N[by_length], length_N[by_length]
    correct_N = index.is_correct_R[row_ids_N][by_length]
    # One cumulative sum serves all problems, so each problem's starting height is subtracted again.
    height_N = np.cumsum(np.where(correct_N, 1, -1))
    starts = np.flatnonzero(np.diff(problem_N, prepend=-1))
    start_height_N = np.repeat(np.concatenate([[0], height_N])[starts], np.diff(starts, append=len(problem_N)))
    level_N = height_N - start_height_N - correct_N
    span = 2 * len(problem_N) + 1
    step_N = problem_N * span + level_N + len(problem_N)
    by_level = np.argsort(step_N, kind="stable")
    rank_N = _rank_within(step_N[by_level])
    second = np.flatnonzero(rank_N % 2 == 1)
    first_row, second_row = by_level[second - 1], by_level[second]

    key_N = random_keys(len(row_ids_N), seed, "rows")
    key_N[second_row] = key_N[first_row]
    tier_N = np.full(len(row_ids_N), 2, dtype=np.int8)
    tier_N[first_row] = tier_N[second_row] = _is_unequal(length_N[first_row], length_N[second_row])
    in_given_order_tier, in_given_order_key = np.empty_like(tier_N), np.empty_like(key_N)
    in_given_order_tier[by_length], in_given_order_key[by_length] = tier_N, key_N
    return in_given_order_tier, in_given_order_key


def _is_unequal(length_U: Int64, other_length_U: Int64) -> Bool:
    """Say of each pair of lengths whether they differ by more than `EQUAL_LENGTH_FRAC` of the longer."""
    longer_U = np.maximum(length_U, other_length_U)
    is_unequal_U: Bool = np.abs(length_U - other_length_U) > EQUAL_LENGTH_FRAC * longer_U
    return is_unequal_U


def _take(
    row_ids_N: Int64,
    problem_N: npt.NDArray[np.int32],
    correct_N: Bool,
    tier_N: npt.NDArray[np.int8],
    key_N: Keys,
    correct_P: Int64,
    incorrect_P: Int64,
) -> tuple[Int64, Int64]:
    """Return pairs [U, 2] and single rows: each problem's first of either class by tier and key, equal ranks paired."""
    num_pairs_P = np.minimum(correct_P, incorrect_P)
    paired, singles = [], []
    for rows_of_class, taken_P in ((correct_N, correct_P), (~correct_N, incorrect_P)):
        rows = np.flatnonzero(rows_of_class)
        rows = rows[np.lexsort((key_N[rows], tier_N[rows], problem_N[rows]))]
        rank = _rank_within(problem_N[rows])
        paired.append(rows[rank < num_pairs_P[problem_N[rows]]])
        singles.append(rows[(rank >= num_pairs_P[problem_N[rows]]) & (rank < taken_P[problem_N[rows]])])
    return row_ids_N[np.stack(paired, axis=1)], row_ids_N[np.concatenate(singles)]


def _rank_within(sorted_groups_N: npt.NDArray[np.signedinteger]) -> Int64:
    """Number the members of each group from 0; groups are runs of equal values. [4, 4, 7, 7, 7] -> [0, 1, 0, 1, 2]."""
    places_N = np.arange(len(sorted_groups_N), dtype=np.int64)
    is_first_N = np.ones(len(sorted_groups_N), dtype=np.bool_)
    is_first_N[1:] = sorted_groups_N[1:] != sorted_groups_N[:-1]
    return places_N - np.maximum.accumulate(np.where(is_first_N, places_N, 0))
