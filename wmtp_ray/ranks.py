"""The ranks of a run, as weighting and training see them: sums and gathers.

One interface over a single process and a torch process group, so that no other module asks how many ranks there are.
It does not start processes: Ray Train does (see `actors/policy_worker.py`).
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """Collective operations over the ranks. Every rank must make the same calls in the same order."""

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
