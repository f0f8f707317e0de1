"""The draws are subsets in random order, named by their labels, and never move."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.plan.randomness import draw, random_keys, shuffled

PINNED_KEYS = [12223799767387736836, 12083584456127947832]


@given(size=st.integers(0, 400), frac=st.floats(0, 1), seed=st.integers(-(2**40), 2**40))
def test_a_draw_equals_the_smallest_keys_of_a_full_sort(size: int, frac: float, seed: int) -> None:
    values, num = np.arange(size) * 3, int(size * frac)
    keys = random_keys(size, seed, "x")
    assert draw(values, num, seed, "x").tolist() == values[np.argsort(keys)][:num].tolist()


def test_a_small_draw_from_many_rows_equals_the_full_sort() -> None:
    values = np.arange(100_000)
    keys = random_keys(len(values), 5, "x")
    assert draw(values, 50, 5, "x").tolist() == np.argsort(keys)[:50].tolist()


def test_keys_are_pinned_across_versions_and_machines() -> None:
    assert random_keys(2, 42, "rows", 0).tolist() == PINNED_KEYS


def test_labels_and_seed_name_different_streams() -> None:
    streams = [
        random_keys(4, 1, "a", 0),
        random_keys(4, 1, "a", 1),
        random_keys(4, 1, "b", 0),
        random_keys(4, 2, "a", 0),
    ]
    assert len({tuple(keys.tolist()) for keys in streams}) == 4


def test_shuffled_keeps_the_rows_of_a_matrix_whole() -> None:
    pairs = np.arange(40).reshape(20, 2)
    mixed = shuffled(pairs, 3, "order")
    assert sorted(map(tuple, mixed.tolist())) == sorted(map(tuple, pairs.tolist()))
    assert mixed.tolist() != pairs.tolist()
