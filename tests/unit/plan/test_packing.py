"""Splitting a step: equal micro-batch counts, the budget, no empty one, balance, plan order."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.errors import PlanError
from wmtp_ray.plan.packing import split_step


def as_lists(split: list[list[np.ndarray]]) -> list[list[list[int]]]:
    return [[positions.tolist() for positions in rank] for rank in split]


def test_the_docstrings_example() -> None:
    split = split_step(np.array([5, 3, 4, 2, 6, 1], dtype=np.int32), 2, 6)
    assert as_lists(split) == [[[2, 5], [4]], [[0], [1, 3]]]


@given(
    tokens=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    num_ranks=st.integers(1, 4),
    budget=st.integers(50, 200),
    rows_together=st.sampled_from([1, 2]),
)
def test_every_split_keeps_the_rules(tokens: list[int], num_ranks: int, budget: int, rows_together: int) -> None:
    tokens = tokens * num_ranks * rows_together  # a multiple of the ranks: a split always exists
    budget *= rows_together
    split = as_lists(split_step(np.array(tokens, dtype=np.int32), num_ranks, budget, rows_together=rows_together))
    assert len(split) == num_ranks
    assert len({len(rank) for rank in split}) == 1
    assert sorted(row for rank in split for micro in rank for row in micro) == list(range(len(tokens)))
    for rank in split:
        assert rank == sorted(rank)
        for micro in rank:
            assert micro
            assert micro == sorted(micro)
            assert sum(tokens[row] for row in micro) <= budget
            for first in range(0, len(tokens), rows_together):
                assert sum(row in micro for row in range(first, first + rows_together)) in (0, rows_together)
    loads = [sum(tokens[row] for micro in rank for row in micro) for rank in split]
    assert max(loads) - min(loads) <= rows_together * max(tokens)


@given(data=st.data(), num_ranks=st.integers(1, 5))
def test_a_budget_of_two_rows_splits_any_step_with_a_row_for_every_rank(data: st.DataObject, num_ranks: int) -> None:
    tokens = data.draw(st.lists(st.integers(1, 30), min_size=num_ranks, max_size=24))
    split = split_step(np.array(tokens, dtype=np.int32), num_ranks, 2 * max(tokens))
    assert sum(len(micro) for rank in split for micro in rank) == len(tokens)


def least_micro_batches(tokens: list[int], budget: int) -> int:
    """The least number of micro-batches, by trying every assignment."""

    def fits(rest: list[int], loads: list[int]) -> bool:
        if not rest:
            return True
        tried = {load for load in loads if load + rest[0] <= budget}
        for load in tried:
            place = loads.index(load)
            if fits(rest[1:], [*loads[:place], load + rest[0], *loads[place + 1 :]]):
                return True
        return False

    return next(num for num in range(1, len(tokens) + 1) if fits(sorted(tokens, reverse=True), [0] * num))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_micro_batches_are_at_most_one_more_than_the_least_possible(tokens: list[int]) -> None:
    (rank,) = split_step(np.array(tokens, dtype=np.int32), 1, 20)
    assert least_micro_batches(tokens, 20) <= len(rank) <= least_micro_batches(tokens, 20) + 1


def test_a_step_within_the_budget_is_one_micro_batch_per_rank() -> None:
    assert as_lists(split_step(np.array([3, 3, 3, 3], dtype=np.int32), 2, 6)) == [[[0, 2]], [[1, 3]]]


def test_rows_of_a_micro_batch_are_in_plan_order_and_so_are_the_micro_batches() -> None:
    (rank,) = as_lists(split_step(np.array([2, 9, 3, 9, 1, 9], dtype=np.int32), 1, 11))
    assert all(earlier[0] < later[0] for earlier, later in pairwise(rank))


def test_a_row_above_the_budget_is_refused() -> None:
    with pytest.raises(PlanError, match=r"a row has 12 tokens and train\.micro_batch_tokens=10"):
        split_step(np.array([3, 12], dtype=np.int32), 1, 10)


def test_a_pair_above_the_budget_is_refused() -> None:
    with pytest.raises(PlanError, match="group of 2 rows that must stay together has 12 tokens"):
        split_step(np.array([6, 6], dtype=np.int32), 1, 10, rows_together=2)


def test_fewer_rows_than_ranks_are_refused() -> None:
    with pytest.raises(PlanError, match="a step of 2 rows cannot feed 3 ranks"):
        split_step(np.array([3, 3], dtype=np.int32), 3, 10)


def test_a_step_that_cannot_be_even_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot be split evenly over 2 ranks"):
        split_step(np.array([8, 8, 8], dtype=np.int32), 2, 10)
