"""AdamW, its parameter groups, and the learning rate as a pure function of the step (nothing to save or restore)."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from wmtp_ray.config.schema import TrainConfig


def build_optimizer(model: nn.Module, train: TrainConfig, learning_rate: float) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient; weight decay acts on matrices only, not on norms."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [parameter for _, parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for _, parameter in trainable if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=learning_rate, betas=train.adam_betas, eps=1e-8
    )


def learning_rate_at(step: int, num_steps: int, *, peak: float, warmup_frac: float, min_frac: float) -> float:
    """Return the rate of step `step` (from 0): linear warm-up, then cosine down to `min_frac * peak` at the last step.

    With 10 steps, warmup_frac 0.2: the steps 0 and 1 have peak/2 and peak, step 9 has min_frac * peak.
    """
    # The fraction as written: 0.07 of 100 steps is 7, though the floats multiply to more.
    warmup_steps = math.ceil(num_steps * warmup_frac - 1e-9)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps + 1) / max(1, num_steps - warmup_steps)
    return peak * (min_frac + (1.0 - min_frac) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their global L2 norm is at most `max_norm`; return the norm before.

    Gradients may be sharded: then every rank calls it, and the norm is that of the whole, the same on each.
    """
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)
