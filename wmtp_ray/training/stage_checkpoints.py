"""The checkpoints of a stage: what belongs into one beside the tensors, which `checkpoint.py` writes."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.kept_critic import HeldOutReading
from wmtp_ray.tracking.mlflow_run import read_mlflow_run_id
from wmtp_ray.training.block_limit import Limit
from wmtp_ray.training.checkpoint import Ranking, RunState, save_checkpoint
from wmtp_ray.training.stage_start import RankStage
from wmtp_ray.training.step import TrainingStep

_LOG = logging.getLogger(__name__)


class CarriedVersions(Protocol):
    """Which versions of the critic later steps need."""

    def needed_after(self, done: int) -> list[Path]: ...


class KeptReports(Protocol):
    """Which reports have to outlive this process."""

    def keep(self) -> None: ...


class KeptReadings(Protocol):
    """The held-out losses that have been read."""

    @property
    def readings(self) -> Sequence[HeldOutReading]: ...


class StageCheckpoints:
    """Saves a stage into its folder. Every rank makes one and calls it."""

    def __init__(
        self,
        stage: RankStage,
        training: TrainingStep,
        versions: CarriedVersions,
        reports: KeptReports,
        limit: Limit,
        best: KeptReadings | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        self._stage = stage
        self._training = training
        self._versions = versions
        self._reports = reports
        self._limit = limit
        self._best = best
        self._ranking = ranking

    def save(self, done: int, mean_loss: float) -> None:
        """Write the checkpoint of `done` steps; see `save_checkpoint`."""
        carried, state = self._versions.needed_after(done), self._state(done, mean_loss)
        ranks, config = self._stage.ranks, self._stage.config
        what = f"Rank {ranks.rank}'s part of the checkpoint of step {done} (deadlines.checkpoint_s)"
        started = time.perf_counter()
        with self._limit(what, config.deadlines.checkpoint_s):
            self._reports.keep()
            save_checkpoint(
                StageFolder(self._stage.directory).checkpoints,
                state,
                self._training.policy,
                self._training.optimizer,
                carried,
                ranks,
                keep=config.train.keep_checkpoints,
                keep_best=config.train.keep_best_checkpoints,
                ranking=self._ranking,
            )
        if ranks.rank == 0:
            seconds = time.perf_counter() - started
            _LOG.info("Checkpoint of %d steps written in %.2f s, mean loss %.4f", done, seconds, mean_loss)

    def _state(self, done: int, mean_loss: float) -> RunState:
        return RunState(
            stage=self._stage.recipe.stage,
            step=done,
            plan_digest=self._stage.plan_digest,
            scorer=self._training.scorer.state_dict(),
            mlflow_run_id=read_mlflow_run_id(self._stage.config.run_dir),
            world_size=self._stage.ranks.world_size,
            mean_loss=mean_loss,
            held_out=tuple(self._best.readings) if self._best is not None else (),
        )
