"""From what a value head gives to V, float32, by `ValueSpec.output`. It has no parameters.

Shapes: B sequences, T positions, O outputs of the head, K bins.
"""

import torch
from torch import Tensor

from wmtp_ray.model.value_spec import ValueSpec


def values_of(outputs_BTO: Tensor, spec: ValueSpec) -> Tensor:
    """Return values_BT: the output itself, the sigmoid of a logit, or the mean of the distribution over bins.

    Bin i of K stands at i / (K - 1), so V lies in [0, 1]. Gradient flows.
    """
    if spec.output == "bins":
        return outputs_BTO.softmax(dim=-1) @ bin_centers(spec.num_bins).to(outputs_BTO)
    outputs_BT = outputs_BTO[..., 0]
    return outputs_BT.sigmoid() if spec.output == "logit" else outputs_BT


def bin_centers(num_bins: int) -> Tensor:
    """Return the values that the bins stand for, [K]: 0, 1 / (K - 1), ..., 1."""
    return torch.linspace(0.0, 1.0, num_bins)
