"""What the devices of a run hold: GPUs by their makers' data sheets (dense products, no sparsity), and this machine.

Asks no driver: a dry run may describe GPUs that are elsewhere. `cluster.gpu_type` names the entry.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_CPU_QUOTA, _CPU_PERIOD = (Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
_CPU_SET = Path("/sys/fs/cgroup/cpuset/cpuset.cpus")
_DEVICES = Path("/dev")
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


def machine_cpus() -> int:
    """Return the CPUs that Ray would find here: this machine's, or the container's limit (2.60 counts whole ones)."""
    machine = os.cpu_count() or 1
    if os.environ.get("RAY_USE_MULTIPROCESSING_CPU_COUNT"):
        return machine
    limits = [limit for limit in (_cpu_quota(), _cpu_set()) if limit is not None]
    return int(min(limits)) if limits else machine


def _cpu_quota() -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        if _CPU_QUOTA.exists() and _CPU_PERIOD.exists():
            quota = float(_CPU_QUOTA.read_text()) / float(_CPU_PERIOD.read_text())
        else:
            allowed, period = _CPU_LIMIT.read_text().split()  # "max 100000" where there is no limit
            quota = float(allowed) / float(period)
        return None if quota < 0 else quota or 1.0
    return None


def _cpu_set() -> int | None:
    with suppress(OSError, ValueError):
        ranges = [part.partition("-") for part in _CPU_SET.read_text().strip().split(",")]
        return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    return None


def machine_gpus() -> int | None:
    """Return the NVIDIA GPUs that are visible here; None where they cannot be counted without their driver (WSL)."""
    if (_DEVICES / "dxg").exists():
        return None
    cards = sum(path.name.removeprefix("nvidia").isdecimal() for path in _DEVICES.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = cards if visible is None else len([each for each in visible.split(",") if each and each != "NoDevFiles"])
    return min(cards, named)
