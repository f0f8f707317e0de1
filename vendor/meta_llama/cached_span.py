"""The cache of one block, and where a pass over cached rows writes and looks.

Our own definition, not Meta's code. `cache.py` holds the blocks of a model together and counts what is filled.

Shape suffixes: B rows, T positions of a pass, R tokens of a pass (B * T), K columns of a cache, S columns of all rows,
N attention heads, C channels of one head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class CachedSpan:
    """Where a pass over cached rows writes, and what each of its positions sees.

    Row b holds `lengths[b]` positions, so its tokens stand at the T positions behind them; of the `num_keys` columns
    that some row fills, the mask leaves it those up to its own position. Lengths 3 and 1, T = 2, a cache of 8 columns;
    of the mask 1 stands for 0, which is added to a score, and 0 for -infinity:

        positions_BT   [[3 4] [1 2]]     slots_R   3 4 9 10     num_keys   5
        mask_B1TK      row 0: 1 1 1 1 0 | 1 1 1 1 1     row 1: 1 1 0 0 0 | 1 1 1 0 0

    Without a mask every position sees all columns before it and its own. Where one position of each row is read, the
    mask is that position's alone.
    """

    positions_BT: Tensor
    slots_R: Tensor
    num_keys: int
    mask_B1TK: Tensor | None
    dtype: torch.dtype

    def read(self, read_B1: Tensor) -> "CachedSpan":
        """Return the same span with the mask of one position of each row, counted from 0 in this pass."""
        num_rows, num_positions = self.positions_BT.shape
        if num_positions == 1:
            return self
        if self.mask_B1TK is None:
            columns_K = torch.arange(self.num_keys, device=read_B1.device)
            hidden_BK = columns_K > self.positions_BT.gather(1, read_B1)
            return replace(self, mask_B1TK=_hiding(hidden_BK[:, None, None], self.dtype))
        rows_B1 = torch.arange(num_rows, device=read_B1.device)[:, None]
        return replace(self, mask_B1TK=self.mask_B1TK[:, 0][rows_B1, read_B1][:, None])


def cached_span(
    lengths: Sequence[int],
    num_positions: int,
    max_length: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    window: int | None = None,
) -> CachedSpan:
    """Compute the span of the next `num_positions` positions of rows that hold `lengths`.

    Columns that a window has left behind stay in the cache and are masked.
    """
    num_rows, num_keys = len(lengths), max(lengths) + num_positions
    lengths_B = torch.tensor(lengths, device=device)
    positions_BT = lengths_B[:, None] + torch.arange(num_positions, device=device)
    slots_BT = positions_BT + torch.arange(0, num_rows * max_length, max_length, device=device)[:, None]
    mask_B1TK, binds = None, window is not None and num_keys > window
    sees_all = max(lengths) == 0 or (num_positions == 1 and min(lengths) == max(lengths))
    if binds or not sees_all:
        behind_BTK = positions_BT[:, :, None] - torch.arange(num_keys, device=device)
        hidden_BTK = behind_BTK < 0
        if window is not None:
            hidden_BTK |= behind_BTK >= window
        mask_B1TK = _hiding(hidden_BTK[:, None], dtype)
    return CachedSpan(positions_BT, slots_BT.flatten(), num_keys, mask_B1TK, dtype)


def _hiding(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


class BlockCache:
    """Keys and values of one block, each row's positions from 0 on. Carries no gradient.

    It does not know how many positions are filled: `KVCache.lengths` does, for all blocks.
    """

    def __init__(self, keys_BTNC: Tensor, values_BTNC: Tensor):
        self.keys_BTNC, self.values_BTNC = keys_BTNC, values_BTNC
        self._keys_SNC, self._values_SNC = keys_BTNC.flatten(0, 1), values_BTNC.flatten(0, 1)

    def store(self, keys_BTNC: Tensor, values_BTNC: Tensor, span: CachedSpan) -> tuple[Tensor, Tensor]:
        """Write the span's positions of the first B rows and return all columns that one of them may see."""
        num_rows = len(keys_BTNC)
        self._keys_SNC.index_copy_(0, span.slots_R, keys_BTNC.detach().flatten(0, 1))
        self._values_SNC.index_copy_(0, span.slots_R, values_BTNC.detach().flatten(0, 1))
        return self.keys_BTNC[:num_rows, : span.num_keys], self.values_BTNC[:num_rows, : span.num_keys]
