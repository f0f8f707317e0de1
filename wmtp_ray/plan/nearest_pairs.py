"""Pairs of a correct and an incorrect row of one problem, the nearest first, by a distance that is given.

Two programs one edit apart leave a critic nothing to tell them apart by but the edit. Suffixes: N rows drawn from, P
problems, C correct and I incorrect rows of one problem.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.plan.randomness import Keys, random_keys

CANDIDATES_PER_PAIR = 4  # rows of each class that are compared for a pair that is asked for


# How far rows are apart: given the ids of correct [C] and of incorrect rows [I] of one problem, distances [C, I].
Distances = Callable[[Int64, Int64], Int64]


def match_by_distance(
    index: RowIndex, row_ids_N: Int64, num_pairs_P: Int64, distances: Distances, seed: int
) -> tuple[npt.NDArray[np.int8], Keys]:
    """Pair the nearest rows of each problem; returns each row's tier (0 paired, 2 alone) and random key.

    The two rows of a pair share their key and no other row has it. A problem that gives U pairs gets its U nearest,
    each row in one at most: pairs are taken by distance, then by difference of length, then by key. Of a problem with
    many rows `CANDIDATES_PER_PAIR` * U of each class are compared, drawn by key.
    """
    key_N = random_keys(len(row_ids_N), seed, "rows")
    tier_N = np.full(len(row_ids_N), 2, dtype=np.int8)
    problem_N, correct_N = index.problem_R[row_ids_N], index.is_correct_R[row_ids_N]
    by_problem = np.lexsort((key_N, problem_N))
    starts = np.flatnonzero(np.diff(problem_N[by_problem], prepend=-1))
    for places in np.split(by_problem, starts[1:]):
        num_pairs = int(num_pairs_P[problem_N[places[0]]]) if len(places) else 0
        if num_pairs == 0:
            continue
        limit = CANDIDATES_PER_PAIR * num_pairs
        correct, incorrect = places[correct_N[places]][:limit], places[~correct_N[places]][:limit]
        chosen = _nearest(index, row_ids_N[correct], row_ids_N[incorrect], distances)[:num_pairs]
        for c, i in chosen:
            key_N[incorrect[i]] = key_N[correct[c]]
            tier_N[correct[c]] = tier_N[incorrect[i]] = 0
    return tier_N, key_N


def _nearest(index: RowIndex, correct_C: Int64, incorrect_I: Int64, distances: Distances) -> list[tuple[int, int]]:
    """Pair places greedily, the nearest pair first, until one class has no row left."""
    distance_CI = distances(correct_C, incorrect_I)
    length_C, length_I = (index.response_tokens_R[rows].astype(np.int64) for rows in (correct_C, incorrect_I))
    unequal_CI = np.abs(length_C[:, None] - length_I[None, :])
    order = np.lexsort((unequal_CI.ravel(), distance_CI.ravel()))
    pairs: list[tuple[int, int]] = []
    free_C, free_I = set(range(len(correct_C))), set(range(len(incorrect_I)))
    for c, i in zip(*np.unravel_index(order, distance_CI.shape), strict=True):
        if c in free_C and i in free_I:
            pairs.append((int(c), int(i)))
            free_C.remove(c)
            free_I.remove(i)
        if not (free_C and free_I):
            break
    return pairs
