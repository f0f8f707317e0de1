"""Where a pass over cached rows writes and what it sees, as the picture in `cached_span.py` has it."""

import pytest
import torch
from torch import Tensor

from vendor.meta_llama.cached_span import CachedSpan, cached_span

CPU = torch.device("cpu")


def span(lengths: list[int], num_positions: int, window: int | None = None) -> CachedSpan:
    return cached_span(lengths, num_positions, 8, dtype=torch.float64, device=CPU, window=window)


def seen(mask_B1TK: Tensor | None) -> list[list[list[int]]]:
    assert mask_B1TK is not None
    assert set(mask_B1TK.unique().tolist()) <= {0.0, -torch.inf}
    return (mask_B1TK[:, 0] == 0).long().tolist()


def test_the_picture_of_a_span_is_what_it_holds() -> None:
    found = span([3, 1], 2)
    assert found.positions_BT.tolist() == [[3, 4], [1, 2]]
    assert found.slots_R.tolist() == [3, 4, 9, 10]
    assert found.num_keys == 5
    assert seen(found.mask_B1TK) == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]]


def test_where_one_position_of_each_row_is_read_the_mask_is_its_own() -> None:
    read_B1 = torch.tensor([[1], [0]])
    assert seen(span([3, 1], 2).read(read_B1).mask_B1TK) == [[[1, 1, 1, 1, 1]], [[1, 1, 0, 0, 0]]]
    assert seen(span([0, 0], 3).read(read_B1).mask_B1TK) == [[[1, 1, 0]], [[1, 0, 0]]]
    assert seen(span([3, 1], 1).read(torch.tensor([[0], [0]])).mask_B1TK) == [[[1, 1, 1, 1]], [[1, 1, 0, 0]]]


@pytest.mark.parametrize(("lengths", "num_positions"), [([0, 0], 3), ([4, 4], 1), ([0], 1)])
def test_rows_that_need_no_mask_have_none(lengths: list[int], num_positions: int) -> None:
    assert span(lengths, num_positions).mask_B1TK is None


def test_a_window_hides_the_columns_that_it_has_left_behind() -> None:
    assert seen(span([3, 1], 1, window=2).mask_B1TK) == [[[0, 0, 1, 1]], [[1, 1, 0, 0]]]
    assert seen(span([0], 3, window=2).mask_B1TK) == [[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
