"""FSDP2: every rank holds a share of weights, gradients and optimizer, and makes a block whole while it computes it.

    loss module (root)     embedding, norm, output: whole from the root's entry to the end of its backward
      transformer blocks   one group each, trunks and prediction heads: whole while they run
      value heads          a group each, because they stay float32

The root must be entered through its own methods: `forward`, and those that `register_fsdp_forward_method` names below.
Mixed precision is FSDP's own instead of autocast: bfloat16 copies are gathered, gradients are reduced in float32. The
residual stream is bfloat16 then; autocast keeps it float32.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from vendor.meta_llama.model import TransformerBlock
from wmtp_ray.ranks import Ranks
from wmtp_ray.training.losses import StageLoss


def shard(loss: StageLoss, ranks: Ranks, device: torch.device, dtype: Literal["float32", "bfloat16"]) -> StageLoss:
    """Share the loss module's parameters among all ranks, in place, group by group onto `device`.

    Every rank must hold the same values before. Build the optimizer afterwards: the parameters are replaced.
    """
    mesh = init_device_mesh(device.type, (ranks.world_size,))
    # Inputs are not cast: token weights and rotary angles stay float32; hidden states have the embedding's dtype.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if dtype == "bfloat16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in loss.policy.modules():
        if isinstance(block, TransformerBlock):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    for head in loss.policy.value_heads:
        fully_shard(head, mesh=mesh)
    fully_shard(loss, mesh=mesh, mp_policy=policy)
    for method in loss.passes:
        register_fsdp_forward_method(loss, method)
    return loss


@torch.no_grad()
def whole_tensors(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Gather tensors, one at a time, onto rank 0's CPU; other ranks get an empty dict. Every rank calls it.

    Tensors that are whole already are not copied if they are on the CPU: use them before the next optimizer step.
    """
    gathered = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.rank == 0:
            gathered[name] = whole.detach().cpu()
    return gathered
