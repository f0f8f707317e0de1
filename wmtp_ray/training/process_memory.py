"""The memory of a rank's process: its peak, and giving back what it has freed. Linux with glibc; elsewhere no-ops."""

import ctypes
import sys

import torch

from wmtp_ray.tracking.memory_use import own_peak_bytes


def peak_bytes(device: torch.device) -> int:
    """Return the most that tensors held on a GPU, or that the process held resident on a CPU; 0: not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return own_peak_bytes() or 0


def measured_as(device_type: str) -> str:
    """Return what `peak_bytes` is on a device of this type."""
    return "torch.cuda.max_memory_allocated" if device_type == "cuda" else "VmHWM, pages shared with others whole"


def give_back_freed_memory() -> None:
    """Return freed memory to the system, which glibc's allocator keeps: after the last step other models are loaded."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
