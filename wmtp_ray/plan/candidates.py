"""Which rows of an index a stage may draw from, and which problems are held out.

The split is by problem, never by row: two answers to one problem share its text, so a row-wise split would let a
critic pass by memory. Draws nothing for training; `curriculum` and `stage1` do. Suffixes: R rows, P problems,
C candidates.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wmtp_ray.contracts import Bool, Int16, Int64, RowIndex
from wmtp_ray.errors import DataError, PlanError


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows that passed every filter, ascending, and how many each filter took (a row counts at its first filter)."""

    row_ids_C: Int64
    left_out: Mapping[str, int]


def held_out_problems(index: RowIndex, held_out_frac: float, seed: int) -> Bool:
    """Choose the problems kept from training, [P] over `index.problem_names`.

    A problem is held out when the hash of (seed, its name) falls below `held_out_frac`, so rows or problems added later
    move none. The share is therefore met on average only; with two problems or more at least one is held out (when
    the fraction is above 0) and at least one is not.
    """
    num_problems = len(index.problem_names)
    held_out_P = np.zeros(num_problems, dtype=np.bool_)
    if held_out_frac <= 0.0 or num_problems < 2:
        return held_out_P
    hash_P = np.array([_hash_of_problem(name, seed) for name in index.problem_names], dtype=np.uint64)
    held_out_P = hash_P.astype(np.float64) / 2.0**64 < held_out_frac
    held_out_P[np.argmin(hash_P)] = True
    held_out_P[np.argmax(hash_P)] = False
    return held_out_P


def _hash_of_problem(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()[:8], "little")


def candidate_rows(index: RowIndex, *, held_out_P: Bool, max_tokens: int, correct_only: bool) -> Candidates:
    """Filter the index: held-out problems, then (if asked) incorrect rows, then rows of more than `max_tokens` tokens.

    Raises DataError when a row that passed the first two has no token counts.
    """
    left_out: dict[str, int] = {}
    keep_R = np.ones(len(index), dtype=np.bool_)

    def drop(reason: str, dropped_R: Bool) -> None:
        dropped_R &= keep_R
        left_out[reason] = int(dropped_R.sum())
        np.logical_and(keep_R, ~dropped_R, out=keep_R)

    drop("in held-out problems (data.valid_problems_frac)", held_out_P[index.problem_R])
    if correct_only:
        drop("incorrect (data.policy_rows=correct_only)", ~index.is_correct_R)
    num_uncounted = int((keep_R & ((index.prompt_tokens_R < 0) | (index.response_tokens_R < 0))).sum())
    if num_uncounted:
        raise DataError(
            f"{num_uncounted:,} of {len(index):,} rows of the index of {index.path} have no token counts; a plan needs "
            "them to fill batches: build the index again with this run's tokenizer (`wmtp data index`)"
        )
    drop(f"over {max_tokens:,} tokens (data.max_tokens)", index.num_tokens_R > max_tokens)
    return Candidates(row_ids_C=np.flatnonzero(keep_R).astype(np.int64, copy=False), left_out=left_out)


def rows_by_difficulty(difficulty_N: Int16) -> dict[int, int]:
    """Count rows per raw difficulty, ascending."""
    values, counts = np.unique(difficulty_N, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def describe_difficulties(rows: Mapping[int, int], *, first_of_tail: int = 12) -> str:
    """Describe counts per raw difficulty in one line, e.g. "0: 1,512,000; 12+: 30,412"."""
    parts = [f"{difficulty}: {count:,}" for difficulty, count in sorted(rows.items()) if difficulty < first_of_tail]
    tail = sum(count for difficulty, count in rows.items() if difficulty >= first_of_tail)
    return "; ".join([*parts, f"{first_of_tail}+: {tail:,}"] if tail else parts)


def require_a_batch(
    num_rows: int, batch_rows: int, *, section: str, left_out: Mapping[str, int], index_rows: int, remedy: str
) -> None:
    """Raise PlanError when the rows that remain do not fill one step; `section` is "train" or "critic_stage"."""
    if num_rows >= batch_rows:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    remain = "row remains" if num_rows == 1 else "rows remain"
    raise PlanError(
        f"{section}.batch_rows={batch_rows} but only {num_rows:,} {remain} of {index_rows:,}"
        f"{' after leaving out: ' + reasons if reasons else ''}; a step needs {batch_rows}: "
        f"lower {section}.batch_rows, {remedy}, or give more data"
    )
