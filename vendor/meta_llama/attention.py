"""Rotary positions, causal attention over rows or over the documents of a flat batch, and the cache of one block.

Where a model has a window and a sequence is longer, a position sees itself and the positions before it, `window`
together. A shorter sequence takes the same way as in a model without one.

Our own definition, not Meta's code. These functions have no parameters; the projections are in `model.py`.

Shape suffixes: B sequences, T positions, K columns of a cache, M documents, N attention heads, C channels of one head,
F rotary frequencies (C / 2), D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from vendor.model_args import ModelArgs


@dataclass(frozen=True)
class CachedSpan:
    """Where a pass over cached rows writes, and what each of its positions sees.

    Row b holds `lengths[b]` positions, so its tokens stand at the T positions behind them; of the `num_keys` columns
    that some row fills, the mask leaves it those up to its own position. Lengths 3 and 1, T = 2:

        positions_BT   [[3 4] [1 2]]     num_keys   5
        mask_B1TK      row 0: 1 1 1 1 0 | 1 1 1 1 1     row 1: 1 1 0 0 0 | 1 1 1 0 0

    Without a mask every position sees all columns before it and its own. Where one position of each row is read, the
    mask is that position's alone.
    """

    rows_B1: Tensor
    positions_BT: Tensor
    num_keys: int
    mask_B1TK: Tensor | None


def cached_span(
    lengths: Sequence[int],
    num_positions: int,
    device: torch.device,
    read_B1: Tensor | None = None,
    window: int | None = None,
) -> CachedSpan:
    """Compute the span of the next `num_positions` positions of rows that hold `lengths`; `read_B1` counts from 0.

    Columns that a window has left behind stay in the cache and are masked.
    """
    num_keys = max(lengths) + num_positions
    positions_BT = torch.tensor(lengths, device=device)[:, None] + torch.arange(num_positions, device=device)
    mask_B1TK, binds = None, window is not None and num_keys > window
    sees_all = len(set(lengths)) == 1 and num_positions == 1 and not binds
    if not sees_all and (read_B1 is not None or max(lengths) > 0 or binds):
        seeing_BT = positions_BT if read_B1 is None else positions_BT.gather(1, read_B1)
        behind_BTK = seeing_BT[:, :, None] - torch.arange(num_keys, device=device)
        sees_BTK = behind_BTK >= 0
        if window is not None:
            sees_BTK &= behind_BTK < window
        mask_B1TK = sees_BTK[:, None]
    rows_B1 = torch.arange(len(lengths), device=device)[:, None]
    return CachedSpan(rows_B1, positions_BT, num_keys, mask_B1TK)


class BlockCache:
    """Keys and values of one block, preallocated, each row's positions from 0 on. Carries no gradient.

    It does not know how many positions are filled: `KVCache.lengths` does, for all blocks.
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        shape = (batch_size, max_length, num_kv_heads, head_dim)
        self.keys_BTNC = torch.zeros(shape, dtype=dtype, device=device)
        self.values_BTNC = torch.zeros(shape, dtype=dtype, device=device)

    def store(self, keys_BTNC: Tensor, values_BTNC: Tensor, span: CachedSpan) -> tuple[Tensor, Tensor]:
        """Write the span's positions of the first B rows and return all columns that one of them may see."""
        num_rows = len(span.rows_B1)
        self.keys_BTNC[span.rows_B1, span.positions_BT] = keys_BTNC.detach()
        self.values_BTNC[span.rows_B1, span.positions_BT] = values_BTNC.detach()
        return self.keys_BTNC[:num_rows, : span.num_keys], self.values_BTNC[:num_rows, : span.num_keys]


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies divided by `factor`: all, or with `bands` the low ones alone, as LLaMA 3.1 has them.

    `bands` are the low and the high frequency factor and the original context. A frequency that turns at most `low`
    times in that context is divided, one that turns at least `high` times is not, between them it is a mixture.
    """

    factor: float
    bands: tuple[float, float, int] | None

    @classmethod
    def of(cls, args: ModelArgs) -> "RopeScaling | None":
        """Return the scaling of a model, None where its frequencies stay as they are."""
        low, high, original = args.rope_low_freq_factor, args.rope_high_freq_factor, args.rope_original_seq_len
        if args.rope_scaling_factor == 1.0:
            return None
        bands = None if low is None or high is None or original is None else (low, high, original)
        return cls(args.rope_scaling_factor, bands)

    def scaled(self, frequencies_F: Tensor) -> Tensor:
        """Return the scaled frequencies."""
        if self.bands is None:
            return frequencies_F / self.factor
        low, high, original = self.bands
        turns_F = frequencies_F * original / (2 * torch.pi)
        kept_F = ((turns_F - low) / (high - low)).clamp(0.0, 1.0)
        return (1 - kept_F) * frequencies_F / self.factor + kept_F * frequencies_F


@dataclass(frozen=True)
class Window:
    """A window that binds: its size, and what `size` queries see of the keys from `size` - 1 before them on.

    Size 3; row: query, column: key, both from some position p on, the keys from p - 2 on:

        1 1 1 . .
        . 1 1 1 .
        . . 1 1 1
    """

    size: int

    def mask_TK(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return 0 where a query sees a key, else -infinity."""
        return _window_mask_TK(self.size, dtype, device)


@lru_cache(maxsize=1)  # all blocks of all passes share it
def _window_mask_TK(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a later pass may save it for its backward
        rows_T1, columns_K = torch.arange(size, device=device)[:, None], torch.arange(2 * size - 1, device=device)
        hidden_TK = (columns_K < rows_T1) | (columns_K >= rows_T1 + size)
        return torch.zeros(hidden_TK.shape, dtype=dtype, device=device).masked_fill_(hidden_TK, -torch.inf)


@dataclass(frozen=True)
class SequenceContext:
    """What every block of one pass shares: rotary angles, where a flat batch's documents end, where a cache goes on.

    With `read_B1` a block returns one position of each row; all of them still fill its cache. `window` is None where
    nothing is longer than it; a cache has its window in its own mask.
    """

    cos_BTF: Tensor
    sin_BTF: Tensor
    document_lengths: tuple[int, ...] | None
    document_ends_M: Tensor | None
    cached: CachedSpan | None = None
    read_B1: Tensor | None = None
    window: Window | None = None

    def read(self, x_BT: Tensor) -> Tensor:
        """Keep what is read of [B, T, ...]: one position of each row [B, 1, ...], or everything."""
        if self.read_B1 is None:
            return x_BT
        return x_BT[torch.arange(len(x_BT), device=x_BT.device)[:, None], self.read_B1]


def sequence_context(
    h_BTD: Tensor,
    *,
    head_dim: int,
    rope_theta: float,
    positions_BT: Tensor | None = None,
    document_lengths: Sequence[int] | None = None,
    cached: CachedSpan | None = None,
    read_B1: Tensor | None = None,
    rope_scaling: RopeScaling | None = None,
    window: int | None = None,
) -> SequenceContext:
    """Compute the context of a pass over `h_BTD`, for any length.

    Without `positions_BT` they count from 0, anew in each document: lengths (3, 2) give 0 1 2 0 1. Cached rows count
    on from what they hold.
    """
    device, num_positions = h_BTD.device, h_BTD.shape[1]
    lengths = None if document_lengths is None else tuple(int(length) for length in document_lengths)
    if lengths is not None:
        assert h_BTD.shape[0] == 1, "documents stand in a flat batch of one sequence"
        assert sum(lengths) == num_positions, f"documents hold {sum(lengths)} tokens, the batch {num_positions}"
    if cached is not None:
        assert positions_BT is None, "cached rows know their positions"
        assert lengths is None, "a cache holds rows of a batch, not flat documents"
        positions_BT = cached.positions_BT
    if positions_BT is None:
        positions_BT = torch.cat([torch.arange(length) for length in lengths or (num_positions,)])[None]
    dtype = torch.promote_types(h_BTD.dtype, torch.float32)
    exponents_F = torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim
    frequencies_F = rope_theta**-exponents_F
    if rope_scaling is not None:
        frequencies_F = rope_scaling.scaled(frequencies_F)
    angles_BTF = positions_BT[..., None].to(device, dtype) * frequencies_F
    ends_M = None
    if lengths is not None and device.type == "cuda":
        ends_M = torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)
    binding = None
    if window is not None and cached is None and max(lengths or (num_positions,)) > window:
        binding = Window(window)
    return SequenceContext(angles_BTF.cos(), angles_BTF.sin(), lengths, ends_M, cached, read_B1, binding)


def apply_rotary(x_BTNC: Tensor, cos_BTF: Tensor, sin_BTF: Tensor) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... by the position's angles: the interleaved (complex) form."""
    cos, sin = cos_BTF[:, :, None], sin_BTF[:, :, None]
    even, odd = x_BTNC[..., 0::2].to(cos.dtype), x_BTNC[..., 1::2].to(cos.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BTNC.dtype)


def causal_attention(
    queries_BNTC: Tensor, keys_BNTC: Tensor, values_BNTC: Tensor, mask_B1TK: Tensor | None = None
) -> Tensor:
    """Attend causally. Without a mask queries are the keys' positions, or a single query the last of them.

    Right padding needs no mask: nothing looks right.
    """
    num_queries = queries_BNTC.shape[2]
    assert mask_B1TK is not None or num_queries in (1, keys_BNTC.shape[2])
    return F.scaled_dot_product_attention(
        queries_BNTC,
        keys_BNTC,
        values_BNTC,
        attn_mask=mask_B1TK,
        is_causal=mask_B1TK is None and num_queries > 1,
        enable_gqa=queries_BNTC.shape[1] != keys_BNTC.shape[1],
    )


def windowed_attention(queries_BNTC: Tensor, keys_BNTC: Tensor, values_BNTC: Tensor, window: Window) -> Tensor:
    """Attend causally inside a window; queries and keys are the same positions.

    The queries go in pieces of the window's size, each against the keys that one of its queries sees.
    """
    num_positions, size = queries_BNTC.shape[2], window.size
    mask_TK = window.mask_TK(queries_BNTC.dtype, queries_BNTC.device)
    mixed = []
    for start in range(0, num_positions, size):
        stop, first = min(start + size, num_positions), max(0, start - size + 1)
        columns = slice(first - start + size - 1, stop - start + size - 1)
        mixed.append(
            F.scaled_dot_product_attention(
                queries_BNTC[:, :, start:stop],
                keys_BNTC[:, :, first:stop],
                values_BNTC[:, :, first:stop],
                attn_mask=mask_TK[: stop - start, columns],
                enable_gqa=queries_BNTC.shape[1] != keys_BNTC.shape[1],
            )
        )
    return torch.cat(mixed, dim=2)


def row_attention(
    queries_BNTC: Tensor, keys_BNTC: Tensor, values_BNTC: Tensor, window: Window | None, mask_B1TK: Tensor | None = None
) -> Tensor:
    """Attend causally over a sequence, in a window where there is one that binds it; a mask of a cache is final."""
    if window is None or queries_BNTC.shape[2] <= window.size:
        return causal_attention(queries_BNTC, keys_BNTC, values_BNTC, mask_B1TK)
    return windowed_attention(queries_BNTC, keys_BNTC, values_BNTC, window)


def document_attention(
    queries_BNTC: Tensor, keys_BNTC: Tensor, values_BNTC: Tensor, context: SequenceContext
) -> Tensor:
    """Attend causally inside each document of a flat batch.

    One call per document: on a CPU 3 to 10 times faster than a dense mask, never slower than padding the documents to
    one length. Half precision on CUDA takes PyTorch's variable-length kernel, which is one call.
    """
    lengths = context.document_lengths
    assert lengths is not None
    if context.document_ends_M is not None and _varlen_kernel_fits(queries_BNTC):
        from torch.nn.attention.varlen import varlen_attn  # it loads the compiler: seconds that only CUDA pays

        queries, keys, values = (x_BNTC[0].transpose(0, 1) for x_BNTC in (queries_BNTC, keys_BNTC, values_BNTC))
        ends, longest, gqa = context.document_ends_M, max(lengths), queries.shape[1] != keys.shape[1]
        window = (-1 if context.window is None else context.window.size - 1, 0)  # keys before, keys behind: causal
        flat_TNC = varlen_attn(queries, keys, values, ends, ends, longest, longest, window_size=window, enable_gqa=gqa)
        assert isinstance(flat_TNC, Tensor)
        return flat_TNC.transpose(0, 1)[None]
    documents = zip(
        *(torch.split(x, list(lengths), dim=2) for x in (queries_BNTC, keys_BNTC, values_BNTC)), strict=True
    )
    mixed = [row_attention(queries, keys, values, context.window) for queries, keys, values in documents]
    return torch.cat(mixed, dim=2)


def _varlen_kernel_fits(queries_BNTC: Tensor) -> bool:
    """Whether the flash kernel behind `varlen_attn` takes this input (half precision, Ampere or newer)."""
    head_dim = queries_BNTC.shape[-1]
    return (
        queries_BNTC.dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(queries_BNTC.device) >= (8, 0)
    )
