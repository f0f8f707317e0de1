"""The reference models as a Ray actor: it owns a device, and answers as a critic does (`training/references.py`)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from actors.stalls import enter_run
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.run_folder import TRAIN_STAGE
from wmtp_ray.tracking.decisions import Place, note_place
from wmtp_ray.tracking.run_log import log_stage, log_step
from wmtp_ray.training.parallel import choose_device, device_words, scorer_device
from wmtp_ray.training.references import References


class ReferenceScorer:
    """Holds the references on one device."""

    def __init__(self, directories: Sequence[Path], config: RunConfig, number: int) -> None:
        torch.set_num_threads(config.cluster.threads_per_critic)
        enter_run(config.run_dir, f"reference_{number}")
        log_stage(TRAIN_STAGE)
        device = choose_device(scorer_device(config), local_rank=0)
        dtype = config.train.dtype if device.type == "cuda" else "float32"
        self._references = References(directories, device, dtype)
        note_place(config.run_dir, Place(f"reference_{number}", device_words(device), dtype))
        enter_run(config.run_dir, f"reference_{number}", is_ready=True)

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        """Return each reference's loss of every token; `directory` is unused, `version` is handed back."""
        log_step(batches[0].step)
        return [self._references.scores(batch, version) for batch in batches]
