"""Rotary positions, and causal attention over rows, over the documents of a flat batch or over cached rows.

Where a model has a window and a sequence is longer, a position sees itself and the positions before it, `window`
together. A shorter sequence takes the same way as in a model without one.

Our own definition, not Meta's code. These functions have no parameters; the projections are in `model.py`.

Shape suffixes: B sequences, T positions, K columns of a cache, M documents, N attention heads, C channels of one head,
F rotary frequencies (C / 2), D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from vendor.meta_llama.cached_span import CachedSpan
from vendor.model_args import ModelArgs


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

    With `read_B` (rows, positions) a block returns one position of each row; all of them still fill its cache.
    `window` is None where nothing is longer than it; a cache has its window in its own mask.
    """

    cos_BT1C: Tensor
    sin_BT1C: Tensor
    document_lengths: tuple[int, ...] | None
    document_ends_M: Tensor | None
    cached: CachedSpan | None = None
    read_B: tuple[Tensor, Tensor] | None = None
    window: Window | None = None

    def reading(self, read_B1: Tensor) -> "SequenceContext":
        """Return the context of the same pass over cached rows with one position of each row read."""
        assert self.cached is not None
        rows_B = torch.arange(len(read_B1), device=read_B1.device)
        return replace(self, read_B=(rows_B, read_B1[:, 0]), cached=self.cached.read(read_B1))

    @cached_property
    def query_angles(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions that are read."""
        return self.read(self.cos_BT1C), self.read(self.sin_BT1C)

    def read(self, x_BT: Tensor) -> Tensor:
        """Keep what is read of [B, T, ...]: one position of each row [B, 1, ...], or everything."""
        return x_BT if self.read_B is None else x_BT[self.read_B][:, None]


def sequence_context(
    h_BTD: Tensor,
    *,
    head_dim: int,
    rope_theta: float,
    positions_BT: Tensor | None = None,
    document_lengths: Sequence[int] | None = None,
    rope_scaling: RopeScaling | None = None,
    window: int | None = None,
) -> SequenceContext:
    """Compute the context of a pass over `h_BTD`, for any length.

    Without `positions_BT` they count from 0, anew in each document: lengths (3, 2) give 0 1 2 0 1. A pass over
    cached rows has its context from their cache.
    """
    device, num_positions = h_BTD.device, h_BTD.shape[1]
    lengths = None if document_lengths is None else tuple(int(length) for length in document_lengths)
    if lengths is not None:
        assert h_BTD.shape[0] == 1, "documents stand in a flat batch of one sequence"
        assert sum(lengths) == num_positions, f"documents hold {sum(lengths)} tokens, the batch {num_positions}"
    if positions_BT is None:
        positions_BT = torch.cat([torch.arange(length) for length in lengths or (num_positions,)])[None]
    cos_BT1C, sin_BT1C = rotary_angles(
        positions_BT.to(device), head_dim=head_dim, rope_theta=rope_theta, rope_scaling=rope_scaling, dtype=h_BTD.dtype
    )
    ends_M = None
    if lengths is not None and device.type == "cuda":
        ends_M = torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)
    binding = None
    if window is not None and max(lengths or (num_positions,)) > window:
        binding = Window(window)
    return SequenceContext(cos_BT1C, sin_BT1C, lengths, ends_M, window=binding)


def rotary_angles(
    positions_BT: Tensor, *, head_dim: int, rope_theta: float, rope_scaling: RopeScaling | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines [B, T, 1, C] of positions as `apply_rotary` takes them, in float32 or wider.

    Each cosine stands twice; each sine first negative, then positive.
    """
    dtype, device = torch.promote_types(dtype, torch.float32), positions_BT.device
    exponents_F = torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim
    frequencies_F = rope_theta**-exponents_F
    if rope_scaling is not None:
        frequencies_F = rope_scaling.scaled(frequencies_F)
    angles_BTF = positions_BT[..., None].to(dtype) * frequencies_F
    cos_BTF, sin_BTF = angles_BTF.cos(), angles_BTF.sin()
    cos_BTC = torch.stack((cos_BTF, cos_BTF), dim=-1).flatten(-2)
    sin_BTC = torch.stack((-sin_BTF, sin_BTF), dim=-1).flatten(-2)
    return cos_BTC[:, :, None], sin_BTC[:, :, None]


def apply_rotary(x_BTNC: Tensor, cos_BT1C: Tensor, sin_BT1C: Tensor) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... by the position's angles: the interleaved (complex) form.

    A pair (a, b) becomes (a cos + b (-sin), b cos + a sin): the pair times its cosines, plus the swapped pair times
    the sines, of which the context has the first of each pair negative.
    """
    wide_BTNC = x_BTNC.to(cos_BT1C.dtype)
    pairs_BTNF2 = wide_BTNC.reshape(*wide_BTNC.shape[:-1], wide_BTNC.shape[-1] // 2, 2)
    swapped_BTNC = pairs_BTNF2.flip(-1).flatten(-2)
    return (wide_BTNC * cos_BT1C + swapped_BTNC * sin_BT1C).to(x_BTNC.dtype)


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
