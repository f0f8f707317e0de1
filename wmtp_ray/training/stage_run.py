"""A stage of one rank as a whole: start it, run the loop, finish it. With or without Ray.

| part         | what it does                                                         | module                 |
|--------------|----------------------------------------------------------------------|------------------------|
| start_stage  | policy, optimizer and scorer, from the checkpoint where there is one | `stage_start.py`       |
| StageLoop    | every step, over these ports:                                        | `loop.py`              |
| batches      | scored rows, from `Outside`                                          |                        |
| reports      | metrics and throughput, to the sink of `Outside`                     | `step_reports.py`      |
| versions     | the critic, for the scorers that follow the policy                   | `publishing.py`        |
|              | in stage 1: the version of the best held-out loss, the early end     | `best_version.py`      |
| evaluations  | the policy, for whoever evaluates it meanwhile                       | `policy_evaluations.py`|
| checkpoints  | the state of the run                                                 | `stage_checkpoints.py` |
| stop, life   | files between a rank and the driver                                  | `run_signs.py`         |
| finish_stage | final weights, what the stage found out                              | `stage_end.py`         |
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.plan.versions import VersionSchedule
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, StageFolder
from wmtp_ray.scoring.scorers import FinishScorer
from wmtp_ray.tracking.run_log import log_stage
from wmtp_ray.training.best_checkpoint import PassRanking
from wmtp_ray.training.best_version import BestVersion, held_out_batches
from wmtp_ray.training.block_limit import Limit
from wmtp_ray.training.checkpoint import LossRanking, Ranking
from wmtp_ray.training.loop import Finish, Ports, ScoredSteps, StageLoop
from wmtp_ray.training.policy_evaluations import PolicyEvaluations
from wmtp_ray.training.publishing import NoVersions, PublishedPolicy, open_snapshots
from wmtp_ray.training.run_signs import LifeFile, StopFile
from wmtp_ray.training.stage_checkpoints import StageCheckpoints
from wmtp_ray.training.stage_end import finish_stage
from wmtp_ray.training.stage_start import RankStage, StageStart, start_stage
from wmtp_ray.training.step import TrainingStep
from wmtp_ray.training.step_reports import ReportSink, StepReports
from wmtp_ray.training.throughput import measured_peak_flops

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outside:
    """What a stage uses outside its own process: batches, report sink, time limits.

    `connect_scores` returns the batches; it is told the folder of the versions that this rank publishes, None where
    it publishes none. `follows` is the schedule of the scorers that follow the policy, None where none does.
    `step_scores` are those of the policies that are evaluated meanwhile, None where none is.
    """

    connect_scores: Callable[[Path | None], ScoredSteps]
    follows: VersionSchedule | None
    sink: ReportSink
    limit: Limit
    step_scores: StepScores | None = None


def run_stage(stage: RankStage, outside: Outside) -> None:
    """Train a stage to its end, or until a stop is asked for. Every rank calls it."""
    log_stage(stage.recipe.stage)
    place = f"from {stage.checkpoint}" if stage.checkpoint is not None else "from the start"
    _LOG.info("%d steps on %s, %s", stage.num_steps, stage.device, place)
    start = start_stage(stage)
    reports = _reports(stage, start.training, outside.sink)
    best = _best(stage, start, outside)
    evaluations = _evaluations(stage, start, outside)
    ports = _ports(stage, start, reports, outside, best, evaluations)
    reports.start()
    steps = range(stage.first_step, stage.num_steps)
    peak = stage.recipe.peak_learning_rate
    loop = StageLoop(
        start.training,
        stage.config,
        ports,
        stage.ranks,
        steps=steps,
        peak_learning_rate=peak,
        finish=finish_of(stage, start.training),
        horizon_starts=stage.horizon_starts,
    )
    is_over = loop.run()
    if evaluations is not None:
        evaluations.finish(stage.config.deadlines.publish_s)
    if is_over:
        kept = best.restore(loop.done, stage.num_steps) if best is not None else None
        finish_stage(stage, start.training, reports.flush, steps=loop.done, kept=kept)
        _LOG.info("The stage is done")


def _ports(
    stage: RankStage,
    start: StageStart,
    reports: StepReports,
    outside: Outside,
    best: BestVersion | None,
    evaluations: PolicyEvaluations | None,
) -> Ports:
    versions = best or _versions(stage, start, outside)
    ranking = _ranking(stage, outside, evaluations)
    return Ports(
        batches=outside.connect_scores(versions.directory),
        reports=reports,
        versions=versions,
        checkpoints=StageCheckpoints(stage, start.training, versions, reports, outside.limit, best, ranking),
        stop=StopFile(stage.config.run_dir, stage.ranks),
        life=LifeFile(stage.config.run_dir, stage.role),
        drift=best or start.drift,
        early_end=best,
        evaluations=evaluations,
    )


def finish_of(stage: RankStage, training: TrainingStep) -> Finish | None:
    """Return the plan's finish: its first step, and the scorer that weighs every token alike."""
    if stage.finish_step is None:
        return None
    num_horizons = training.policy.transformer.args.n_future_tokens
    return Finish(stage.finish_step, FinishScorer(num_horizons, stage.config.weighting))


def _best(stage: RankStage, start: StageStart, outside: Outside) -> BestVersion | None:
    """Return who keeps the best version of the critic; None in stage 2, and where none is kept."""
    config, ranks = stage.config, stage.ranks
    if stage.recipe.stage != CRITIC_STAGE or config.critic_stage.eval_every == 0:
        return None
    batches = held_out_batches(config)
    snapshots = open_snapshots(StageFolder(stage.directory).snapshots, start.carried, ranks)
    return BestVersion(start.training, batches, snapshots, config, ranks, outside.limit, start.readings)


def _versions(stage: RankStage, start: StageStart, outside: Outside) -> NoVersions | PublishedPolicy:
    if outside.follows is None:
        return NoVersions()
    snapshots = open_snapshots(StageFolder(stage.directory).snapshots, start.carried, stage.ranks)
    policy, config = start.training.policy, stage.config
    return PublishedPolicy(policy, snapshots, outside.follows, config, stage.ranks, outside.limit)


def _evaluations(stage: RankStage, start: StageStart, outside: Outside) -> PolicyEvaluations | None:
    """Return who hands the policy over; None in stage 1, and where it is not evaluated."""
    scores, interval = outside.step_scores, stage.config.evaluation.step_interval
    if stage.recipe.stage != TRAIN_STAGE or scores is None:
        return None
    snapshots = open_snapshots(stage.config.folder.evaluated_snapshots, [], stage.ranks)
    return PolicyEvaluations(start.training.policy, snapshots, scores, interval, stage.ranks)


def _ranking(stage: RankStage, outside: Outside, evaluations: PolicyEvaluations | None) -> Ranking:
    if evaluations is None or outside.step_scores is None or stage.config.train.keep_best_by == "loss":
        return LossRanking()
    return PassRanking(outside.step_scores, evaluations.pending)


def _reports(stage: RankStage, training: TrainingStep, sink: ReportSink) -> StepReports:
    size = ModelSpec.of(training.policy.transformer.args)
    dtype = torch.bfloat16 if stage.config.train.dtype == "bfloat16" else torch.float32
    return StepReports(stage, size, sink, peak_flops=measured_peak_flops(stage.device, dtype))
