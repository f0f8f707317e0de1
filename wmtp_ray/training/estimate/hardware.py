"""What the devices of a run hold: GPUs by their makers' data sheets (dense products, no sparsity), and this machine.

Asks no driver: a dry run may describe GPUs that are elsewhere. `cluster.gpu_type` names the entry.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
USABLE_FRAC = 0.975  # the CUDA context, NCCL's buffers and fragmentation take the rest: 78 of 80 GiB


@dataclass(frozen=True)
class Card:
    """Memory in bytes; peaks in FLOP/s of bfloat16 and of float32 products (without TF32)."""

    name: str
    memory_bytes: float
    bfloat16_flops: float
    float32_flops: float

    @property
    def usable_bytes(self) -> float:
        return USABLE_FRAC * self.memory_bytes

    def peak_flops(self, dtype: Literal["float32", "bfloat16"]) -> float:
        return self.bfloat16_flops if dtype == "bfloat16" else self.float32_flops


def _card(name: str, memory_gib: float, bfloat16_teraflops: float, float32_teraflops: float) -> Card:
    return Card(name, memory_gib * GIB, bfloat16_teraflops * 1e12, float32_teraflops * 1e12)


CARDS = {
    card.name: card
    for card in (
        _card("A10-24GB", 24, 125, 31.2),
        _card("L4-24GB", 24, 121, 30.3),
        _card("L40S-48GB", 48, 362, 91.6),
        _card("A100-40GB", 40, 312, 19.5),
        _card("A100-80GB", 80, 312, 19.5),
        _card("H100-80GB", 80, 989, 67),
        _card("H200-141GB", 141, 989, 67),
    )
}


def machine_memory_bytes() -> int:
    """Return this machine's memory, or the container's limit where that is lower."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    return machine if limit == "max" else min(machine, int(limit))
