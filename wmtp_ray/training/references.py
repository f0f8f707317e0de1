"""The reference models of a run on one device: next-token losses of batches. They never change, so nothing ages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.contracts import Float32, Scores, TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.training.parallel import forward_precision

Precision = Literal["float32", "bfloat16"]


class References:
    """One reference, or that of correct rows and that of incorrect ones, in this order."""

    def __init__(
        self, directories: Sequence[Path], device: torch.device, dtype: Literal["float32", "bfloat16"]
    ) -> None:
        assert 1 <= len(directories) <= 2, "scores name two references"
        self._device, self._dtype = device, dtype
        self._models = [load_transformer(each).to(device).eval().requires_grad_(False) for each in directories]

    def scores(self, batch: TokenBatch, version: int = 0) -> Scores:
        """Return each reference's loss of every token; `version` is handed back."""
        tensors = BatchTensors.from_batch(batch, self._device)
        losses = [self._losses(model, tensors) for model in self._models]
        return Scores(version, losses_BT=losses[0], incorrect_losses_BT=losses[1] if len(losses) > 1 else None)

    def _losses(self, model: Transformer, tensors: BatchTensors) -> Float32:
        with torch.no_grad(), forward_precision(self._dtype, self._device):
            losses_BT: Float32 = reference_losses(model, tensors).float().cpu().numpy()
        return losses_BT
