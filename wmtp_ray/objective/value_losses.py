"""The losses beside the fused cross-entropy: value, anchor, pairwise (objective.md, "Losses").

Every denominator is the GLOBAL count (all ranks, all accumulation steps), passed in, never taken from the local
micro-batch: so a loss and its gradient are the same for any split, and sums over micro-batches are the global mean.
Shape legend: B rows, T positions, S masked states, P pairs, M documents, K bins. States are those of
`td.value_state_mask`.

The clipped value loss is PPO's (Schulman et al. 2017, as in its reference implementation); bins with a Gaussian target
are HL-Gauss (Farebrother et al. 2024, arXiv 2403.03950).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wmtp_ray.objective.documents import sums_per_document

# e(v, G), elementwise: `squared_error`, or `huber_error` with its delta bound.
ErrorFunction = Callable[[Tensor, Tensor], Tensor]

BinTarget = Literal["two_hot", "gaussian"]
GAUSSIAN_SIGMA = 0.75  # of a bin's width
_SMALLEST_PROBABILITY = 1e-6  # of a clipped value


def squared_error(values: Tensor, targets: Tensor) -> Tensor:
    """Return `(v - G)^2`, elementwise."""
    return (values - targets) ** 2


def huber_error(values: Tensor, targets: Tensor, *, delta: float) -> Tensor:
    """Return `(v - G)^2 / 2` up to a distance of `delta`, `delta * (|v - G| - delta / 2)` beyond, elementwise."""
    return F.huber_loss(values, targets, reduction="none", delta=delta)


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    targets_BT: Tensor,
    state_mask_BT: Tensor,
    *,
    value_clip: float,
    error: ErrorFunction,
    denominator: float | Tensor,
) -> Tensor:
    """Return the sum over states of `max(e(v, G), e(v_clipped, G))`, divided by the global number of states.

    `v_clipped = old + clip(v - old, -value_clip, value_clip)`; `old` is what the scoring critic said. The maximum
    takes away the reward for leaving old by more than value_clip. Old values and targets get no gradient.
    """
    values_S, old_S, targets_S = _states(values_BT, old_values_BT, state_mask_BT, targets_BT)
    clipped_S = old_S + (values_S - old_S).clamp(-value_clip, value_clip)
    return torch.maximum(error(values_S, targets_S), error(clipped_S, targets_S)).sum() / denominator


def bce_value_loss(
    logits_BT: Tensor,
    old_values_BT: Tensor,
    targets_BT: Tensor,
    state_mask_BT: Tensor,
    *,
    value_clip: float,
    denominator: float | Tensor,
) -> Tensor:
    """Return `value_loss` for V = sigmoid(u) and e(V, G) = -G log V - (1 - G) log(1 - V), from the logits u.

    e(V, G) itself comes from u, so it stays finite and keeps its gradient however sure V is.
    """
    logits_S, old_S, targets_S = _states(logits_BT, old_values_BT, state_mask_BT, targets_BT)
    clipped_S = old_S + (logits_S.sigmoid() - old_S).clamp(-value_clip, value_clip)
    clipped_S = clipped_S.clamp(_SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
    error_S = F.binary_cross_entropy_with_logits(logits_S, targets_S, reduction="none")
    clipped_error_S = F.binary_cross_entropy(clipped_S, targets_S, reduction="none")
    return torch.maximum(error_S, clipped_error_S).sum() / denominator


def categorical_value_loss(
    logits_BTK: Tensor,
    old_values_BT: Tensor,
    targets_BT: Tensor,
    state_mask_BT: Tensor,
    *,
    target: BinTarget,
    value_clip: float,
    denominator: float | Tensor,
) -> Tensor:
    """Return the sum of the cross-entropies of K bins against `bin_targets`, over the global number of states.

    V is the bins' mean. A state whose V has left old by more than `value_clip` on the way to G gives no gradient: what
    the maximum does in `value_loss`, for a loss that is no function of V.
    """
    logits_SK = logits_BTK[state_mask_BT].to(torch.promote_types(logits_BTK.dtype, torch.float32))
    old_S, targets_S = (each[state_mask_BT].detach().to(logits_SK) for each in (old_values_BT, targets_BT))
    error_S = -(bin_targets(targets_S, logits_SK.shape[-1], target) * logits_SK.log_softmax(dim=-1)).sum(dim=-1)
    values_S = mean_of_bins(logits_SK.detach())
    moved_S = values_S - old_S
    clipped_S = old_S + moved_S.clamp(-value_clip, value_clip)
    is_nearer_S = (values_S - targets_S).abs() < (clipped_S - targets_S).abs()
    is_free_S = ~is_nearer_S | (moved_S.abs() <= value_clip)
    return torch.where(is_free_S, error_S, error_S.detach()).sum() / denominator


def mean_of_bins(logits: Tensor) -> Tensor:
    """Return the mean of distributions over K bins, [...] for logits [..., K]; bin i stands at i / (K - 1)."""
    return logits.softmax(dim=-1) @ torch.linspace(0.0, 1.0, logits.shape[-1]).to(logits)


def bin_targets(targets_S: Tensor, num_bins: int, kind: BinTarget) -> Tensor:
    """Spread targets in [0, 1] over bins at 0, 1 / (K - 1), ..., 1: [S, K], each row sums to 1.

    `two_hot`: on the two bins around the target, so that their mean is the target. `gaussian`: the mass of a normal
    density around the target, sigma `GAUSSIAN_SIGMA` of a bin, that falls into each bin, renormalised. K = 5, G = 0.3
    (1.2 bins) gives [0, .8, .2, 0, 0] and about [.17, .49, .31, .04, .00]. Targets outside [0, 1] count as its ends.
    """
    places_S = targets_S.clamp(0.0, 1.0) * (num_bins - 1)
    distances_SK = torch.arange(num_bins, device=targets_S.device) - places_S[:, None]
    if kind == "two_hot":
        return (1.0 - distances_SK.abs()).clamp(min=0.0)
    scale = GAUSSIAN_SIGMA * math.sqrt(2.0)
    mass_SK = torch.erf((distances_SK + 0.5) / scale) - torch.erf((distances_SK - 0.5) / scale)
    return mass_SK / mass_SK.sum(dim=-1, keepdim=True)


def anchor_loss(
    values_BT: Tensor, old_values_BT: Tensor, state_mask_BT: Tensor, *, denominator: float | Tensor
) -> Tensor:
    """Return the sum over states of `(v - old)^2`, divided by the global number of states."""
    values_S, old_S, _ = _states(values_BT, old_values_BT, state_mask_BT, old_values_BT)
    return squared_error(values_S, old_S).sum() / denominator


def pairwise_loss(mean_correct_P: Tensor, mean_incorrect_P: Tensor, *, denominator: float | Tensor) -> Tensor:
    """Return the sum of `-log sigmoid(mean V(correct) - mean V(incorrect))` over pairs, divided by their global number.

    Element p of both tensors is a response to the same problem.
    """
    return -F.logsigmoid(mean_correct_P - mean_incorrect_P).sum() / denominator


def mean_response_value(
    values_BT: Tensor,
    state_mask_BT: Tensor,
    *,
    document_ids_BT: Tensor | None = None,
    num_documents: int | None = None,
) -> Tensor:
    """Return the mean value over every document's states, with gradient: [M]; NaN for a document without states."""
    values_BT = values_BT.to(torch.promote_types(values_BT.dtype, torch.float32))
    sums_M = sums_per_document(values_BT, state_mask_BT, document_ids_BT, num_documents=num_documents)
    ones_BT = torch.ones_like(values_BT)
    return sums_M / sums_per_document(ones_BT, state_mask_BT, document_ids_BT, num_documents=num_documents)


def _states(
    values_BT: Tensor, old_values_BT: Tensor, state_mask_BT: Tensor, targets_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Selecting, not multiplying by the mask: what stands at padding may be anything, NaN included.
    values_S = values_BT[state_mask_BT]
    values_S = values_S.to(torch.promote_types(values_S.dtype, torch.float32))
    return (
        values_S,
        old_values_BT[state_mask_BT].detach().to(values_S),
        targets_BT[state_mask_BT].detach().to(values_S),
    )
