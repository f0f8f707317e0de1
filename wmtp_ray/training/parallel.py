"""The ranks of a run, as the rest of training sees them: sums, gathers and the wrapper that reduces gradients.

One interface over a single process and a torch process group, so that no other module asks how many ranks there are.
It does not start processes: Ray Train does (see `actors/policy_worker.py`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError


class Ranks(Protocol):
    """What a rank may ask of the others. Every rank must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the elementwise sum over ranks, the same on each."""
        ...

    def gather(self, tensor_N: Tensor) -> list[Tensor]:
        """Return every rank's 1-D tensor, in rank order; lengths may differ."""
        ...


class OneRank:
    """A run with a single process."""

    rank = 0
    world_size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor_N: Tensor) -> list[Tensor]:
        return [tensor_N]


class GroupRanks:
    """The ranks of the default torch process group (gloo or NCCL)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

        # NCCL reduces CUDA tensors only, gloo those of the CPU; callers need not know.
        self._device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.to(self._device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, tensor_N: Tensor) -> list[Tensor]:
        home, tensor_N = tensor_N.device, tensor_N.to(self._device)
        length = torch.tensor([tensor_N.numel()], dtype=torch.int64, device=tensor_N.device)
        lengths = [torch.zeros_like(length) for _ in range(self.world_size)]
        dist.all_gather(lengths, length)
        longest = max(int(each) for each in lengths)
        padded = tensor_N.new_zeros(longest)
        padded[: tensor_N.numel()] = tensor_N
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [part[: int(each)].to(home) for part, each in zip(parts, lengths, strict=True)]


def current_ranks() -> Ranks:
    """Return the process group's ranks, or the single rank where there is no group."""
    return GroupRanks() if dist.is_initialized() and dist.get_world_size() > 1 else OneRank()


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
