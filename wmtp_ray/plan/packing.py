"""A step's rows to ranks and micro-batches. Knows token counts only; reads no index and draws nothing.

Suffixes: N rows of one step.
"""

import heapq
from collections.abc import Sequence

import numpy as np

from wmtp_ray.contracts import Int32, Int64
from wmtp_ray.errors import PlanError


def split_step(
    num_tokens_N: Int32, num_ranks: int, micro_batch_tokens: int, *, rows_together: int = 1
) -> list[list[Int64]]:
    """Split a step into micro-batches, [rank][micro_step] -> ascending positions into the step's rows.

    Every rank gets the same number of micro-batches (collectives of sharded training need it), none is empty and none
    holds more than `micro_batch_tokens`; two ranks differ by at most one unit's tokens. A unit is `rows_together`
    consecutive rows, which always share a micro-batch. A split always exists when the units are a multiple of the
    ranks, or when the budget holds two of the longest; else PlanError may be raised.

    Example: rows of [5, 3, 4, 2, 6, 1] tokens, 2 ranks, 6 tokens a micro-batch. 21 tokens need 2 micro-batches on each
    rank (2 * 2 * 6 = 24). Longest first, each to the emptiest of the 4: {6}, {5}, {4, 1}, {3, 2}; these to the ranks:
    {6}, {4, 1} = 11 tokens and {5}, {3, 2} = 10. As positions, in plan order: [[[2, 5], [4]], [[0], [1, 3]]].
    """
    assert len(num_tokens_N) % rows_together == 0, "a step must hold whole units"
    tokens = num_tokens_N.astype(np.int64).reshape(-1, rows_together).sum(axis=1).tolist()
    _require_fit(tokens, num_ranks, micro_batch_tokens, rows_together)
    num_micro = max(1, -(-sum(tokens) // (num_ranks * micro_batch_tokens)))
    while num_micro * num_ranks <= len(tokens):
        bins = _balanced_bins(tokens, num_micro * num_ranks)
        if max(load for load, _ in bins) <= micro_batch_tokens:
            return [[_rows(units, rows_together) for units in rank] for rank in _deal_to_ranks(bins, num_ranks)]
        num_micro += 1
    raise PlanError(
        f"{len(tokens)} rows of up to {max(tokens):,} tokens cannot be split evenly over {num_ranks} ranks with "
        f"at most {micro_batch_tokens:,} tokens in a micro-batch; raise train.micro_batch_tokens, or make batch_rows "
        f"a multiple of {num_ranks * rows_together}"
    )


def deal_sequences(sequences: Sequence[Int64], num_ranks: int) -> list[list[Int64]]:
    """Deal a step's packed sequences to the ranks in turn, [rank][micro_step].

    Sequences are nearly full, so ranks are balanced whichever they get. PlanError when they do not come out even.
    """
    if len(sequences) % num_ranks:
        raise PlanError(
            f"{len(sequences)} sequences a step cannot be dealt to {num_ranks} ranks: give each rank as many; set "
            f"train.batch_sequences to a multiple of train.num_workers={num_ranks}"
        )
    return [list(sequences[rank::num_ranks]) for rank in range(num_ranks)]


def _require_fit(tokens: Sequence[int], num_ranks: int, micro_batch_tokens: int, rows_together: int) -> None:
    unit = "row" if rows_together == 1 else f"group of {rows_together} rows that must stay together"
    if len(tokens) < num_ranks:
        raise PlanError(
            f"a step of {len(tokens)} {unit}s cannot feed {num_ranks} ranks; raise batch_rows or lower num_workers"
        )
    if max(tokens) > micro_batch_tokens:
        raise PlanError(
            f"a {unit} has {max(tokens):,} tokens and train.micro_batch_tokens={micro_batch_tokens:,}; raise "
            f"train.micro_batch_tokens to {max(tokens):,} or lower data.max_tokens"
        )


def _balanced_bins(tokens: Sequence[int], num_bins: int) -> list[tuple[int, list[int]]]:
    """Fill bins greedily, longest unit first, each to the emptiest bin (ties: first place, first bin): (load, units).

    Two bins then differ by at most the longest unit, and none is empty when there are as many units as bins.
    """
    bins: list[tuple[int, list[int]]] = [(0, []) for _ in range(num_bins)]
    emptiest = [(0, place) for place in range(num_bins)]
    for unit in sorted(range(len(tokens)), key=lambda unit: (-tokens[unit], unit)):
        load, place = emptiest[0]
        bins[place][1].append(unit)
        bins[place] = (load + tokens[unit], bins[place][1])
        heapq.heapreplace(emptiest, (load + tokens[unit], place))
    return bins


def _deal_to_ranks(bins: Sequence[tuple[int, list[int]]], num_ranks: int) -> list[list[list[int]]]:
    """Deal the bins in rounds of `num_ranks`, heaviest first, the heaviest of a round to the lightest rank.

    Rank loads never differ by more than the bins do. A rank's micro-batches are then put into plan order.
    """
    heaviest_first = sorted(bins, key=lambda item: (-item[0], min(item[1])))
    ranks: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for start in range(0, len(bins), num_ranks):
        lightest_first = sorted(range(num_ranks), key=lambda rank: (loads[rank], rank))
        for rank, (load, units) in zip(lightest_first, heaviest_first[start : start + num_ranks], strict=True):
            ranks[rank].append(sorted(units))
            loads[rank] += load
    return [sorted(rank) for rank in ranks]


def _rows(units: Sequence[int], rows_together: int) -> Int64:
    first_rows = np.asarray(units, dtype=np.int64)[:, None] * rows_together
    return (first_rows + np.arange(rows_together)).reshape(-1)
