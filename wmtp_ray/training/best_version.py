"""The best version of the critic, by its loss on held-out rows; with it stage 1 ends early (`critic_stage.eval_every`).

A reading is the stage's own loss over the rows that its health is measured on. The version of the best reading is a
file of this start of the ranks; a checkpoint carries it and all readings, so a run that was killed anywhere goes on
with what it knew there. Nothing is kept in memory, and nothing draws a random number: training does not notice.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch, TokenBatch
from wmtp_ray.data.held_out_rows import rows_of_readings
from wmtp_ray.objective import td
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.contract import MicroBatch, to_micro_batch
from wmtp_ray.tracking.kept_critic import HeldOutReading, KeptCritic, best_of, no_better_since
from wmtp_ray.training.block_limit import Limit
from wmtp_ray.training.losses import CriticLoss, Denominators
from wmtp_ray.training.measure_critic import batches_of_rows
from wmtp_ray.training.parallel import module_precision
from wmtp_ray.training.sharding import whole_tensors
from wmtp_ray.training.step import TrainingStep
from wmtp_ray.training.stored_tensors import copy_whole

_LOG = logging.getLogger(__name__)


class BestVersion:
    """The ports of stage 1 that read the loss, write versions and end the stage. Every rank makes one and calls it.

    `readings` are those of the checkpoint that the stage continues from, whose version `snapshots` holds.
    """

    directory: Path | None = None  # no scorer reads these versions

    def __init__(
        self,
        training: TrainingStep,
        batches: Sequence[TokenBatch],
        snapshots: SnapshotDirectory,
        config: RunConfig,
        ranks: Ranks,
        limit: Limit,
        readings: Sequence[HeldOutReading] = (),
    ) -> None:
        device = next(training.policy.parameters()).device
        scored = [ScoredBatch(batch, None, 0, 0.0) for batch in batches]
        self._micro_batches = [to_micro_batch(each, 0, config.seed, device) for each in scored]
        self._denominators = _counts_of(self._micro_batches)
        self._training = training
        self._snapshots = snapshots
        self._config = config
        self._ranks = ranks
        self._limit = limit
        self.readings = list(readings)

    def metrics_after(self, done: int, num_steps: int) -> dict[str, float]:
        """Read the loss where it is due: every `critic_stage.eval_every` steps, and at the end."""
        if done % self._config.critic_stage.eval_every and done != num_steps:
            return {}
        started = time.perf_counter()
        self.readings.append(HeldOutReading(done, self._loss()))
        best = best_of(self.readings)
        told = {"held_out/critic_loss": self.readings[-1].loss, "perf/held_out_s": time.perf_counter() - started}
        return told if best is None else told | {"held_out/critic_best_step": float(best.step)}

    def publish(self, done: int) -> None:
        """Write the version after `done` steps where its reading is the best so far; drop the one before."""
        best = best_of(self.readings)
        if best is None or best.step != done:
            return
        state = whole_tensors(self._learned(), self._ranks)
        if self._ranks.rank != 0:
            return
        what = f"Writing the critic's best version, of step {done} (deadlines.publish_s)"
        with self._limit(what, self._config.deadlines.publish_s):
            self._snapshots.put(done, state)
            self._snapshots.drop_before(done)
        _LOG.info("Held-out loss %.4f, the best so far: version %d of the critic is kept", best.loss, done)

    def needed_after(self, done: int) -> list[Path]:
        """Return the file of the best version."""
        best = best_of(self.readings)
        return [] if best is None else [self._snapshots.file_of(best.step)]

    def is_over(self) -> bool:
        """Return whether the loss has not become better for `critic_stage.patience` readings; the same on all ranks."""
        patience = self._config.critic_stage.patience
        return patience is not None and no_better_since(self.readings) >= patience

    def restore(self, done: int, num_steps: int) -> KeptCritic | None:
        """Put the best version in place of the last one; return which it is. None where no reading is a number."""
        best = best_of(self.readings)
        if best is None:
            return None
        copy_whole(self._learned(), self._snapshots.get(best.step, self._config.deadlines.publish_s))
        return KeptCritic(best.step, best.loss, done, num_steps, tuple(self.readings))

    def _learned(self) -> dict[str, torch.Tensor]:
        """What the stage trains, by name, in place."""
        parameters = self._training.policy.named_parameters()
        return {name: parameter.detach() for name, parameter in parameters if parameter.requires_grad}

    def _loss(self) -> float:
        """The stage's loss over all held-out rows, as rank 0 finds it."""
        loss, total = self._training.loss, torch.zeros((), dtype=torch.float64)
        assert isinstance(loss, CriticLoss), "stage 1 alone keeps its best version"
        device = next(loss.parameters()).device
        for micro_batch in self._micro_batches:
            with module_precision(loss, self._config.train.dtype, device):
                total += loss.held_out_loss(micro_batch, self._denominators).double().cpu()
        if isinstance(loss, FSDPModule):
            loss.reshard()  # a forward leaves the root's weights whole; a checkpoint is restored into shards
        return float(self._ranks.gather(total[None])[0])


def held_out_batches(config: RunConfig) -> list[TokenBatch]:
    """Return the held-out rows in batches; PlanError where there are none."""
    together = 2 if config.critic.objective == "pairwise" else 1
    return list(batches_of_rows(*rows_of_readings(config), config, rows_together=together))


def _counts_of(micro_batches: Sequence[MicroBatch]) -> Denominators:
    """All states and documents; a critic's loss has no pairs of tokens."""
    tensors = [each.tensors for each in micro_batches]
    masks = [td.value_state_mask(each.supervised_mask_BT, each.document_ids_BT) for each in tensors]
    ones_1 = torch.ones(1, dtype=torch.float64)
    num_documents = sum(len(each.document_lengths) for each in tensors)
    return Denominators(ones_1, ones_1, float(sum(int(mask.sum()) for mask in masks)), float(num_documents))
