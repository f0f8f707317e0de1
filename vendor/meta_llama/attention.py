"""Rotary positions, causal attention over rows or over the documents of a flat batch, and the cache of one block.

Functions without parameters of their own; the projections are `model.py`'s.

Shape suffixes: B sequences, T positions, M documents, N attention heads, C channels of one head, F rotary
frequencies (C / 2), D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class BlockCache:
    """Keys and values of one block, preallocated; the first `length` positions are filled. Carries no gradient."""

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
        shape = (batch_size, num_kv_heads, max_length, head_dim)
        self.keys_BNTC = torch.zeros(shape, dtype=dtype, device=device)
        self.values_BNTC = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, keys_BNTC: Tensor, values_BNTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new positions and return all filled ones; ValueError when they do not fit."""
        end = self.length + keys_BNTC.shape[2]
        if end > self.keys_BNTC.shape[2]:
            raise ValueError(f"the cache holds {self.keys_BNTC.shape[2]} positions, {end} are needed")
        self.keys_BNTC[:, :, self.length : end] = keys_BNTC.detach()
        self.values_BNTC[:, :, self.length : end] = values_BNTC.detach()
        self.length = end
        return self.keys_BNTC[:, :, :end], self.values_BNTC[:, :, :end]


@dataclass(frozen=True)
class SequenceContext:
    """What every block of one pass shares: rotary angles and, for a flat batch, where its documents end."""

    cos_BTF: Tensor
    sin_BTF: Tensor
    document_lengths: tuple[int, ...] | None
    document_ends_M: Tensor | None


def sequence_context(
    h_BTD: Tensor,
    *,
    head_dim: int,
    rope_theta: float,
    positions_BT: Tensor | None = None,
    document_lengths: Sequence[int] | None = None,
    start: int = 0,
) -> SequenceContext:
    """Compute the context of a pass over `h_BTD`, for any length.

    Without `positions_BT` they count from `start`, anew in each document: lengths (3, 2) give 0 1 2 0 1.
    """
    device, num_positions = h_BTD.device, h_BTD.shape[1]
    lengths = None if document_lengths is None else tuple(int(length) for length in document_lengths)
    if lengths is not None:
        assert h_BTD.shape[0] == 1, "documents stand in a flat batch of one sequence"
        assert sum(lengths) == num_positions, f"documents hold {sum(lengths)} tokens, the batch {num_positions}"
    if positions_BT is None:
        positions_BT = start + torch.cat([torch.arange(length) for length in lengths or (num_positions,)])[None]
    dtype = torch.promote_types(h_BTD.dtype, torch.float32)
    exponents_F = torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim
    angles_BTF = positions_BT[..., None].to(device, dtype) * rope_theta**-exponents_F
    ends_M = None
    if lengths is not None and device.type == "cuda":
        ends_M = torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)
    return SequenceContext(angles_BTF.cos(), angles_BTF.sin(), lengths, ends_M)


def apply_rotary(x_BTNC: Tensor, context: SequenceContext) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... by the position's angles: the interleaved (complex) form."""
    cos, sin = context.cos_BTF[:, :, None], context.sin_BTF[:, :, None]
    even, odd = x_BTNC[..., 0::2].to(cos.dtype), x_BTNC[..., 1::2].to(cos.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BTNC.dtype)


def causal_attention(queries_BNTC: Tensor, keys_BNTC: Tensor, values_BNTC: Tensor) -> Tensor:
    """Attend causally; queries are the last positions of the keys. Right padding needs no mask: nothing looks right."""
    num_queries, num_keys = queries_BNTC.shape[2], keys_BNTC.shape[2]
    mask = None
    if 1 < num_queries < num_keys:
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=queries_BNTC.device)
        mask = mask.tril(num_keys - num_queries)
    return F.scaled_dot_product_attention(
        queries_BNTC,
        keys_BNTC,
        values_BNTC,
        attn_mask=mask,
        is_causal=num_queries == num_keys,
        enable_gqa=queries_BNTC.shape[1] != keys_BNTC.shape[1],
    )


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
        window = (-1, 0)  # causal
        mixed = varlen_attn(queries, keys, values, ends, ends, longest, longest, window_size=window, enable_gqa=gqa)
        assert isinstance(mixed, Tensor)
        return mixed.transpose(0, 1)[None]
    documents = zip(
        *(torch.split(x, list(lengths), dim=2) for x in (queries_BNTC, keys_BNTC, values_BNTC)), strict=True
    )
    return torch.cat([causal_attention(*document) for document in documents], dim=2)


def _varlen_kernel_fits(queries_BNTC: Tensor) -> bool:
    """Tell whether the flash kernel behind `varlen_attn` takes this input (half precision, Ampere or newer)."""
    head_dim = queries_BNTC.shape[-1]
    return (
        queries_BNTC.dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(queries_BNTC.device) >= (8, 0)
    )
