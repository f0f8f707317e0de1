"""Where a rank computes and how gradients meet: device, precision, DDP.

It does not start processes: Ray Train does (see `actors/policy_worker.py`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.ranks import Ranks


def replicate(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Wrap `module` so that a backward pass averages its gradients over the ranks (DDP); one rank needs no wrapper.

    DDP divides the sum by the world size; `training/step.py` multiplies the loss by it, because our denominators are
    already global.
    """
    if ranks.world_size == 1:
        return module
    device_ids = [device.index or 0] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


@contextmanager
def reduce_gradients_when(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Skip DDP's gradient reduction in this block unless `wanted`: only the last micro-batch of a step reduces."""
    skip: AbstractContextManager[object] = nullcontext()
    if isinstance(module, DistributedDataParallel) and not wanted:
        skip = module.no_sync()
    with skip:
        yield


def forward_precision(dtype: Literal["float32", "bfloat16"], device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: bfloat16 products on CUDA where asked for, float32 everywhere else."""
    if dtype == "float32":
        return nullcontext()
    assert device.type == "cuda", f"bfloat16 on {device.type}: the schema refuses it"
    return torch.autocast("cuda", dtype=torch.bfloat16)


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return the device of this rank; `auto` takes cuda, then mps, then cpu. Raises ConfigError when it is absent."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, present in available.items() if present)
    if not available[wanted]:
        raise ConfigError(
            f"train.device={wanted}, but this machine has {[n for n, p in available.items() if p]}; "
            "choose one of these or train.device=auto"
        )
    return torch.device(wanted, local_rank % torch.cuda.device_count()) if wanted == "cuda" else torch.device(wanted)


def scorer_device(config: RunConfig) -> str:
    """Return where an actor that scores runs; without a GPU share on the CPU, even where the policy has a GPU."""
    if config.cluster.gpus_per_critic > 0 or config.train.device != "cuda":
        return config.train.device
    return "cpu"
