"""From what value heads give to V, float32, by `ValueSpec.output`. It has no parameters.

An ensemble gives the outputs of its members one behind the other: 2 members with 3 bins each give 6 numbers, of which
the last 3 are the second member's. Its V is the mean of the members' V.

Shapes: N members, B sequences, T positions, O outputs of one head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.value_losses import mean_of_bins


@dataclass(frozen=True)
class ValueScores:
    """V of every state, and how far an ensemble's members disagree about it; None where there is one member."""

    values_BT: Tensor
    disagreements_BT: Tensor | None = None


@dataclass(frozen=True)
class ValueStates:
    """V of every state and the outputs of the one head that it comes from."""

    values_BT: Tensor
    value_outputs_BTO: Tensor


def values_of(outputs: Tensor, spec: ValueSpec) -> Tensor:
    """Return values_BT of outputs [B, T, N O]: the mean over members of `values_of_member`. Gradient flows."""
    if spec.members == 1:
        return values_of_member(outputs, spec)
    return _values_of_members(outputs, spec).mean(dim=0)


def values_of_member(outputs_BTO: Tensor, spec: ValueSpec) -> Tensor:
    """Return values_BT: the output itself, the sigmoid of a logit, or the mean of bins over [0, 1]. Gradient flows."""
    if spec.output == "bins":
        return mean_of_bins(outputs_BTO)
    outputs_BT = outputs_BTO[..., 0]
    return outputs_BT.sigmoid() if spec.output == "logit" else outputs_BT


def scores_of(outputs: Tensor, spec: ValueSpec) -> ValueScores:
    """Return V and, of an ensemble, the standard deviation of the members' V: sqrt(mean_n (V_n - V)^2).

    Members that say 0.2 and 0.8 have V 0.5 and a disagreement of 0.3.
    """
    if spec.members == 1:
        return ValueScores(values_of_member(outputs, spec))
    values_NBT = _values_of_members(outputs, spec)
    return ValueScores(values_NBT.mean(dim=0), values_NBT.std(dim=0, correction=0))


def states_of_members(outputs: Tensor, spec: ValueSpec) -> list[ValueStates]:
    """Return what each member says."""
    return [ValueStates(values_of_member(own_BTO, spec), own_BTO) for own_BTO in _outputs_of_members(outputs, spec)]


def states_of_mean(outputs: Tensor, spec: ValueSpec) -> ValueStates:
    """Return the V of an ensemble and the outputs of one head that has this V: what its loss as one critic reads.

    Logits u_n become the logit of the mean of their sigmoids, bins the logarithm of the mean of their distributions.
    """
    outputs_NBTO = torch.stack(_outputs_of_members(outputs, spec))
    if spec.output == "bins":
        pooled_BTO = outputs_NBTO.log_softmax(dim=-1).logsumexp(dim=0)
    elif spec.output == "logit":
        pooled_BTO = F.logsigmoid(outputs_NBTO).logsumexp(dim=0) - F.logsigmoid(-outputs_NBTO).logsumexp(dim=0)
    else:
        pooled_BTO = outputs_NBTO.mean(dim=0)
    return ValueStates(values_of(outputs, spec), pooled_BTO)


def _values_of_members(outputs: Tensor, spec: ValueSpec) -> Tensor:
    return torch.stack([values_of_member(own_BTO, spec) for own_BTO in _outputs_of_members(outputs, spec)])


def _outputs_of_members(outputs: Tensor, spec: ValueSpec) -> list[Tensor]:
    return list(torch.split(outputs, spec.num_outputs, dim=-1))
