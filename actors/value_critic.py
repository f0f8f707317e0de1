"""The critic as a Ray actor: values of batches, by exactly the version it is asked for.

It owns a device and the version it has loaded. It chooses nothing: the schedule of the caller pins the version, so a
restarted actor, a second one in the pool and a retried call give the same bits. Plain class; made remote in
`flows/run/train.py`.
"""

from pathlib import Path

import torch

from actors.stalls import enter_run
from wmtp_ray.artifacts.meta_checkpoint import load_value_model
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_ensemble import build_critic
from wmtp_ray.model.value_model import Critic
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.run_folder import TRAIN_STAGE
from wmtp_ray.scoring.contract import critic_scores
from wmtp_ray.tracking.decisions import Place, note_place
from wmtp_ray.tracking.run_log import log_stage, log_step
from wmtp_ray.training.parallel import choose_device, device_words, forward_precision, scorer_device


class ValueCritic:
    """Holds the critic's trunk and value head, or those of all members of an ensemble, on one device."""

    def __init__(self, args: ModelSpec, spec: ValueSpec, config: RunConfig, number: int) -> None:
        torch.set_num_threads(config.cluster.threads_per_critic)
        enter_run(config.run_dir, f"critic_{number}")
        log_stage(TRAIN_STAGE)
        self._device = choose_device(scorer_device(config), local_rank=0)
        self._model = _build_model(args, spec, config).to(self._device).eval().requires_grad_(False)
        self._dtype = config.train.dtype if self._device.type == "cuda" else "float32"
        self._deadline_s = config.deadlines.score_s
        self._loaded: tuple[str, int] | None = None
        note_place(config.run_dir, Place(f"critic_{number}", device_words(self._device), self._dtype))
        enter_run(config.run_dir, f"critic_{number}", is_ready=True)

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        """Return the values of every batch by `version`, which it waits for; raises ArtifactError past the deadline."""
        log_step(batches[0].step)
        self._load(directory, version)
        return [self._values(batch, version) for batch in batches]

    def _load(self, directory: str, version: int) -> None:
        if self._loaded == (directory, version):
            return
        self._loaded = None
        tensors = SnapshotDirectory(Path(directory)).get(version, self._deadline_s)
        self._model.load_learned(tensors)
        self._loaded = (directory, version)

    def _values(self, batch: TokenBatch, version: int) -> Scores:
        with torch.no_grad(), forward_precision(self._dtype, self._device):
            found = self._model.scores(BatchTensors.from_batch(batch, self._device))
        return critic_scores(found, version)


def _build_model(args: ModelSpec, spec: ValueSpec, config: RunConfig) -> Critic:
    """The critic before its first version; of a policy with adapters it holds the base, which versions do not bring."""
    if config.model.lora is None or config.critic.source == "frozen":
        return build_critic(args, spec)
    model = load_value_model(config.model.path, spec)
    model.add_adapters(config.model.lora)
    return model
