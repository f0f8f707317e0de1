"""Load a policy to decode with in this process, where and in the precision in which an evaluation decodes."""

from pathlib import Path

import torch

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.training.parallel import choose_device


def load_decoding_policy(directory: Path, config: RunConfig) -> Transformer:
    """Return the transformer of a model directory on the run's device, without gradients."""
    device = choose_device(config.train.device, local_rank=0)
    is_half = device.type == "cuda" and config.train.dtype == "bfloat16"
    policy = load_transformer(directory, dtype=torch.bfloat16 if is_half else torch.float32)
    return policy.to(device).eval().requires_grad_(False)
