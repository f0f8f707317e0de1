"""The fused loss against materialised logits and against its own matrix products, side by side in one run.

    python bench/loss.py [--rows 4096] [--width 512] [--vocabulary 32000] [--horizons 4] [--rounds 7] [--threads 2]

Time: rounds are interleaved (naive, fused, the three products alone, fused with 60 % of the rows masked, masked rows
kept as tiny weights) and compared within a round; shown are medians of the ratios. The products alone are those of one
horizon at a time into buffers that exist already: logits, gradient of the hidden states, gradient of the output weight
(accumulated over horizons, as it has to be). Memory: each variant in a process of its own; the peak of the resident set
above what it was with the inputs made.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wmtp_ray.objective.fused import fused_mtp_loss

MASKED_FRAC = 0.6
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """H horizons of N rows, width D, V tokens."""

    horizons: int
    rows: int
    width: int
    vocabulary: int

    @property
    def gradient_bytes(self) -> int:
        return 4 * (self.horizons * self.rows * self.width + self.vocabulary * self.width)


@dataclass(frozen=True)
class Inputs:
    """What every variant gets."""

    hidden_HND: Tensor
    output_weight_VD: Tensor
    targets_HN: Tensor
    weights_HN: Tensor
    denominators_H: Tensor


def make_inputs(size: Size, masked_frac: float = 0.0, masked_weight: float = 0.0) -> Inputs:
    """Random inputs; a share of the rows has `masked_weight`, the others weights in [0.1, 5]."""
    random = torch.Generator().manual_seed(0)
    weights_HN = torch.rand(size.horizons, size.rows, generator=random) * 4.9 + 0.1
    weights_HN[torch.rand(size.horizons, size.rows, generator=random) < masked_frac] = masked_weight
    return Inputs(
        torch.randn(size.horizons, size.rows, size.width, generator=random).requires_grad_(),
        (torch.randn(size.vocabulary, size.width, generator=random) * 0.05).requires_grad_(),
        torch.randint(size.vocabulary, (size.horizons, size.rows), generator=random),
        weights_HN,
        torch.full((size.horizons,), float(size.rows)),
    )


def fused(inputs: Inputs, max_logits_bytes: int | None) -> Tensor:
    """Forward and backward of ours."""
    loss, _ = fused_mtp_loss(
        inputs.hidden_HND,
        inputs.output_weight_VD,
        inputs.targets_HN,
        inputs.weights_HN,
        inputs.denominators_H,
        max_logits_bytes=max_logits_bytes,
    )
    loss.backward()
    return loss.detach()


def naive(inputs: Inputs) -> Tensor:
    """All logits at once, torch's cross-entropy, autograd."""
    logits_HNV = inputs.hidden_HND @ inputs.output_weight_VD.t()
    losses_HN = F.cross_entropy(logits_HNV.flatten(0, 1), inputs.targets_HN.flatten(), reduction="none").view_as(
        inputs.weights_HN
    )
    loss = ((losses_HN * inputs.weights_HN).sum(1) / inputs.denominators_H).mean()
    loss.backward()
    return loss.detach()


class Products:
    """The three matrix products of one horizon after another, into buffers made once."""

    def __init__(self, inputs: Inputs) -> None:
        self._hidden_HND, self._weight_VD = inputs.hidden_HND.detach(), inputs.output_weight_VD.detach()
        self._logits_NV = torch.empty(self._hidden_HND.shape[1], len(self._weight_VD))
        self._hidden_grad_HND, self._weight_grad_VD = (
            torch.empty_like(self._hidden_HND),
            torch.zeros_like(self._weight_VD),
        )

    def __call__(self) -> None:
        for hidden_ND, grad_ND in zip(self._hidden_HND, self._hidden_grad_HND, strict=True):
            torch.mm(hidden_ND, self._weight_VD.t(), out=self._logits_NV)
            torch.mm(self._logits_NV, self._weight_VD, out=grad_ND)
            self._weight_grad_VD.addmm_(self._logits_NV.t(), hidden_ND)


def seconds(call: Callable[[], object], inputs: Inputs) -> float:
    """Time one call with fresh gradients."""
    inputs.hidden_HND.grad = inputs.output_weight_VD.grad = None
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_variants(size: Size, rounds: int, max_logits_bytes: int | None) -> dict[str, float]:
    """Medians over rounds of the ratios of one round, and of ours in seconds."""
    inputs = make_inputs(size)
    masked, kept = make_inputs(size, MASKED_FRAC), make_inputs(size, MASKED_FRAC, masked_weight=1e-9)
    products = Products(inputs)
    variants: dict[str, tuple[Callable[[], object], Inputs]] = {
        "fused": (lambda: fused(inputs, max_logits_bytes), inputs),
        "naive": (lambda: naive(inputs), inputs),
        "products": (products, inputs),
        "masked": (lambda: fused(masked, max_logits_bytes), masked),
        "masked, kept": (lambda: fused(kept, max_logits_bytes), kept),
    }
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, (call, its_inputs) in variants.items():
            taken[name].append(seconds(call, its_inputs)) if round_ else seconds(call, its_inputs)
    return {
        "fused_s": statistics.median(taken["fused"]),
        "of_naive": _median_ratio(taken["fused"], taken["naive"]),
        "of_products": _median_ratio(taken["fused"], taken["products"]),
        "masked_speedup": _median_ratio(taken["masked, kept"], taken["masked"]),
    }


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_bytes(variant: str, size: Size, max_logits_bytes: int | None, threads: int) -> int:
    """Peak of the resident set over that with the inputs made, of one call in a process of its own."""
    words = [sys.executable, __file__, "--memory-of", variant, *_size_words(size), "--threads", str(threads)]
    if max_logits_bytes is not None:
        words += ["--max-logits-mb", str(max_logits_bytes / MIB)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return int(json.loads(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout))


def measure_memory(variant: str, size: Size, max_logits_bytes: int | None) -> int:
    """In the child: run a small call first, so that the libraries' own buffers exist, then the real one."""
    small = make_inputs(Size(size.horizons, 8, size.width, size.vocabulary))
    fused(small, max_logits_bytes) if variant == "fused" else naive(small)
    small.hidden_HND.grad = small.output_weight_VD.grad = None
    inputs = make_inputs(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    fused(inputs, max_logits_bytes) if variant == "fused" else naive(inputs)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after > before, "the call made no new peak: the number would be that of the preparation"
    return after * 1024 - resident


def _size_words(size: Size) -> list[str]:
    names = {"--horizons": size.horizons, "--rows": size.rows, "--width": size.width, "--vocabulary": size.vocabulary}
    return [word for name, value in names.items() for word in (name, str(value))]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--horizons", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-logits-mb", type=float, help="logits buffer; default: the function's own choice")
    parser.add_argument("--memory-of", choices=("fused", "naive"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = Size(arguments.horizons, arguments.rows, arguments.width, arguments.vocabulary)
    buffer_bytes = None if arguments.max_logits_mb is None else int(arguments.max_logits_mb * MIB)
    if arguments.memory_of:
        print(measure_memory(arguments.memory_of, size, buffer_bytes))
        return
    peaks = {name: peak_bytes(name, size, buffer_bytes, arguments.threads) for name in ("fused", "naive")}
    times = time_variants(size, arguments.rounds, buffer_bytes)
    print(f"N={size.rows} rows, D={size.width}, V={size.vocabulary}, H={size.horizons}, float32, CPU, ", end="")
    print(f"{arguments.threads} threads, {arguments.rounds} rounds, torch {torch.__version__}")
    print(f"fused loss, forward + backward       {times['fused_s']:8.2f} s")
    print(f"peak memory, fused                   {peaks['fused'] / MIB:8.1f} MiB")
    print(f"peak memory, naive                   {peaks['naive'] / MIB:8.1f} MiB")
    print(f"naive / fused, memory                {peaks['naive'] / peaks['fused']:8.1f} x   (reach 40)")
    print(f"fused / its gradients, memory        {peaks['fused'] / size.gradient_bytes:8.3f} x   (reach 1.3 or less)")
    print(f"fused / naive, time                  {times['of_naive']:8.3f} x   (reach 0.80 or less)")
    print(f"fused / three products, time         {times['of_products']:8.3f} x   (reach 1.10 or less)")
    print(f"60 % masked, kept / dropped, time    {times['masked_speedup']:8.2f} x   (reach 2.2)")


if __name__ == "__main__":
    main()
