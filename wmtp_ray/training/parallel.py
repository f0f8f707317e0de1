"""Where a rank computes and how gradients meet: device, precision, DDP or FSDP2 (`sharding.py`).

It does not start processes: Ray Train does (see `actors/policy_worker.py`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from wmtp_ray.config.schema import RunConfig, TrainConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.ranks import Ranks
from wmtp_ray.tracking.decisions import Place
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.sharding import shard


def distribute(loss: StageLoss, train: TrainConfig, ranks: Ranks, device: torch.device) -> nn.Module:
    """Put the loss module onto `device`, replicated or sharded over the ranks; one rank needs neither.

    Build the optimizer afterwards. Both ways average gradients over the ranks (see `replicate`).
    """
    if train.parallel == "fsdp2" and ranks.world_size > 1:
        return shard(loss, ranks, device, train.dtype)
    return replicate(loss.to(device), ranks, device)


def replicate(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Wrap `module` so that a backward pass averages its gradients over the ranks (DDP); one rank needs no wrapper.

    DDP divides the sum by the world size; `training/step.py` multiplies the loss by it, because our denominators are
    already global.
    """
    if ranks.world_size == 1:
        return module
    device_ids = [device.index or 0] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


def unwrapped(module: nn.Module) -> StageLoss:
    """Return the loss module inside what `distribute` or `replicate` returned."""
    loss = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(loss, StageLoss)
    return loss


@contextmanager
def reduce_gradients_when(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Skip the reduction of gradients in this block unless `wanted`.

    Under FSDP2 a backward that does not reduce leaves weights and gradients whole on every rank: nothing is gathered
    again for the next forward, and the memory of both is not shared until the backward that reduces.
    """
    skip: AbstractContextManager[object] = nullcontext()
    if isinstance(module, DistributedDataParallel) and not wanted:
        skip = module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
        module.set_reshard_after_backward(wanted)
    with skip:
        yield


def forward_precision(dtype: Literal["float32", "bfloat16"], device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: bfloat16 products on CUDA where asked for, float32 everywhere else."""
    if dtype == "float32":
        return nullcontext()
    assert device.type == "cuda", f"bfloat16 on {device.type}: the schema refuses it"
    return torch.autocast("cuda", dtype=torch.bfloat16)


def module_precision(
    module: nn.Module, dtype: Literal["float32", "bfloat16"], device: torch.device
) -> AbstractContextManager[object]:
    """Return `forward_precision` for a module of `distribute`; a sharded one sees to its precision itself."""
    return nullcontext() if isinstance(module, FSDPModule) else forward_precision(dtype, device)


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


def device_words(device: torch.device) -> str:
    """Name a device, for the record: cpu, cuda:0 (NVIDIA H200)."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def place_of_ranks(device: torch.device, config: RunConfig, stage: int, step: int, ranks: Ranks) -> Place:
    """Return what is on record of a start of the ranks: what `train.device=auto` came to, and how many they are."""
    where = device_words(device)
    return Place("ranks", where, config.train.dtype, stage=stage, step=step, num_ranks=ranks.world_size)


def scorer_device(config: RunConfig) -> str:
    """Return where an actor that scores runs; without a GPU share on the CPU, even where the policy has a GPU."""
    if config.cluster.gpus_per_critic > 0 or config.train.device != "cuda":
        return config.train.device
    return "cpu"
