"""Which rows of an index a stage may draw from, and which problems are held out.

The split is by problem, never by row: two answers to one problem share its text, so a row-wise split would let a
critic pass by memory. Draws no rows for training but the cap per problem; `curriculum` and `stage1` do. Suffixes:
R rows, P problems, C candidates, N rows given, B buckets of keys.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from wmtp_ray.config.sampling import Language, ProblemClass
from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.errors import DataError, PlanError
from wmtp_ray.plan.problem_classes import class_of_problems, codes_of, require_rows_of
from wmtp_ray.plan.randomness import random_keys

LANGUAGES: tuple[Language, ...] = get_args(Language)  # a language's place is its code in `language_R`


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


def candidate_rows(
    index: RowIndex,
    *,
    held_out_P: Bool,
    max_tokens: int,
    correct_only: bool,
    languages: Sequence[Language] | None,
    problem_classes: Sequence[ProblemClass] | None = None,
) -> Candidates:
    """Filter the index: held-out problems, other languages, incorrect rows (if asked), other classes of problems, rows
    of too many tokens.

    None keeps all languages or classes. Raises PlanError when the classes take every row that was left, DataError when
    a row that passed all but the last filter has no token counts.
    """
    left_out: dict[str, int] = {}
    keep_R = np.ones(len(index), dtype=np.bool_)

    def drop(reason: str, dropped_R: Bool) -> None:
        dropped_R &= keep_R
        left_out[reason] = int(dropped_R.sum())
        np.logical_and(keep_R, ~dropped_R, out=keep_R)

    drop("in held-out problems (data.valid_problems_frac)", held_out_P[index.problem_R])
    if languages is not None:
        drop("in another language (data.languages)", ~rows_in_languages(index, languages))
    if correct_only:
        drop("incorrect (data.policy_rows=correct_only)", ~index.is_correct_R)
    if problem_classes is not None:
        class_R = class_of_problems(index, rows_in_languages(index, languages))[index.problem_R]
        require_rows_of(problem_classes, class_R[keep_R], index_rows=len(index), left_out=left_out)
        drop(
            "of problems of another class (train.sampling.problem_classes)",
            ~np.isin(class_R, codes_of(problem_classes)),
        )
    num_uncounted = int((keep_R & ((index.prompt_tokens_R < 0) | (index.response_tokens_R < 0))).sum())
    if num_uncounted:
        raise DataError(
            f"{num_uncounted:,} of {len(index):,} rows of the index of {index.path} have no token counts; a plan needs "
            "them to fill batches: build the index again with this run's tokenizer (`wmtp data index`)"
        )
    drop(f"over {max_tokens:,} tokens (data.max_tokens)", index.num_tokens_R > max_tokens)
    return Candidates(row_ids_C=np.flatnonzero(keep_R).astype(np.int64, copy=False), left_out=left_out)


def rows_in_languages(index: RowIndex, languages: Sequence[Language] | None) -> Bool:
    """Say of each row whether it is in one of the languages, [R]; None: all are."""
    if languages is None:
        return np.ones(len(index), dtype=np.bool_)
    return np.isin(index.language_R, [LANGUAGES.index(language) for language in languages])


def within_problem_cap(index: RowIndex, row_ids_N: Int64, max_rows_per_problem: int, seed: int) -> Bool:
    """Draw at most so many rows of each problem; returns which of `row_ids_N` they are, [N].

    Each row gets a random key and a problem keeps the smallest. Counting keys by their first bits tells which of these
    buckets a problem keeps whole, so that only the one bucket where its cap falls is sorted. A problem of cap 5 with
    4, 3 and 2 rows in its buckets keeps the first, one row of the second and none of the third.
    """
    num_problems = len(index.problem_names)
    bits = max(1, (len(row_ids_N) // max(num_problems, 1)).bit_length() - 3)  # a few rows in a bucket
    key_N = random_keys(len(row_ids_N), seed, "problem cap")
    bucket_N = (key_N >> np.uint64(64 - bits)).astype(np.int64)
    bucket_N += index.problem_R[row_ids_N].astype(np.int64) << bits
    num_rows_PB = np.bincount(bucket_N, minlength=num_problems << bits).reshape(num_problems, 1 << bits)
    before_PB = np.cumsum(num_rows_PB, axis=1) - num_rows_PB
    room_PB = np.clip(max_rows_per_problem - before_PB, 0, num_rows_PB)
    keep_N: Bool = (room_PB == num_rows_PB).ravel()[bucket_N]
    split = np.flatnonzero(((room_PB > 0) & (room_PB < num_rows_PB)).ravel()[bucket_N])
    split = split[np.lexsort((key_N[split], bucket_N[split]))]
    rank = np.arange(len(split)) - np.searchsorted(bucket_N[split], bucket_N[split])
    keep_N[split[rank < room_PB.ravel()[bucket_N[split]]]] = True
    return keep_N


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
