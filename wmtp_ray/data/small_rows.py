"""Which rows make the small version of a split: few problems, of each some correct and some incorrect ones.

Draws ids from an index and reads no row. Problems with rows of both classes come first, so that pairs can be made.
"""

from collections.abc import Collection

import numpy as np

from wmtp_ray.contracts import Int64, RowIndex

ROWS_PER_CLASS = 4


def draw_small(index: RowIndex, *, max_rows: int, seed: int, without: Collection[str] = ()) -> Int64:
    """Return ids of at most `max_rows` rows, ascending; empty when every problem is one of `without`.

    Of each problem up to ROWS_PER_CLASS rows of either class; the last one may be cut short, then in both classes.
    The same index and seed give the same rows.
    """
    generator = np.random.default_rng(seed)
    order_R = generator.permutation(len(index))
    by_problem_R = order_R[np.argsort(index.problem_R[order_R], kind="stable")]
    codes, starts = np.unique(index.problem_R[by_problem_R], return_index=True)
    rows_of = dict(zip(codes.tolist(), np.split(by_problem_R, starts[1:]), strict=True))
    allowed = [code for code in generator.permutation(codes).tolist() if index.problem_names[code] not in without]
    two_sided = {code for code in allowed if len(np.unique(index.is_correct_R[rows_of[code]])) == 2}
    drawn: list[int] = []
    for code in sorted(allowed, key=lambda code: code not in two_sided):
        drawn += _of_problem(index, rows_of[code], max_rows - len(drawn), is_two_sided=code in two_sided)
        if len(drawn) == max_rows:
            break
    return np.sort(np.array(drawn, np.int64))


def _of_problem(index: RowIndex, row_ids_N: Int64, room: int, *, is_two_sided: bool) -> list[int]:
    """Take correct and incorrect rows in turn."""
    if is_two_sided and room < 2:
        return []
    correct_N = index.is_correct_R[row_ids_N]
    classes = [row_ids_N[correct_N][:ROWS_PER_CLASS].tolist(), row_ids_N[~correct_N][:ROWS_PER_CLASS].tolist()]
    in_turn = [row for place in range(ROWS_PER_CLASS) for rows in classes for row in rows[place : place + 1]]
    return in_turn[:room]
