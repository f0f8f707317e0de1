"""One rank of the policy: connects a stage of training to Ray.

`run_rank` is what Ray Train enters on every rank, at the start and again after a rank died; it always continues from
the newest checkpoint. The stage is `wmtp_ray/training/stage_run.py`, its loop `wmtp_ray/training/loop.py`; this file
gives them a stream of scored batches, a sink for reports, and a limit on what may hang.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from actors.rank_stream import RankStream
from actors.score_ahead import ScoreAhead, ScoreStream, Unscored
from actors.stalls import ScorerWatch, enter_run, limited, report_stall
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.errors import WmtpError
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.plan.run_plan import RunPlan, load_plan, rank_batches
from wmtp_ray.plan.versions import VersionSchedule
from wmtp_ray.ranks import Ranks, current_ranks
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.decisions import note_place
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.training.checkpoint import latest_checkpoint, read_state
from wmtp_ray.training.loop import ScoredStep, ScoredSteps
from wmtp_ray.training.parallel import choose_device, place_of_ranks
from wmtp_ray.training.stage_run import Outside, run_stage
from wmtp_ray.training.stage_start import RankStage
from wmtp_ray.training.stages import StageRecipe, read_failure, write_failure

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankJob:
    """The arguments of a rank: its stage, the watch over the scorers, and the metrics actor.

    `snapshots` is set where the scorers' versions are there before the ranks start: no rank publishes any.
    `step_scores` is set where the policy is evaluated while it trains.
    """

    config: RunConfig
    recipe: StageRecipe
    stage_dir: Path
    scorer_watch: ScorerWatch | None
    schedule: VersionSchedule
    snapshots: SnapshotDirectory | None
    metrics: Any
    step_scores: StepScores | None = None


def run_rank(told: dict[str, Any]) -> None:
    """Entry point of Ray Train on every rank; an error that a restart cannot fix is saved for the driver.

    `told`: "job" refers to a RankJob, which Ray Train's controller then hands on without importing torch to read it;
    "start_s" is how long to wait for it.
    """
    job: RankJob = ray.get(told["job"], timeout=told["start_s"])
    config, directory = job.config, job.stage_dir
    if (failure := read_failure(directory)) is not None:
        raise WmtpError(failure)
    try:
        _train(job, current_ranks())
    except WmtpError as error:
        write_failure(directory, str(error))
        _LOG.info("The rank gives up: %s", error)
        raise
    except Exception as error:
        # A process group raises no type of its own for a time-out. A restart may help; the late rank shows only now.
        if isinstance(error, RuntimeError) and "timed out" in str(error).lower():
            report_stall(config.run_dir, f"A collective took more than {config.deadlines.collective_s:.0f} s: {error}")
        _LOG.exception("The rank failed (%s: %s); Ray Train may start the ranks again", type(error).__name__, error)
        raise


def _train(job: RankJob, ranks: Ranks) -> None:
    """Train the job's stage on this rank, from the newest checkpoint."""
    config, number = job.config, job.recipe.stage
    torch.set_num_threads(config.cluster.threads_per_worker)
    torch.manual_seed(config.seed)
    enter_run(config.run_dir, f"rank_{ranks.rank}")
    _LOG.info("Rank %d of %d, %d threads", ranks.rank, ranks.world_size, torch.get_num_threads())
    device = choose_device(config.train.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    plan = load_plan(config.run_dir, number)
    checkpoint = latest_checkpoint(StageFolder(job.stage_dir).checkpoints)
    stage = RankStage(
        config,
        job.recipe,
        job.stage_dir,
        ranks,
        device,
        num_steps=plan.num_steps,
        plan_digest=plan.digest,
        checkpoint=checkpoint,
        first_step=read_state(checkpoint).step if checkpoint is not None else 0,
        finish_step=None if plan.finish is None else plan.finish.start_step,
        horizon_starts=plan.horizon_starts,
    )
    if ranks.rank == 0:
        note_place(config.run_dir, place_of_ranks(device, config, number, stage.first_step, ranks))
    stream = _stream(stage, plan)  # reads its first rows while the policy is built
    outside = Outside(
        connect_scores=partial(_connect_scores, job, stage, stream),
        follows=job.schedule if job.scorer_watch is not None and job.snapshots is None else None,
        sink=ActorSink(job.metrics, config),
        limit=partial(limited, config.run_dir),
        step_scores=job.step_scores,
    )
    run_stage(stage, outside)


def _stream(stage: RankStage, plan: RunPlan) -> RankStream:
    config = stage.config
    rows = TrainedRows.of_stage(config, stage.recipe.stage)
    planned = rank_batches(
        plan,
        rows.index,
        rank=stage.ranks.rank,
        num_ranks=stage.ranks.world_size,
        start_step=stage.first_step,
        micro_batch_tokens=config.train.micro_batch_tokens,
    )
    return RankStream(
        planned,
        rows.index,
        config.tokenizer.path,
        rows_per_block=config.data.read_ahead_rows,
        deadline_s=config.deadlines.data_s,
        run_dir=config.run_dir,
        told=rows.told,
        template=config.data.template,
        compared=rows.compared,
    )


def _connect_scores(job: RankJob, stage: RankStage, stream: RankStream, published: Path | None) -> ScoredSteps:
    """Return the stream's steps, scored by the pool where there is one, from the versions of `published` if given."""
    if job.scorer_watch is None:
        return StreamedSteps(stream, Unscored(stream))
    directory = job.snapshots.path if job.snapshots is not None else published
    config = job.config
    scores = ScoreAhead(
        stream,
        job.scorer_watch,
        job.schedule,
        directory=str(directory),
        first_step=stage.first_step,
        rank=stage.ranks.rank,
        lookahead_steps=config.critic.lookahead_steps,
        mode=config.critic.mode,
        deadline_s=config.deadlines.score_s,
        start_s=config.deadlines.start_s,
    )
    return StreamedSteps(stream, scores)


class StreamedSteps:
    """The loop's batches: the steps of this rank's stream, scored."""

    def __init__(self, stream: RankStream, scores: ScoreStream) -> None:
        self._stream = stream
        self._scores = scores

    def next(self, step: int) -> ScoredStep:
        """Return the scored micro-batches of `step`; what is read ahead meanwhile counts as waiting of this step."""
        waited_before_s = self._stream.waited_s
        batches = self._scores.next(step)
        return ScoredStep(batches, self._stream.waited_s - waited_before_s)


class ActorSink:
    """The loop's sink of reports: the metrics actor. A silent actor loses reports but never stops the run."""

    def __init__(self, metrics: Any, config: RunConfig) -> None:
        self._metrics = metrics
        self._run_dir = config.run_dir
        self._deadlines = config.deadlines

    def start_from(self, stage: int, step: int) -> None:
        """Have the reports at or after (stage, step) forgotten; wait for that."""
        forgotten = self._metrics.start_from.remote(stage, step)
        with suppress(RayError):
            ray.get(forgotten, timeout=self._deadlines.start_s + self._deadlines.tracking_s)

    def send(self, report: StepReport) -> None:
        """Send a report and do not wait."""
        self._metrics.log.remote(report)

    def recorded(self) -> list[StepReport]:
        """Return what metrics.jsonl holds by now."""
        return read_reports(self._run_dir)

    def flush(self) -> None:
        """Wait for the actor, which answers in order; the driver reports an actor that stays silent."""
        with suppress(RayError):
            ray.get(self._metrics.latest.remote(), timeout=self._deadlines.tracking_s)
