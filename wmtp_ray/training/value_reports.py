"""What is reported of values: sums over the states of a micro-batch, and the metrics of a step that they become.

The critic that scores and a value head of the policy that scores nothing never share a name:

| prefix           | whose values                                                                                    |
|------------------|-------------------------------------------------------------------------------------------------|
| `critic/`        | of the value path that scores: as it is now where a loss trains it, else as it scored the batch |
| `policy_head/`   | of the policy's own head while another critic scores (`critic.source: frozen`)                  |

`loss/value` and `loss/anchor` are of the first, `policy_head/value_loss` and `policy_head/anchor_loss` of the second.
Sums travel as `sum/<prefix>/<what>`: ranks and micro-batches add up. Shapes: B sequences, T positions, S states.
"""

from typing import Literal

import torch
from torch import Tensor

Head = Literal["critic", "policy_head"]
_HEADS: tuple[Head, ...] = ("critic", "policy_head")
_LOSS_NAMES: dict[Head, tuple[str, str]] = {
    "critic": ("loss/value", "loss/anchor"),
    "policy_head": ("policy_head/value_loss", "policy_head/anchor_loss"),
}


def loss_parts(head: Head, value_loss: Tensor, anchor_loss: Tensor) -> dict[str, Tensor]:
    """Return the two losses of a head under its names, detached."""
    value_name, anchor_name = _LOSS_NAMES[head]
    return {value_name: value_loss.detach(), anchor_name: anchor_loss.detach()}


def value_sums(head: Head, values_BT: Tensor, targets_BT: Tensor, states_BT: Tensor) -> dict[str, Tensor]:
    """Return what explained variance and the fraction outside [0, 1] are made from."""
    v_S, g_S = (each.detach()[states_BT].cpu().double() for each in (values_BT, targets_BT))
    sums = {
        "states": torch.tensor(float(v_S.numel())),
        "target": g_S.sum(),
        "target_squared": g_S.square().sum(),
        "residual": (g_S - v_S).sum(),
        "residual_squared": (g_S - v_S).square().sum(),
        "value_outside": ((v_S < 0.0) | (v_S > 1.0)).sum(),
    }
    return {f"sum/{head}/{name}": each for name, each in sums.items()}


def distance_sums(
    head: Head, values_BT: Tensor, old_BT: Tensor, states_BT: Tensor, value_clip: float
) -> dict[str, Tensor]:
    """Return what the distance to the values that scored, and the fraction beyond the value clip, are made from."""
    v_S, old_S = (each.detach()[states_BT].cpu().double() for each in (values_BT, old_BT))
    moved_S = (v_S - old_S).abs()
    return {
        f"sum/{head}/value_clipped": (moved_S > value_clip).sum(),
        f"sum/{head}/anchor_distance": moved_S.sum(),
    }


def disagreement_sums(head: Head, disagreements_BT: Tensor, states_BT: Tensor) -> dict[str, Tensor]:
    """Return what the mean disagreement of an ensemble's members is made from."""
    return {f"sum/{head}/disagreement": disagreements_BT.detach()[states_BT].cpu().double().sum()}


def derive_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Turn the sums over all ranks into explained variance and fractions; everything else passes through."""
    metrics = {name: value for name, value in sums.items() if not name.startswith("sum/")}
    for head in _HEADS:
        prefix = f"sum/{head}/"
        own = {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}
        if own.get("states", 0.0) > 0.0:
            metrics |= {f"{head}/{name}": value for name, value in _of_head(own).items()}
    return metrics


def _of_head(sums: dict[str, float]) -> dict[str, float]:
    n = sums["states"]
    target_variance = sums["target_squared"] / n - (sums["target"] / n) ** 2
    residual_variance = sums["residual_squared"] / n - (sums["residual"] / n) ** 2
    metrics = {}
    if target_variance > 1e-12:
        metrics["explained_variance"] = 1.0 - residual_variance / target_variance
    if "anchor_distance" in sums:
        metrics["anchor_distance"] = sums["anchor_distance"] / n
        metrics["value_clip_frac"] = sums["value_clipped"] / n
    if "disagreement" in sums:
        metrics["disagreement"] = sums["disagreement"] / n
    metrics["outside_unit_frac"] = sums["value_outside"] / n
    return metrics
