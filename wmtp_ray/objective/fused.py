"""Unembedding and weighted cross-entropy of all horizons in one function, without ever holding all logits.

Shape legend: H horizons, N rows of one horizon, F = H * N rows in one list, K kept rows, C rows of one chunk,
V vocabulary, D width.

The loss is a scalar and linear in each row's cross-entropy, so the gradient of a row's logits is known as soon as the
logits are: `scale * (softmax - onehot)`. The forward therefore walks over the kept rows chunk by chunk, makes one
chunk's logits in a buffer that is reused, turns them into probabilities in place, and at once multiplies them into
the two gradients. The backward only multiplies those by the upstream gradient, in place: peak memory is the two
gradients and one buffer; time is three matrix products and one softmax. Rows of weight 0 are dropped before the first
product.

Each chunk reads the whole output weight, so fewer and larger chunks are faster. Therefore the gradient of the hidden
states and the buffer are one block of memory: rows are finished in order, and a chunk's logits lie behind them, over
gradients that are still to come:

    [ finished | this chunk's rows | logits of this chunk ........................... ]
    [ finished, finished           | the next rows | logits of the next chunk ....... ]
    `------------- gradient of the hidden states -------------------'`---- buffer ----'

Sums are float32 (float64 for float64 inputs). With half-precision inputs the products run in that precision, softmax
and sums in float32, at the price of one more table [V, D] for a chunk's contribution.
This module does not know where rows, weights or denominators come from (see `horizon` and `weighting`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MIB = 2**20
_ALIGNMENT = 64  # bytes, enough for the vector loads of any device
_MOST_ROWS = 1024  # a larger chunk makes no product faster
_LARGEST_EXACT_LOSS = 69.0  # -log of 1e-30, far from where float32 probabilities lose digits (1e-38)


def fused_mtp_loss(
    hidden_HND: Tensor,
    output_weight_VD: Tensor,
    targets_HN: Tensor,
    weights_HN: Tensor,
    denominators_H: Tensor,
    *,
    horizon_coefs_H: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted multi-horizon cross-entropy and the unweighted one per horizon, [H].

    loss = mean over k of `horizon_coefs[k] * sum over n of w[k, n] * CE[k, n] / denominators[k]`, with gradient for
    `hidden_HND` and `output_weight_VD`; coefficients None means 1. The second result is
    `sum over kept rows of CE / denominators[k]`, detached. Denominators are the GLOBAL counts, so losses and gradients
    of shards add up to those of the whole; a horizon whose denominator is 0 has no rows and adds nothing.

    Rows are already normed, weights may be negative. A row of weight 0 is dropped: its hidden state and target are
    never read (the target may be any number) and its gradient is 0. `max_logits_bytes` bounds the buffer, which is what
    logits take besides the gradients; None takes 16 % of the gradients' bytes, between 4 and 64 MiB. The gradients are
    made in the forward and given away by the backward: a second backward through the same loss is refused. Under
    `torch.no_grad()` none are made.
    """
    loss, losses_HN, _, inverse_H = _fused(
        hidden_HND, output_weight_VD, targets_HN, weights_HN, denominators_H, horizon_coefs_H, max_logits_bytes
    )
    return loss, losses_HN.sum(dim=1) * inverse_H


def fused_signed_loss(
    hidden_HND: Tensor,
    output_weight_VD: Tensor,
    targets_HN: Tensor,
    weights_HN: Tensor,
    denominators_H: Tensor,
    *,
    horizon_coefs_H: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `fused_mtp_loss` returns, where a row of negative weight -|w| p stands for the objective |w| p.

    p is the probability of the row's target, so |w| p and the row's weighted cross-entropy have one gradient, which is
    `fused_mtp_loss`'s. The loss's value counts |w| p, which is bounded, and not -|w| p CE. Without negative weights the
    two functions are the same.
    """
    loss, losses_HN, scale_HN, inverse_H = _fused(
        hidden_HND, output_weight_VD, targets_HN, weights_HN, denominators_H, horizon_coefs_H, max_logits_bytes
    )
    excess_HN = torch.where(scale_HN < 0, -scale_HN * (1 + losses_HN), torch.zeros_like(losses_HN))
    return loss + excess_HN.sum(), losses_HN.sum(dim=1) * inverse_H


def _fused(
    hidden_HND: Tensor,
    output_weight_VD: Tensor,
    targets_HN: Tensor,
    weights_HN: Tensor,
    denominators_H: Tensor,
    horizon_coefs_H: Tensor | None,
    max_logits_bytes: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, the kept rows' cross-entropies and what each counts in the loss, [H, N], and 1 / denominators.

    The last three are detached.
    """
    num_horizons, num_rows, width = hidden_HND.shape
    if max_logits_bytes is None:
        gradient_bytes = (hidden_HND.numel() + output_weight_VD.numel()) * hidden_HND.element_size()
        max_logits_bytes = min(max(gradient_bytes * 16 // 100, 4 * _MIB), 64 * _MIB)
    inverse_H, scale_HN = _row_scales(hidden_HND, weights_HN, denominators_H, horizon_coefs_H)
    loss, losses_F = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_HND.reshape(num_horizons * num_rows, width),
        output_weight_VD.to(hidden_HND.dtype),
        targets_HN.reshape(-1),
        scale_HN.reshape(-1),
        torch.nonzero(weights_HN.reshape(-1)).squeeze(1),
        max_logits_bytes,
        torch.is_grad_enabled(),
    )
    return loss, losses_F.view(num_horizons, num_rows), scale_HN, inverse_H


@torch.no_grad()
def token_cross_entropies(
    hidden_ND: Tensor, output_weight_VD: Tensor, targets_N: Tensor, *, max_logits_bytes: int = 16 * _MIB
) -> Tensor:
    """Return each row's cross-entropy, [N], without gradient and without ever holding all logits.

    For the passes that only look: Rho-1's reference and policy losses, surprisal. Every target is read.
    """
    weight_VD = output_weight_VD.to(hidden_ND.dtype)
    rows = torch.arange(len(hidden_ND), device=hidden_ND.device)
    losses_N = torch.zeros(len(rows), device=rows.device, dtype=_sum_dtype(hidden_ND))
    memory = _Memory(hidden_ND, len(weight_VD), len(rows), max_logits_bytes, holds_gradient=False)
    chunks = _Chunks(hidden_ND, weight_VD, targets_N, rows, memory)
    for chunk in chunks.split():
        losses_N[chunk.rows_C] = chunks.losses(chunk)
    chunks.repair_underflow(losses_N)
    return losses_N


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _row_scales(
    hidden_HND: Tensor, weights_HN: Tensor, denominators_H: Tensor, horizon_coefs_H: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return 1 / denominator per horizon, and what each row's cross-entropy counts in the loss."""
    denominators_H = denominators_H.to(device=hidden_HND.device, dtype=_sum_dtype(hidden_HND))
    # A horizon without rows has the sum 0; dividing it by 1 and not by 0 keeps NaN out.
    inverse_H = torch.where(denominators_H == 0, torch.ones_like(denominators_H), denominators_H).reciprocal()
    coefs_H = inverse_H if horizon_coefs_H is None else inverse_H * horizon_coefs_H.to(inverse_H)
    return inverse_H, weights_HN.detach().to(inverse_H) * coefs_H.unsqueeze(1) / len(denominators_H)


@dataclass(frozen=True)
class _Chunk:
    """Rows [C] and their tables [C, V], which are theirs until the next chunk; one table where one dtype will do."""

    rows_C: Tensor
    logits_CV: Tensor
    probabilities_CV: Tensor


class _Memory:
    """One block: the gradient of the hidden states, if it is wanted, and the buffer behind it.

    The buffer holds the logits of whole rows: of one at least, and of no more than are kept.
    """

    def __init__(
        self, hidden_FD: Tensor, vocabulary: int, num_kept: int, buffer_bytes: int, *, holds_gradient: bool
    ) -> None:
        self._num_rows, self._width, self._dtype = *hidden_FD.shape, hidden_FD.dtype
        self._vocabulary = vocabulary
        self._table_dtypes = list(dict.fromkeys((_sum_dtype(hidden_FD), hidden_FD.dtype)))
        self.logits_row_bytes = vocabulary * sum(dtype.itemsize for dtype in self._table_dtypes)
        self.gradient_row_bytes = self._width * hidden_FD.element_size() if holds_gradient else 0
        self.buffer_rows = max(1, min(num_kept, buffer_bytes // self.logits_row_bytes))
        self.usable_bytes = self._num_rows * self.gradient_row_bytes + self.buffer_rows * self.logits_row_bytes
        padding = _ALIGNMENT * len(self._table_dtypes)
        self._bytes = hidden_FD.new_empty(self.usable_bytes + padding, dtype=torch.uint8)

    @property
    def hidden_grad_FD(self) -> Tensor | None:
        """The gradient's part of the block, None when it is not wanted."""
        if not self.gradient_row_bytes:
            return None
        gradient_bytes = self._bytes[: self._num_rows * self.gradient_row_bytes]
        return gradient_bytes.view(self._dtype).view(self._num_rows, self._width)

    def chunk(self, rows_C: Tensor, finished_rows: int) -> _Chunk:
        """Lay the tables of these rows behind the gradients of the first `finished_rows`, theirs included."""
        tables, end = [], finished_rows * self.gradient_row_bytes
        for dtype in self._table_dtypes:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + len(rows_C) * self._vocabulary * dtype.itemsize
            tables.append(self._bytes[start:end].view(dtype).view(len(rows_C), self._vocabulary))
        return _Chunk(rows_C, logits_CV=tables[-1], probabilities_CV=tables[0])


class _Chunks:
    """The kept rows in chunks as large as the memory allows, and what is computed of each."""

    def __init__(
        self, hidden_FD: Tensor, weight_VD: Tensor, targets_F: Tensor, kept_K: Tensor, memory: _Memory
    ) -> None:
        self._hidden_FD, self._weight_VD, self._targets_F, self._kept_K = hidden_FD, weight_VD, targets_F, kept_K
        self._memory = memory

    def split(self) -> Iterator[_Chunk]:
        """Yield the kept rows in order; each chunk's logits fit behind the gradient of its last row."""
        memory, kept_K = self._memory, self._kept_K.cpu()
        # Rows start..last fit when (kept[last] + 1) * gradient row + (last + 1 - start) * logits row <= usable.
        needed_K = (kept_K + 1) * memory.gradient_row_bytes + torch.arange(1, len(kept_K) + 1) * memory.logits_row_bytes
        start = 0
        while start < len(kept_K):
            fitting = int(
                torch.searchsorted(needed_K, memory.usable_bytes + start * memory.logits_row_bytes, right=True)
            )
            stop = min(fitting, start + max(_MOST_ROWS, memory.buffer_rows))
            yield memory.chunk(self._kept_K[start:stop], int(kept_K[stop - 1]) + 1)
            start = stop

    def losses(self, chunk: _Chunk) -> Tensor:
        """Return the rows' cross-entropies, and leave their probabilities in the chunk.

        A cross-entropy may be infinite, or short of digits, above 69: see `repair_underflow`.
        """
        torch.mm(self._hidden_FD[chunk.rows_C], self._weight_VD.t(), out=chunk.logits_CV)
        if chunk.probabilities_CV.dtype != chunk.logits_CV.dtype:
            chunk.probabilities_CV.copy_(chunk.logits_CV)
        torch.softmax(chunk.probabilities_CV, dim=1, out=chunk.probabilities_CV)
        target_C1 = chunk.probabilities_CV.gather(1, self._targets_F[chunk.rows_C].unsqueeze(1))
        return target_C1.squeeze(1).log_().neg_()

    def repair_underflow(self, losses_F: Tensor) -> None:
        """Compute again, from logits, the losses of rows whose target's probability is too small for float32.

        In place, once for all chunks: finding such rows reads a number back from the device.
        """
        far_K = self._kept_K[losses_F[self._kept_K] > _LARGEST_EXACT_LOSS]
        for rows_C in torch.split(far_K, self._memory.buffer_rows) if len(far_K) else ():
            logits_CV = self._memory.chunk(rows_C, finished_rows=len(self._hidden_FD)).logits_CV
            torch.mm(self._hidden_FD[rows_C], self._weight_VD.t(), out=logits_CV)
            target_C1 = logits_CV.gather(1, self._targets_F[rows_C].unsqueeze(1)).to(losses_F)
            losses_F[rows_C] = logits_CV.to(losses_F).logsumexp(dim=1) - target_C1.squeeze(1)

    def add_gradients(self, chunk: _Chunk, scale_C: Tensor, weight_grad_VD: Tensor | None) -> None:
        """Write the rows' gradients of the hidden states, add theirs of the output weight; overwrites probabilities."""
        rows_C, probabilities_CV = chunk.rows_C, chunk.probabilities_CV
        probabilities_CV[torch.arange(len(rows_C), device=rows_C.device), self._targets_F[rows_C]] -= 1
        errors_CV = chunk.logits_CV
        if errors_CV.dtype != probabilities_CV.dtype:
            errors_CV.copy_(probabilities_CV)
        # The scale goes to the narrow factor of each product: D numbers a row instead of V.
        scale_C1 = scale_C.unsqueeze(1)
        if (hidden_grad_FD := self._memory.hidden_grad_FD) is not None:
            hidden_grad_FD[rows_C] = torch.mm(errors_CV, self._weight_VD).mul_(scale_C1)
        if weight_grad_VD is None:
            return
        scaled_CD = self._hidden_FD[rows_C].mul_(scale_C1)
        if weight_grad_VD.dtype == errors_CV.dtype:
            weight_grad_VD.addmm_(errors_CV.t(), scaled_CD)
        else:
            weight_grad_VD.add_(torch.mm(errors_CV.t(), scaled_CD))


class _FusedLoss(torch.autograd.Function):
    """Loss and gradients of the kept rows in one pass; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_FD: Tensor,
        weight_VD: Tensor,
        targets_F: Tensor,
        scale_F: Tensor,
        kept_K: Tensor,
        max_logits_bytes: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = (grad_enabled and wanted for wanted in ctx.needs_input_grad[:2])
        memory = _Memory(hidden_FD, len(weight_VD), len(kept_K), max_logits_bytes, holds_gradient=wants_hidden)
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=_sum_dtype(weight_VD)) if wants_weight else None
        losses_F = torch.zeros_like(scale_F)
        chunks = _Chunks(hidden_FD, weight_VD, targets_F, kept_K, memory)
        for chunk in chunks.split():
            losses_F[chunk.rows_C] = chunks.losses(chunk)
            if wants_hidden or wants_weight:
                chunks.add_gradients(chunk, scale_F[chunk.rows_C], weight_grad_VD)
        chunks.repair_underflow(losses_F)
        if (hidden_grad_FD := memory.hidden_grad_FD) is not None:
            hidden_grad_FD.masked_fill_(_dropped(kept_K, hidden_FD).unsqueeze(1), 0.0)
        ctx.gradients, ctx.weight_dtype = (hidden_grad_FD, weight_grad_VD), weight_VD.dtype
        ctx.mark_non_differentiable(losses_F)
        return (losses_F * scale_F).sum(), losses_F

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients: tuple[Tensor | None, Tensor | None] | None = ctx.gradients
        # Given away, not kept: a reference left here would make autograd copy both gradients.
        ctx.gradients = None
        assert gradients is not None, "the fused loss gave its gradients away in the first backward; compute it again"
        hidden_FD, weight_VD = gradients
        if hidden_FD is not None:
            hidden_FD.mul_(upstream[0])
        if weight_VD is not None:
            weight_VD = weight_VD.mul_(upstream[0]).to(ctx.weight_dtype)
        return hidden_FD, weight_VD, None, None, None, None, None


def _dropped(kept_K: Tensor, hidden_FD: Tensor) -> Tensor:
    """Return the mask, [F], of the rows that are not kept."""
    dropped_F = torch.ones(len(hidden_FD), dtype=torch.bool, device=hidden_FD.device)
    dropped_F[kept_K] = False
    return dropped_F
