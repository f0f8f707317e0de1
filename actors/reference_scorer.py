"""The reference model as a Ray actor: next-token losses of batches, for Rho-1. It never changes, so nothing ages."""

from pathlib import Path

import torch

from actors.stalls import enter_run
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.run_folder import TRAIN_STAGE
from wmtp_ray.tracking.decisions import Place, note_place
from wmtp_ray.tracking.run_log import log_stage, log_step
from wmtp_ray.training.parallel import choose_device, device_words, forward_precision, scorer_device


class ReferenceScorer:
    """Holds the reference on one device."""

    def __init__(self, directory: Path, config: RunConfig, number: int) -> None:
        torch.set_num_threads(config.cluster.threads_per_critic)
        enter_run(config.run_dir, f"reference_{number}")
        log_stage(TRAIN_STAGE)
        self._device = choose_device(scorer_device(config), local_rank=0)
        self._dtype = config.train.dtype if self._device.type == "cuda" else "float32"
        self._model = load_transformer(directory).to(self._device).eval().requires_grad_(False)
        note_place(config.run_dir, Place(f"reference_{number}", device_words(self._device), self._dtype))
        enter_run(config.run_dir, f"reference_{number}", is_ready=True)

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        """Return the reference's loss of every token; `directory` is unused, `version` is handed back."""
        log_step(batches[0].step)
        return [self._losses(batch, version) for batch in batches]

    def _losses(self, batch: TokenBatch, version: int) -> Scores:
        with torch.no_grad(), forward_precision(self._dtype, self._device):
            losses_BT = reference_losses(self._model, BatchTensors.from_batch(batch, self._device))
        return Scores(version=version, losses_BT=losses_BT.float().cpu().numpy())
