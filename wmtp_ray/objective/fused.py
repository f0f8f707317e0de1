"""Unembedding and weighted cross-entropy of all horizons in one function, without ever holding all logits.

Shape legend: H horizons, N rows of one horizon, F = H * N rows in one list, K kept rows, C rows of one chunk,
V vocabulary, D width.

The loss is a scalar and linear in each row's cross-entropy, so the gradient of a row's logits is known as soon as the
logits are: `scale * (softmax - onehot)`. The forward therefore walks over the kept rows chunk by chunk, makes one
chunk's logits in a buffer that is reused, turns them into probabilities in place, and at once multiplies them into
the two gradients. The backward only multiplies those by the upstream gradient, in place: peak memory is the two
gradients and one buffer; time is three matrix products and one softmax. Rows of weight 0 are dropped before the first
product.

Sums are float32 (float64 for float64 inputs). With half-precision inputs the products run in that precision, softmax
and sums in float32, at the price of one more table [V, D] for a chunk's contribution.
This module does not know where rows, weights or denominators come from (see `horizon` and `weighting`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MIB = 2**20
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

    Rows are already normed. A row of weight 0 is dropped: its hidden state and target are never read (the target may be
    any number) and its gradient is 0. `max_logits_bytes` bounds the logits buffer; None takes 18 % of the gradients'
    bytes, between 4 and 64 MiB. The gradients are made in the forward and given away by the backward: a second backward
    through the same loss is refused. Under `torch.no_grad()` none are made.
    """
    num_horizons, num_rows, width = hidden_HND.shape
    if max_logits_bytes is None:
        gradient_bytes = (hidden_HND.numel() + output_weight_VD.numel()) * hidden_HND.element_size()
        max_logits_bytes = min(max(gradient_bytes * 18 // 100, 4 * _MIB), 64 * _MIB)
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
    return loss, losses_F.view(num_horizons, num_rows).sum(dim=1) * inverse_H


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
    chunks = _Chunks(hidden_ND, weight_VD, targets_N, rows, max_logits_bytes)
    for rows_C in chunks.split():
        losses_N[rows_C], _ = chunks.losses_and_probabilities(rows_C)
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
class _Gradients:
    """The two gradients while they grow; None where none is wanted."""

    hidden_FD: Tensor | None
    weight_VD: Tensor | None


class _Chunks:
    """The kept rows in chunks, with the buffers that all chunks share."""

    def __init__(
        self, hidden_FD: Tensor, weight_VD: Tensor, targets_F: Tensor, kept_K: Tensor, max_logits_bytes: int
    ) -> None:
        self._hidden_FD, self._weight_VD, self._targets_F, self._kept_K = hidden_FD, weight_VD, targets_F, kept_K
        sum_dtype, vocabulary = _sum_dtype(hidden_FD), len(weight_VD)
        same_dtype = sum_dtype == hidden_FD.dtype
        row_bytes = vocabulary * (sum_dtype.itemsize + (0 if same_dtype else hidden_FD.element_size()))
        most_rows = max(1, max_logits_bytes // row_bytes)
        num_chunks = max(1, -(-len(kept_K) // most_rows))
        self._num_rows = max(1, -(-len(kept_K) // num_chunks))  # even chunks: a short last one would waste a product
        self._logits_CV = hidden_FD.new_empty(self._num_rows, vocabulary)
        self._probabilities_CV = self._logits_CV if same_dtype else self._logits_CV.to(sum_dtype)

    def split(self) -> tuple[Tensor, ...]:
        """Return the kept rows' numbers, chunk by chunk."""
        return torch.split(self._kept_K, self._num_rows) if len(self._kept_K) else ()

    def losses_and_probabilities(self, rows_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' cross-entropies and probabilities [C, V]; the latter live until the next call.

        A cross-entropy may be infinite, or short of digits, above 69: see `repair_underflow`.
        """
        logits_CV = self._logits_CV[: len(rows_C)]
        torch.mm(self._hidden_FD[rows_C], self._weight_VD.t(), out=logits_CV)
        probabilities_CV = self._probabilities_CV[: len(rows_C)]
        if probabilities_CV.dtype != logits_CV.dtype:
            probabilities_CV.copy_(logits_CV)
        torch.softmax(probabilities_CV, dim=1, out=probabilities_CV)
        target_C1 = probabilities_CV.gather(1, self._targets_F[rows_C].unsqueeze(1))
        return target_C1.squeeze(1).log_().neg_(), probabilities_CV

    def repair_underflow(self, losses_F: Tensor) -> None:
        """Compute again, from logits, the losses of rows whose target's probability is too small for float32.

        In place, once for all chunks: finding such rows reads a number back from the device.
        """
        far_K = self._kept_K[losses_F[self._kept_K] > _LARGEST_EXACT_LOSS]
        for rows_C in torch.split(far_K, self._num_rows) if len(far_K) else ():
            logits_CV = torch.mm(self._hidden_FD[rows_C], self._weight_VD.t(), out=self._logits_CV[: len(rows_C)])
            target_C1 = logits_CV.gather(1, self._targets_F[rows_C].unsqueeze(1)).to(losses_F)
            losses_F[rows_C] = logits_CV.to(losses_F).logsumexp(dim=1) - target_C1.squeeze(1)

    def add_gradients(self, rows_C: Tensor, probabilities_CV: Tensor, scale_C: Tensor, into: _Gradients) -> None:
        """Add the rows' part of both gradients; overwrites the probabilities."""
        probabilities_CV[torch.arange(len(rows_C), device=rows_C.device), self._targets_F[rows_C]] -= 1
        errors_CV = self._logits_CV[: len(rows_C)]
        if errors_CV.dtype != probabilities_CV.dtype:
            errors_CV.copy_(probabilities_CV)
        # The scale goes to the narrow factor of each product: D numbers a row instead of V.
        scale_C1 = scale_C.unsqueeze(1)
        if into.hidden_FD is not None:
            into.hidden_FD[rows_C] = torch.mm(errors_CV, self._weight_VD).mul_(scale_C1)
        if into.weight_VD is not None:
            scaled_CD = self._hidden_FD[rows_C].mul_(scale_C1)
            if into.weight_VD.dtype == errors_CV.dtype:
                into.weight_VD.addmm_(errors_CV.t(), scaled_CD)
            else:
                into.weight_VD.add_(torch.mm(errors_CV.t(), scaled_CD))


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
        gradients = _Gradients(
            torch.zeros_like(hidden_FD) if wants_hidden else None,
            torch.zeros_like(weight_VD, dtype=_sum_dtype(weight_VD)) if wants_weight else None,
        )
        losses_F = torch.zeros_like(scale_F)
        chunks = _Chunks(hidden_FD, weight_VD, targets_F, kept_K, max_logits_bytes)
        for rows_C in chunks.split():
            losses_F[rows_C], probabilities_CV = chunks.losses_and_probabilities(rows_C)
            if wants_hidden or wants_weight:
                chunks.add_gradients(rows_C, probabilities_CV, scale_F[rows_C], gradients)
        chunks.repair_underflow(losses_F)
        ctx.gradients, ctx.weight_dtype = gradients, weight_VD.dtype
        ctx.mark_non_differentiable(losses_F)
        return (losses_F * scale_F).sum(), losses_F

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients: _Gradients | None = ctx.gradients
        # Given away, not kept: a reference left here would make autograd copy both gradients.
        ctx.gradients = None
        assert gradients is not None, "the fused loss gave its gradients away in the first backward; compute it again"
        hidden_FD, weight_VD = gradients.hidden_FD, gradients.weight_VD
        if hidden_FD is not None:
            hidden_FD.mul_(upstream[0])
        if weight_VD is not None:
            weight_VD = weight_VD.mul_(upstream[0]).to(ctx.weight_dtype)
        return hidden_FD, weight_VD, None, None, None, None, None
