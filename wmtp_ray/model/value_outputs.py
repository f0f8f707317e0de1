"""From what a value head gives to V, float32, by `ValueSpec.output`. It has no parameters.

Shapes: B sequences, T positions, O outputs of the head.
"""

from torch import Tensor

from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.value_losses import mean_of_bins


def values_of(outputs_BTO: Tensor, spec: ValueSpec) -> Tensor:
    """Return values_BT: the output itself, the sigmoid of a logit, or the mean of bins over [0, 1]. Gradient flows."""
    if spec.output == "bins":
        return mean_of_bins(outputs_BTO)
    outputs_BT = outputs_BTO[..., 0]
    return outputs_BT.sigmoid() if spec.output == "logit" else outputs_BT
