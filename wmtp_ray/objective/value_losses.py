"""The losses beside the fused cross-entropy: value, anchor, pairwise (objective.md, "Losses").

Every denominator is the GLOBAL count (all ranks, all accumulation steps), passed in, never taken from the local
micro-batch: so a loss and its gradient are the same for any split, and sums over micro-batches are the global mean.
Shape legend: B rows, T positions, S masked states, P pairs, M documents. States are those of `td.value_state_mask`.

The clipped value loss is PPO's (Schulman et al. 2017, as in its reference implementation).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wmtp_ray.objective.documents import sums_per_document

# e(v, G), elementwise: `squared_error`, or `huber_error` with its delta bound.
ErrorFunction = Callable[[Tensor, Tensor], Tensor]


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
