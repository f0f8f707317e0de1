"""How much of a device's peak a step uses: the peak is measured, the step's FLOPs are the estimate's.

Counted are forward and backward of the real tokens; recomputed blocks and passes that only look are work that the
device does and this measure does not count (MFU: Chowdhery et al. 2022, appendix B).
"""

import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from wmtp_ray.contracts import TokenBatch
from wmtp_ray.training.estimate.flops import Tokens, count_tokens

_MEASURED_S = 0.15
_WIDTHS = {"cpu": 768, "mps": 2048, "cuda": 8192}  # large enough to be bound by arithmetic, small enough for a CPU


def measured_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that square matrix products reach on `device`, the best of a short while.

    Measured once a process for each device, precision and number of threads.
    """
    return _measure(device, dtype, torch.get_num_threads())


@cache
def _measure(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    width = _WIDTHS[device.type]
    generator = torch.Generator().manual_seed(0)  # a global generator must not notice that it was measured
    left, right = (torch.rand(width, width, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(left)
    _product_s(left, right, out)
    best_s, until = float("inf"), time.perf_counter() + _MEASURED_S
    while time.perf_counter() < until:
        best_s = min(best_s, _product_s(left, right, out))
    return 2.0 * width**3 / best_s


def _product_s(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(left, right, out=out)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    if left.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - started


def tokens_of(batches: Sequence[TokenBatch], num_horizons: int, window: int | None = None) -> Tokens:
    """Count a rank's micro-batches of one step; `window` as in `count_tokens`."""
    total = Tokens(0, 0, 0)
    for batch in batches:
        starts_M = np.cumsum(batch.document_lengths_M) - batch.document_lengths_M
        responses_M = np.add.reduceat(batch.supervised_mask_BT[0].astype(np.int64), starts_M)
        total += count_tokens(batch.document_lengths_M - responses_M, responses_M, num_horizons, window)
    return total
