"""Rho-1: choosing or weighting pairs by how much worse the policy is than a reference (objective.md, "Rho-1").

Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", equations 3 to 5. Excess loss grows with the
horizon, so every function that ranks takes one horizon at a time. Shape legend: B rows, T positions, H horizons,
P = all supervised pairs of ONE horizon in the GLOBAL batch (gathered over ranks and micro-batches by the caller).
"""

import math
from decimal import Decimal

import torch
from torch import Tensor

from wmtp_ray.objective.horizon import at_horizons


def excess_losses(
    policy_losses_BTH: Tensor, reference_losses_BT: Tensor, document_ids_BT: Tensor | None = None
) -> Tensor:
    """Return the signed `CE_policy[t, k] - CE_ref[t + k]`, detached: [B, T, H]; 0 where the pair does not exist.

    `reference_losses_BT[j]` is an ordinary model's loss of token j given those before it, whatever the horizon.
    """
    num_horizons = policy_losses_BTH.shape[-1]
    reference_BTH, exists_BTH = at_horizons(reference_losses_BT.detach(), num_horizons, document_ids_BT)
    excess_BTH = policy_losses_BTH.detach() - reference_BTH
    return torch.where(exists_BTH, excess_BTH, torch.zeros_like(excess_BTH))


def num_kept(num_pairs: int, keep_ratio: float) -> int:
    """Return ceil(keep_ratio * num_pairs) of the ratio as written: 0.07 of 100 is 7, where floats would give 8."""
    return math.ceil(Decimal(repr(float(keep_ratio))) * num_pairs)


def keep_top(excess_P: Tensor, keep_ratio: float, tie_break_P: Tensor) -> Tensor:
    """Mark the `num_kept` pairs of largest excess, bool [P]; equal excess goes to the lowest `tie_break_P`.

    With a tie break that names the pair in the global batch, the choice does not depend on the pairs' order.
    """
    assert 0 < keep_ratio <= 1, "keep_ratio lies in (0, 1]"
    by_tie_break_P = torch.argsort(tie_break_P, stable=True)
    by_excess_P = by_tie_break_P[torch.argsort(excess_P[by_tie_break_P], descending=True, stable=True)]
    kept_P = torch.zeros_like(excess_P, dtype=torch.bool)
    kept_P[by_excess_P[: num_kept(len(excess_P), keep_ratio)]] = True
    return kept_P


def excess_weights(excess_P: Tensor, temperature: float, *, clip_min: float, clip_max: float) -> Tensor:
    """Return `clip(exp(excess / temperature), clip_min, clip_max)`, divided by its mean: mean 1, detached.

    After the division the weights may leave the clip interval; their ratio never exceeds clip_max / clip_min.
    """
    assert temperature > 0, "temperature must be positive"
    weights_P = torch.exp(excess_P.detach() / temperature).clamp(clip_min, clip_max)
    return weights_P / weights_P.mean()
