"""The memory estimate against measured steps, and what the estimate says of the real model.

    python -m bench.estimate        (from the repository's root)

Measured: every storage that an operation of the second step reads or makes, on the CPU in float32; the estimate is a
closed form and allocates nothing.
"""

import json
import tempfile
from datetime import datetime
from itertools import product
from pathlib import Path

from tests.unit.training.live_memory import Case, measured_peak_bytes
from vendor.meta_llama import ModelArgs
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.training.estimate.hardware import GIB
from wmtp_ray.training.estimate.memory import MIB, rank_memory
from wmtp_ray.training.estimate.run_estimate import estimate_run

SEVEN_B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_future_tokens": 4, "vocab_size": 32000, "multiple_of": 256}
LORA = "model.lora={rank: 16, alpha: 32, dropout: 0.0, targets: [wq, wk, wv, wo, w1, w2, w3]}"
SHARDED = ("train.parallel=fsdp2", "train.reduce_gradients=micro_batch")
LAYOUTS = {
    "1 GPU": ("preset=a100-1",),
    "1 GPU, LoRA": ("preset=a100-1", LORA, "train.micro_batch_tokens=8192"),
    "3 GPUs, DDP": ("preset=a100-4", "train.parallel=ddp"),
    "3 GPUs, FSDP2, gradients meet once a step": ("preset=a100-4", "train.parallel=fsdp2"),
    "3 GPUs, FSDP2, gradients meet each micro-batch": ("preset=a100-4", *SHARDED),
    "the same without checkpointing": ("preset=a100-4", *SHARDED, "model.activation_checkpointing=false"),
}


def measured_table() -> str:
    """Return one row for each size, depth and way of computing."""
    lines = [
        "| width, blocks, horizons, vocabulary | tokens | micro-batches | checkpointed | MiB measured | estimated |"
    ]
    lines.append("|---|---|---|---|---|---|")
    models = [(64, 12, 1, 500), (128, 6, 4, 1000), (192, 5, 4, 8000), (256, 8, 2, 4000), (384, 4, 2, 2000)]
    for (dim, layers, horizons, vocabulary), micro_batches, recompute in product(models, (1, 3), (False, True)):
        args = ModelArgs(
            dim=dim, n_layers=layers, n_heads=4, vocab_size=vocabulary, n_future_tokens=horizons, multiple_of=32
        )
        case = Case(args, (300, 212), micro_batches, recompute)
        measured, estimated = measured_peak_bytes(case), rank_memory(case.size, case.work()).total
        lines.append(
            f"| {dim}, {layers}, {horizons}, {vocabulary} | 512 | {micro_batches} | {'yes' if recompute else 'no'} "
            f"| {measured / MIB:.1f} | {estimated / MIB:.1f} ({estimated / measured - 1:+.1%}) |"
        )
    return "\n".join(lines)


def real_table() -> str:
    """Return what the real snapshot takes on A100s of 80 GB under each layout."""
    lines = [
        "| 7B, 4 horizons, bfloat16 | GiB of a rank | with the critic on its card | fits 78 |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.json").write_text(json.dumps(SEVEN_B))
        for name, words in LAYOUTS.items():
            arguments = parse_arguments(["recipe=verifiable", f"model.path={folder}", *words])
            load = estimate_run(load_config(arguments, now=datetime.now()), {}, None).load
            rank, everything = load.rank().total / GIB, load.total_bytes / GIB
            lines.append(f"| {name} | {rank:.1f} | {everything:.1f} | {'yes' if load.fits else 'no'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{measured_table()}\n\n{real_table()}")
