"""The start of a stage on one rank: policy, loss, optimizer and scorer, as new or as a checkpoint left them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import Ranks
from wmtp_ray.tracking.kept_critic import HeldOutReading
from wmtp_ray.training.checkpoint import read_state, restore, snapshot_files
from wmtp_ray.training.drift_watch import CriticDrift
from wmtp_ray.training.optim import build_optimizer
from wmtp_ray.training.parallel import distribute
from wmtp_ray.training.stages import StageRecipe
from wmtp_ray.training.step import TrainingStep


@dataclass(frozen=True)
class RankStage:
    """A rank's share of a stage.

    `directory` is the stage's folder, `num_steps` and `plan_digest` are the plan's. The stage continues from
    `checkpoint`, after `first_step` steps; None and 0 where it begins. The steps from `finish_step` on weigh every
    token alike, None where the plan has no finish; `horizon_starts` is the plan's.
    """

    config: RunConfig
    recipe: StageRecipe
    directory: Path
    ranks: Ranks
    device: torch.device
    num_steps: int
    plan_digest: str
    checkpoint: Path | None
    first_step: int
    finish_step: int | None = None
    horizon_starts: tuple[int, ...] = ()

    @property
    def role(self) -> str:
        """The name of this rank's process in the run's records."""
        return f"rank_{self.ranks.rank}"


@dataclass(frozen=True)
class StageStart:
    """What a rank trains with; `carried` are the critic's versions that the checkpoint holds, `readings` its losses."""

    training: TrainingStep
    drift: CriticDrift | None
    carried: list[Path]
    readings: tuple[HeldOutReading, ...]


def start_stage(stage: RankStage) -> StageStart:
    """Build policy, optimizer and scorer, then continue from the checkpoint if there is one. Every rank calls it.

    torch's generator must have been seeded with the run's seed: new weights are drawn from it.
    """
    policy = stage.recipe.build_policy(stage.config)
    training = build_training(stage.recipe, policy, stage.config, stage.ranks, stage.device)
    drift = stage.recipe.watch_drift(training.loss, stage.config)  # before a checkpoint: from the start of the stage
    readings = () if stage.checkpoint is None else read_state(stage.checkpoint).held_out
    return StageStart(training, drift, restore_training(training, stage), readings)


def build_training(
    recipe: StageRecipe, policy: Policy, config: RunConfig, ranks: Ranks, device: torch.device
) -> TrainingStep:
    """Return the stage's optimizer step over a policy, moved to `device` and shared out among the ranks."""
    module = distribute(recipe.build_loss(policy, config), config.train, ranks, device)
    optimizer = build_optimizer(policy, config.train, recipe.peak_learning_rate)
    scorer = recipe.build_scorer(config, policy.transformer.args.n_future_tokens)
    return TrainingStep(module, policy, optimizer, scorer, config, ranks)


def restore_training(training: TrainingStep, stage: RankStage) -> list[Path]:
    """Load weights, optimizer, generator and scorer; return the critic's versions that the checkpoint carries."""
    if stage.checkpoint is None:
        return []
    assert read_state(stage.checkpoint).plan_digest == stage.plan_digest, "the checkpoint belongs to another plan"
    state = restore(stage.checkpoint, training.policy, training.optimizer)
    training.scorer.load_state_dict(state.scorer)
    return snapshot_files(stage.checkpoint)
