"""How programs differ, token by token: the edit distance, the nearest of several programs, the tokens that differ.

The distance is Levenshtein's over tokens (insert, delete, replace: 1 each), as rapidfuzz computes it. Programs are
responses as token sequences, end of sequence included. T tokens of the one program, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from wmtp_ray.contracts import Bool, Int32, Int64, RowIndex
from wmtp_ray.data.tokenizer import CodeTokenizer, read_indexed


def edit_distance(one: Int32, other: Int32) -> int:
    """Return the least number of tokens to insert, delete or replace that makes one program the other."""
    return int(Levenshtein.distance(one.tolist(), other.tolist()))


def nearest(own: Int32, others: Sequence[Int32]) -> int:
    """Return the place among `others` of the program with the smallest edit distance to `own`.

    Of equally near ones it is the one of the nearest length, then the first. ValueError when there are none.
    """
    tokens = own.tolist()
    best, best_key = -1, (len(own) + max(map(len, others), default=0) + 1, 0)
    for place, other in enumerate(others):
        distance = Levenshtein.distance(tokens, other.tolist(), score_cutoff=best_key[0])
        key = (distance, abs(len(own) - len(other)))
        if key < best_key:
            best, best_key = place, key
    if best < 0:
        raise ValueError("no program to compare with: expected at least one")
    return best


def differing_tokens(own: Int32, other: Int32) -> Bool:
    """Say of each token of `own` whether the shortest edit replaces or deletes it on the way to `other`, [T].

    [1 2 3 9] against [1 5 6 3 9] differs in [2]. Tokens that `other` has more leave no mark in `own`.
    """
    differs_T = np.zeros(len(own), dtype=np.bool_)
    for edit in Levenshtein.opcodes(own.tolist(), other.tolist()):
        if edit.tag != "equal":
            differs_T[edit.src_start : edit.src_end] = True
    return differs_T


def first_difference(own: Int32, other: Int32) -> int:
    """Return the first place where the programs differ: the length of the shorter one where it begins the other."""
    shorter = min(len(own), len(other))
    differs = np.flatnonzero(own[:shorter] != other[:shorter])
    return int(differs[0]) if len(differs) else shorter


@dataclass(frozen=True)
class EditDistances:
    """Edit distances between the responses of an index's rows, read from its file as they are asked for."""

    index: RowIndex
    tokenizer: CodeTokenizer

    def __call__(self, rows_M: Int64, others_N: Int64) -> Int64:
        """Return the distance of every row to every other, [M, N]."""
        programs, others = (
            [tokens.tolist() for tokens in read_responses(self.index, rows, self.tokenizer)]
            for rows in (rows_M, others_N)
        )
        return process.cdist(programs, others, scorer=Levenshtein.distance, dtype=np.int64)


def read_responses(index: RowIndex, row_ids_N: Int64, tokenizer: CodeTokenizer) -> list[Int32]:
    """Read the responses of rows as tokens, in the order given; raises DataError as `read_rows` does."""
    examples = read_indexed(index, row_ids_N, tokenizer)
    return [example.tokens_T[example.prompt_tokens :] for example in examples]
