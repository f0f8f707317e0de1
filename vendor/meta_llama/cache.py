"""Keys and values of decoded rows in all blocks of a model, preallocated.

Our own definition, not Meta's code.

Shape suffixes: L blocks, B rows, T positions, N attention heads, C channels of one head.
"""

from collections.abc import Sequence

import torch

from vendor.meta_llama.attention import RopeScaling, SequenceContext, rotary_angles
from vendor.meta_llama.cached_span import BlockCache, cached_span
from vendor.model_args import ModelArgs


class KVCache:
    """One `BlockCache` per trunk block, then one per prediction head of horizons 1..num_horizons, in that order.

    Rows are filled to lengths of their own. A pass over B rows writes behind the first B lengths, in every block that
    it runs; `advance` then says how much of it counts. What is not advanced over is forgotten: the next pass writes
    over it (rejected drafts). Every block has to be run on a position before it is advanced over.
    """

    def __init__(
        self,
        args: ModelArgs,
        *,
        batch_size: int,
        max_length: int,
        num_horizons: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        assert 1 <= num_horizons <= args.n_future_tokens
        self.max_length = max_length
        self.window = args.attention_window
        self.num_trunk_blocks = args.num_trunk_blocks
        self.num_horizons = num_horizons
        self.lengths = [0] * batch_size
        num_blocks = args.num_trunk_blocks + num_horizons
        shape = (num_blocks, 2, batch_size, max_length, args.num_kv_heads, args.head_dim)
        self._filled = torch.zeros(shape, dtype=dtype, device=device)  # [L, keys or values, B, T, N, C]
        self.blocks = [BlockCache(keys_BTNC, values_BTNC) for keys_BTNC, values_BTNC in self._filled]
        positions_1T = torch.arange(max_length, device=device)[None]
        self._cos_1T1C, self._sin_1T1C = rotary_angles(
            positions_1T,
            head_dim=args.head_dim,
            rope_theta=args.rope_theta,
            rope_scaling=RopeScaling.of(args),
            dtype=dtype,
        )
        self._context: SequenceContext | None = None

    def head(self, horizon: int) -> BlockCache:
        """Return the cache of one prediction head; ValueError when it was made for fewer horizons."""
        if horizon > self.num_horizons:
            raise ValueError(f"the cache was made for {self.num_horizons} horizons; horizon {horizon} is needed")
        return self.blocks[self.num_trunk_blocks + horizon - 1]

    def context(self, num_rows: int, num_positions: int) -> SequenceContext:
        """Return what all blocks and heads of a pass over the first rows share; ValueError when it does not fit."""
        if self._context is None or self._context.cos_BT1C.shape[:2] != (num_rows, num_positions):
            self._context = self._new_context(num_rows, num_positions)
        return self._context

    def _new_context(self, num_rows: int, num_positions: int) -> SequenceContext:
        lengths = self.lengths[:num_rows]
        if max(lengths) + num_positions > self.max_length:
            needed = max(lengths) + num_positions
            raise ValueError(f"the cache holds {self.max_length} positions, {needed} are needed")
        dtype, device = self._filled.dtype, self._filled.device
        span = cached_span(lengths, num_positions, self.max_length, dtype=dtype, device=device, window=self.window)
        cos_BT1C, sin_BT1C = (angles[0, span.positions_BT] for angles in (self._cos_1T1C, self._sin_1T1C))
        return SequenceContext(cos_BT1C, sin_BT1C, document_lengths=None, document_ends_M=None, cached=span)

    def advance(self, num_positions: Sequence[int]) -> None:
        """Count the first `num_positions[b]` positions of the last pass as filled, for the rows it ran over."""
        for row, num in enumerate(num_positions):
            self.lengths[row] += num
        self._context = None

    def copy_row(self, row: int, source: "KVCache", source_row: int) -> None:
        """Make a row what a row of `source` is, a cache of the same model and horizons (or this one)."""
        length = self.lengths[row] = source.lengths[source_row]
        self._filled[:, :, row, :length] = source._filled[:, :, source_row, :length]
        self._context = None
