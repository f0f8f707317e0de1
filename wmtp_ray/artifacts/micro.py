"""Random miniatures of the real model: the same layout and code paths, small enough for a laptop and a test."""

from pathlib import Path

import torch

from vendor.meta_llama.model import ModelArgs, Transformer
from wmtp_ray.artifacts.meta_checkpoint import save_transformer


def make_micro_model(directory: Path, args: ModelArgs, seed: int, dtype: torch.dtype = torch.float16) -> None:
    """Write a freshly initialised model; the same arguments and seed give the same tensors."""
    with torch.device("meta"):
        transformer = Transformer(args)
    transformer.to_empty(device="cpu").init_weights(torch.Generator().manual_seed(seed))
    save_transformer(directory, transformer, dtype=dtype)
