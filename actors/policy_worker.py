"""One rank of the policy: the training loop, read from top to bottom.

`run_rank` is what Ray Train enters on every rank, at the start and again after a rank died; it always continues from
the newest checkpoint. Rank 0 also publishes the value path, writes checkpoints and reports metrics. The mathematics
is in `wmtp_ray/training` and `wmtp_ray/objective`; this file only moves things between them.
"""

import os
import time
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError

from actors.metrics_sink import read_mlflow_run_id
from actors.rank_stream import RankStream
from actors.score_ahead import ScoreAhead, ScoreStream, Unscored
from actors.stalls import ScorerWatch, enter_run, limited, report_stall
from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import write_policy
from wmtp_ray.artifacts.snapshots import SnapshotDirectory, open_attempt, version_of_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch, StepReport
from wmtp_ray.data.index_file import load_index
from wmtp_ray.errors import WmtpError
from wmtp_ray.model.policy import value_path_state
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.plan.run_plan import load_plan, rank_batches
from wmtp_ray.plan.versions import VersionSchedule
from wmtp_ray.ranks import Ranks, current_ranks
from wmtp_ray.saved_records import read_record, write_exact_record
from wmtp_ray.scoring.contract import MicroBatch, to_micro_batch
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.tracking.processes import show_life
from wmtp_ray.training.checkpoint import (
    RunState,
    latest_checkpoint,
    read_state,
    restore,
    save_checkpoint,
    snapshot_files,
)
from wmtp_ray.training.estimate.flops import Tokens
from wmtp_ray.training.estimate.run_estimate import stage_flops
from wmtp_ray.training.optim import build_optimizer, learning_rate_at
from wmtp_ray.training.parallel import choose_device, distribute
from wmtp_ray.training.process_memory import give_back_freed_memory, peak_bytes
from wmtp_ray.training.sharding import whole_tensors
from wmtp_ray.training.stages import (
    STOP_FILE,
    StageRecipe,
    StageResult,
    read_failure,
    write_failure,
    write_stage_result,
)
from wmtp_ray.training.step import TrainingStep
from wmtp_ray.training.throughput import measured_peak_flops, tokens_of

_REPORTS = "reports_of_checkpoint.json"  # steps since the checkpoint before


@dataclass(frozen=True)
class RankJob:
    """Everything a rank is told: the stage, whom to ask for scores, whom to report to."""

    config: RunConfig
    recipe: StageRecipe
    stage_dir: Path
    score_pool: ScorerWatch | None
    schedule: VersionSchedule
    snapshots: SnapshotDirectory | None
    metrics: Any


def run_rank(told: dict[str, Any]) -> None:
    """Entry point of Ray Train on every rank; a reason that a restart cannot cure is left for the driver.

    `told`: "job" refers to a RankJob, which Ray Train's controller then hands on without importing torch to read it;
    "start_s" is how long to wait for it.
    """
    job: RankJob = ray.get(told["job"], timeout=told["start_s"])
    config, directory = job.config, job.stage_dir
    if (failure := read_failure(directory)) is not None:
        raise WmtpError(failure)
    try:
        PolicyWorker(job, current_ranks()).run()
    except WmtpError as error:
        write_failure(directory, str(error))
        raise
    except RuntimeError as error:
        # A process group has no type of its own for it. A restart may cure it; who was late is seen only now.
        if "timed out" in str(error).lower():
            report_stall(config.run_dir, f"A collective took more than {config.deadlines.collective_s:.0f} s: {error}")
        raise


class PolicyWorker:
    """Owns the policy, its optimizer and this rank's place in the plan."""

    def __init__(self, job: RankJob, ranks: Ranks) -> None:
        config = job.config
        torch.set_num_threads(config.cluster.threads_per_worker)
        torch.manual_seed(config.seed)
        self.job = job
        self.config = config
        self.ranks = ranks
        self.role = f"rank_{ranks.rank}"
        enter_run(config.run_dir, self.role)
        self.device = choose_device(config.train.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
        self.plan = load_plan(config.run_dir, job.recipe.stage)
        self.index = load_index(config.data.train_file, config.data.index_file)
        self.checkpoints = job.stage_dir / "checkpoints"
        self.continued_from = latest_checkpoint(self.checkpoints)
        self.start_step = read_state(self.continued_from).step if self.continued_from is not None else 0
        self.stream = self._stream()  # reads its first rows while the policy is built
        self.policy = job.recipe.build_policy(config)
        self.size = ModelSpec.of(self.policy.transformer.args)
        self.peak_flops = measured_peak_flops(
            self.device, torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32
        )
        self.training = self._build_training()
        self.drift = job.recipe.watch_drift(self.training.loss, config)  # before a checkpoint: from the stage's start
        self.snapshots = self._open_snapshots(self._restore())
        self.scores = self._build_scores()
        self.losses: list[float] = []  # since the last checkpoint
        self.reports: list[StepReport] = []  # likewise, of rank 0

    # ---------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Train from the restored step to the end of the plan, or until a stop is asked for."""
        if self.ranks.rank == 0:
            self._start_reports()
        if self.start_step == 0:
            self._publish(0)
        for step in range(self.start_step, self.plan.num_steps):
            started, data_waited_s = time.perf_counter(), self.stream.waited_s
            scored = self.scores.next(step)
            self._seed(step)
            metrics = self.training.run(self._micro_batches(step, scored), self._learning_rate(step))
            self.losses.append(metrics["loss/total"])
            step_s, data_wait_s = time.perf_counter() - started, self.stream.waited_s - data_waited_s
            done = step + 1
            if self.drift is not None:
                metrics |= self.drift.metrics_after(done, self.plan.num_steps)
            self._report(step, scored, metrics, step_s, data_wait_s)
            show_life(self.config.run_dir, self.role)
            self._publish(done)
            stopping = self._stop_requested()
            if stopping or done % self.config.train.checkpoint_every == 0 or done == self.plan.num_steps:
                self._checkpoint(done)
            if stopping:
                return
        self._finish()

    def _micro_batches(self, step: int, scored: list[ScoredBatch]) -> list[MicroBatch]:
        return [to_micro_batch(each, step, self.config.seed, self.device) for each in scored]

    def _seed(self, step: int) -> None:
        """Key what a forward draws (the adapters' dropout) by run, step and rank, whatever came before."""
        words = np.random.SeedSequence([self.config.seed & (2**63 - 1), step, self.ranks.rank])
        torch.manual_seed(int(words.generate_state(1)[0]))

    def _learning_rate(self, step: int) -> float:
        train = self.config.train
        return learning_rate_at(
            step,
            self.plan.num_steps,
            peak=self.job.recipe.peak_learning_rate,
            warmup_frac=train.warmup_frac,
            min_frac=train.min_learning_rate_frac,
        )

    # ---------------------------------------------------------------------------------------------- building

    def _build_training(self) -> TrainingStep:
        recipe, num_horizons = self.job.recipe, self.policy.transformer.args.n_future_tokens
        loss = recipe.build_loss(self.policy, self.config)
        module = distribute(loss, self.config.train, self.ranks, self.device)
        optimizer = build_optimizer(self.policy, self.config.train, recipe.peak_learning_rate)
        scorer = recipe.build_scorer(self.config, num_horizons)
        return TrainingStep(module, self.policy, optimizer, scorer, self.config, self.ranks)

    def _restore(self) -> list[Path]:
        """Continue from the newest whole checkpoint; return the critic versions it carries."""
        checkpoint = self.continued_from
        if checkpoint is None:
            return []
        assert read_state(checkpoint).plan_digest == self.plan.digest, "the checkpoint belongs to another plan"
        state = restore(checkpoint, self.policy, self.training.optimizer)
        self.training.scorer.load_state_dict(state.scorer)
        return snapshot_files(checkpoint)

    def _open_snapshots(self, carried: list[Path]) -> SnapshotDirectory | None:
        """Agree on a directory of this attempt; rank 0 makes it before any rank goes on."""
        if self.job.snapshots is not None or self.job.score_pool is None:
            return self.job.snapshots
        proposal = torch.tensor([int.from_bytes(os.urandom(4), "big")], dtype=torch.int64)
        attempt = f"attempt_{int(self.ranks.gather(proposal)[0]):08x}"
        root = self.job.stage_dir / "snapshots"
        if self.ranks.rank == 0:
            open_attempt(root, attempt, carried)
        self.ranks.sum(torch.zeros(1))
        return SnapshotDirectory(root / attempt)

    def _build_scores(self) -> ScoreStream:
        if self.job.score_pool is None:
            return Unscored(self.stream)
        return ScoreAhead(
            self.stream,
            self.job.score_pool,
            self.job.schedule,
            directory=str(self.snapshots.path) if self.snapshots else "",
            first_step=self.start_step,
            rank=self.ranks.rank,
            lookahead_steps=self.config.critic.lookahead_steps,
            mode=self.config.critic.mode,
            deadline_s=self.config.deadlines.score_s,
            start_s=self.config.deadlines.start_s,
        )

    def _stream(self) -> RankStream:
        planned = rank_batches(
            self.plan,
            self.index,
            rank=self.ranks.rank,
            num_ranks=self.ranks.world_size,
            start_step=self.start_step,
            micro_batch_tokens=self.config.train.micro_batch_tokens,
        )
        return RankStream(
            planned,
            self.index,
            self.config.tokenizer.path,
            rows_per_block=self.config.data.read_ahead_rows,
            deadline_s=self.config.deadlines.data_s,
            run_dir=self.config.run_dir,
        )

    # ------------------------------------------ other duties: all ranks gather what they share, rank 0 does the rest

    def _publish(self, done: int) -> None:
        """Publish the value path as version `done` where the schedule says so; drop versions nobody needs."""
        if self.snapshots is None or not self.job.schedule.is_published_at(done):
            return
        current = whole_tensors(value_path_state(self.policy), self.ranks)
        if self.ranks.rank != 0:
            return
        deadline_s = self.config.deadlines.publish_s
        with limited(self.config.run_dir, f"Publishing version {done} of the critic (deadlines.publish_s)", deadline_s):
            decay, previous = self.config.critic.ema_decay, self.snapshots.files()
            if decay > 0.0 and previous:
                last = self.snapshots.get(version_of_file(previous[-1]), deadline_s)
                current = {name: decay * last[name] + (1.0 - decay) * tensor for name, tensor in current.items()}
            self.snapshots.put(done, current)
            self.snapshots.drop_before(self.job.schedule.version_of(done))

    def _checkpoint(self, done: int) -> None:
        mean_loss = fmean(self.losses)
        self.losses.clear()
        train = self.config.train
        oldest_needed = self.job.schedule.version_of(done)
        carried = self.snapshots.files(oldest_needed) if self.snapshots and self.job.snapshots is None else []
        state = RunState(
            stage=self.job.recipe.stage,
            step=done,
            plan_digest=self.plan.digest,
            scorer=self.training.scorer.state_dict(),
            mlflow_run_id=read_mlflow_run_id(self.config.run_dir),
            world_size=self.ranks.world_size,
            mean_loss=mean_loss,
        )
        what = f"Rank {self.ranks.rank}'s part of the checkpoint of step {done} (deadlines.checkpoint_s)"
        with limited(self.config.run_dir, what, self.config.deadlines.checkpoint_s):
            self._keep_reports()
            save_checkpoint(
                self.checkpoints,
                state,
                self.policy,
                self.training.optimizer,
                carried,
                self.ranks,
                keep=train.keep_checkpoints,
                keep_best=train.keep_best_checkpoints,
            )
        show_life(self.config.run_dir, self.role)

    def _report(
        self, step: int, scored: list[ScoredBatch], metrics: dict[str, float], step_s: float, data_wait_s: float
    ) -> None:
        counted = tokens_of([s.batch for s in scored], self.size.num_horizons)
        own = torch.tensor([sum(s.batch.num_supervised_tokens for s in scored), *astuple(counted)], dtype=torch.float64)
        supervised, *counts = self.ranks.sum(own).tolist()
        if self.ranks.rank != 0:
            return
        tokens = Tokens(*map(int, counts))
        flops = stage_flops(self.config, self.size, self.job.recipe.stage, tokens).model
        facts = {
            "score/staleness_steps": float(scored[0].staleness_steps),
            "score/wait_s": scored[0].wait_s,
            "perf/step_s": step_s,
            "perf/data_wait_frac": data_wait_s / step_s,
            "perf/tokens": float(tokens.tokens),
            "perf/supervised_tokens_per_s": supervised / step_s,
            "perf/mfu": flops / (step_s * self.peak_flops * self.ranks.world_size),
        }
        self.reports.append(StepReport(self.job.recipe.stage, step, metrics | facts))
        self.job.metrics.log.remote(self.reports[-1])

    def _keep_reports(self) -> None:
        """Keep what the steps of a checkpoint were like before it is written: the metrics actor may not live to."""
        if self.ranks.rank != 0:
            return
        with suppress(OSError):  # a full disk is the checkpoint's to name
            write_exact_record(self.job.stage_dir / _REPORTS, self.reports)
        self.reports.clear()

    def _start_reports(self) -> None:
        """Have the steps to come forgotten; send those again that the checkpoint holds and that died with the actor."""
        # Waited for: an actor that dies just now is asked again, and must not forget what was reported in the meantime.
        forgotten = self.job.metrics.start_from.remote(self.job.recipe.stage, self.start_step)
        with suppress(RayError):
            ray.get(forgotten, timeout=self.config.deadlines.start_s + self.config.deadlines.tracking_s)
        kept = self.job.stage_dir / _REPORTS
        if not kept.is_file():
            return
        recorded = {(report.stage, report.step) for report in read_reports(self.config.run_dir)}
        for report in read_record(kept, list[StepReport], "remove it: metrics.jsonl then lacks these steps"):
            if report.step < self.start_step and (report.stage, report.step) not in recorded:
                self.job.metrics.log.remote(report)

    def _stop_requested(self) -> bool:
        """Whether the driver was interrupted; all ranks hear it at the same step."""
        asked = self.ranks.rank == 0 and (self.config.run_dir / STOP_FILE).exists()
        return bool(self.ranks.sum(torch.tensor([float(asked)])) > 0)

    def _finish(self) -> None:
        """Leave the final policy and what the stage found out where the driver looks."""
        self.policy.eval()
        self.training.optimizer.zero_grad(set_to_none=True)
        give_back_freed_memory()
        health = self.job.recipe.finish(self.training.loss, self.config)
        state = whole_tensors(self.policy.state_dict(), self.ranks)
        own_peak = torch.tensor([peak_bytes(self.device)], dtype=torch.int64)
        largest = max(int(each) for each in self.ranks.gather(own_peak))
        if self.ranks.rank != 0:
            return
        # The sink answers in order: when this comes back, every report has been recorded. One that is silent costs
        # its reports, never the run; the driver says so when it closes the sink.
        with suppress(RayError):
            ray.get(self.job.metrics.latest.remote(), timeout=self.config.deadlines.tracking_s)
        state = self.policy.merged(state)
        write_policy(self.job.stage_dir / "final", self.policy.transformer.args, self.policy.spec, state)
        steps, sha256 = self.plan.num_steps, tensors_sha256(state)
        result = StageResult(self.job.recipe.stage, steps, sha256, health, peak_bytes=largest or None)
        write_stage_result(self.job.stage_dir, result)
