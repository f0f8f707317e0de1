"""Packing to a fixed size: the rules of every packing, the best fit, the bound on order, and how full it gets."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.errors import PlanError
from wmtp_ray.plan.best_fit import PackedRows, pack_best_fit
from wmtp_ray.plan.packing import split_step

ROWS = st.lists(st.integers(1, 12), max_size=30)
# Tokens of 1,936 Python rows of CodeContests at even quantiles, 0 % to 100 %.
CODECONTESTS_QUANTILES = [331, 407, 413, 420, 428, 437, 447, 459, 474, 507, 548]
CODECONTESTS_QUANTILES += [580, 606, 618, 629, 641, 654, 680, 720, 807, 1804]


def pack(tokens: list[int] | np.ndarray, sequence_tokens: int, window_rows: int) -> PackedRows:
    return pack_best_fit(np.array(tokens, dtype=np.int32), sequence_tokens, window_rows=window_rows)


def as_lists(packed: PackedRows) -> list[list[int]]:
    return [packed.positions(sequence).tolist() for sequence in range(packed.num_sequences)]


def codecontests_tokens(num_rows: int) -> np.ndarray:
    quantile_N = np.random.default_rng(0).random(num_rows)
    even = np.linspace(0, 1, len(CODECONTESTS_QUANTILES))
    return np.interp(quantile_N, even, CODECONTESTS_QUANTILES).astype(np.int32)


def sequence_loads(packed: PackedRows, tokens_P: np.ndarray) -> np.ndarray:
    return np.add.reduceat(tokens_P[packed.order_P], packed.sequence_starts_Q[:-1])


def test_the_docstrings_example() -> None:
    packed = pack([5, 3, 4, 2, 6, 1], 7, 4)
    assert packed.order_P.tolist() == [0, 3, 1, 2, 4, 5]
    assert packed.sequence_starts_Q.tolist() == [0, 2, 4, 6]


@given(tokens=ROWS, sequence_tokens=st.integers(12, 40), window_rows=st.integers(1, 40))
def test_every_packing_keeps_the_rules(tokens: list[int], sequence_tokens: int, window_rows: int) -> None:
    packed = pack(tokens, sequence_tokens, window_rows)
    assert (packed.order_P.dtype, packed.sequence_starts_Q.dtype) == (np.int64, np.int64)
    assert sorted(packed.order_P.tolist()) == list(range(len(tokens)))
    sequences = as_lists(packed)
    assert [row for sequence in sequences for row in sequence] == packed.order_P.tolist()
    for sequence in sequences:
        assert sequence
        assert sequence == sorted(sequence)
        assert sum(tokens[row] for row in sequence) <= sequence_tokens
    assert all(earlier[0] < later[0] for earlier, later in pairwise(sequences))


@given(tokens=ROWS, sequence_tokens=st.integers(12, 40), window_rows=st.integers(1, 20))
def test_the_order_is_kept_up_to_the_window(tokens: list[int], sequence_tokens: int, window_rows: int) -> None:
    packed = pack(tokens, sequence_tokens, window_rows)
    place = {row: place for place, row in enumerate(packed.order_P.tolist())}
    assert all(abs(place[row] - row) < window_rows for row in place)
    assert all(place[row] < place[later] for row in place for later in range(row + window_rows, len(tokens)))
    assert all(sequence[-1] - sequence[0] < window_rows for sequence in as_lists(packed))


@given(
    tokens=st.lists(st.integers(1, 9), max_size=14), sequence_tokens=st.integers(9, 20), window_rows=st.integers(1, 7)
)
def test_each_sequence_is_the_fullest_of_all_choices_in_its_window(
    tokens: list[int], sequence_tokens: int, window_rows: int
) -> None:
    waiting = list(range(len(tokens)))
    for sequence in as_lists(pack(tokens, sequence_tokens, window_rows)):
        assert sequence[0] == waiting[0]
        window = [row for row in waiting[1:] if row < waiting[0] + window_rows]
        choices = [choice for size in range(len(window) + 1) for choice in combinations(window, size)]
        totals = {choice: tokens[waiting[0]] + sum(tokens[row] for row in choice) for choice in choices}
        fullest = max(total for total in totals.values() if total <= sequence_tokens)
        assert sum(tokens[row] for row in sequence) == fullest
        reach = min(max(choice, default=waiting[0]) for choice, total in totals.items() if total == fullest)
        assert sequence[-1] == reach
        waiting = [row for row in waiting if row not in sequence]


def test_a_row_behind_the_window_is_not_taken() -> None:
    assert as_lists(pack([5, 6, 6, 2], 7, 4)) == [[0, 3], [1], [2]]
    assert as_lists(pack([5, 6, 6, 2], 7, 3)) == [[0], [1], [2], [3]]


def test_no_rows_make_no_sequences() -> None:
    assert as_lists(pack([], 7, 4)) == []


def test_a_row_above_the_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match=r"a row has 1,200 tokens and a sequence holds 1,024.*lower data\.max_tokens"):
        pack([3, 1200], 1024, 4)


@pytest.mark.parametrize("sequence_tokens", [4096, 8192])
def test_rows_like_codecontests_fill_98_percent_with_a_window_of_64(sequence_tokens: int) -> None:
    tokens_P = codecontests_tokens(5000)
    packed = pack(tokens_P, sequence_tokens, 64)
    assert tokens_P.sum() / (packed.num_sequences * sequence_tokens) >= 0.98
    assert (sequence_loads(packed, tokens_P)[:-8] >= 0.98 * sequence_tokens).all()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_sequences_dealt_to_ranks_are_balanced_to_what_they_leave_free(num_ranks: int) -> None:
    """A step of 8 sequences, a micro-batch each: `split_step` over sequences keeps them whole and ranks alike."""
    tokens_P = codecontests_tokens(1000)
    loads_Q = sequence_loads(pack(tokens_P, 4096, 64), tokens_P)[:64].astype(np.int32)
    for loads_N in loads_Q.reshape(-1, 8):
        split = split_step(loads_N, num_ranks, 4096)
        assert [[len(micro) for micro in rank] for rank in split] == [[1] * (8 // num_ranks)] * num_ranks
        of_rank = [sum(int(loads_N[micro].sum()) for micro in rank) for rank in split]
        assert max(of_rank) - min(of_rank) <= 4096 - loads_N.min()
