"""The wiring of a training run: which processes start, in which order, and which of them communicate.

    driver ── metrics actor
       ├───── critic pool, or reference pool           (stage 2, where the weighting or the value loss needs one)
       └───── TorchTrainer ── rank 0..n-1              (each: Ray Data stream -> score ahead -> step)

The trainer runs in a thread; the main thread draws the progress line, handles signals (`flows/run/stop_request.py`)
and watches heartbeats (`flows/run/run_watch.py`). Nothing here computes.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import ray
from ray.exceptions import GetTimeoutError, RayError
from rich.console import Console

from actors.metrics_sink import MetricsSink
from actors.policy_worker import RankJob
from actors.reference_scorer import ReferenceScorer
from actors.stalls import ScorerWatch, enter_run, report_stall
from actors.value_critic import ValueCritic
from wmtp_ray.artifacts.meta_checkpoint import open_value_path, stored_value_spec
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.data.index_file import load_index
from wmtp_ray.errors import Interrupted, WmtpError
from wmtp_ray.flows.cluster import joined, require_resources
from wmtp_ray.flows.run.prepare import Prepared
from wmtp_ray.flows.run.run_watch import RunWatch
from wmtp_ray.flows.run.stage_trainer import stage_trainer
from wmtp_ray.flows.run.step_evaluations import StepEvaluations
from wmtp_ray.flows.run.stop_request import LOOKED_S, StopRequest, ended_with_ray
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.run_plan import save as save_plan
from wmtp_ray.plan.versions import OneVersion, VersionSchedule
from wmtp_ray.preflight.needed_resources import training_resources
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.decisions import (
    note_compared_with,
    note_critic,
    note_gate,
    note_start,
    note_weighting,
    read_decisions,
)
from wmtp_ray.tracking.memory_use import FamilyMemory, MemoryUse, Peak
from wmtp_ray.tracking.metrics_file import read_training_reports
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.processes import drop_empty_stacks, forget_processes
from wmtp_ray.tracking.progress import Progress
from wmtp_ray.tracking.result import RunResult, write_result
from wmtp_ray.tracking.run_log import DRIVER, driver_log, log_stage
from wmtp_ray.tracking.run_warnings import RunWarnings, show_warnings
from wmtp_ray.tracking.training_record import record_of_run, weighting_begun_with, write_start, write_training
from wmtp_ray.tracking.weight_warnings import weight_warnings
from wmtp_ray.training.checkpoint import check_checkpoints
from wmtp_ray.training.critic_gate import Gated, gate_critic, gate_given_critic
from wmtp_ray.training.process_memory import measured_as
from wmtp_ray.training.stages import (
    StageRecipe,
    StageResult,
    clear_failure,
    critic_bundle,
    critic_stage,
    policy_stage,
    read_failure,
    read_stage_result,
    stage_directory,
)

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_MEMORY_EVERY_S = 2.0
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # Ray Train reads it from the driver's environment


@dataclass(frozen=True)
class ScorePool:
    """The scorers, their version schedule, and their snapshots where the version never changes."""

    scorers: ScorerWatch | None
    schedule: VersionSchedule
    snapshots: SnapshotDirectory | None


def train(config: RunConfig, prepared: Prepared, *, critic_class: type[ValueCritic] = ValueCritic) -> RunResult:
    """Run the stages that train, continuing what an earlier start of this run has done.

    `critic_class` is the class behind the critic actors. Raises Interrupted after a stop, WmtpError when a rank failed
    for a reason it could name.
    """
    for plan in prepared.plans.values():
        save_plan(plan, config.run_dir)
    os.environ[_START_TIMEOUT] = str(config.deadlines.start_s)
    with (
        joined(config.cluster.num_cpus),
        StopRequest(config.run_dir) as stop,
        driver_log(config.run_dir),
        RunWarnings(config.run_dir, DRIVER) as warned,
    ):
        forget_processes(config.run_dir)
        enter_run(config.run_dir, DRIVER)
        run = _Run(config, prepared, critic_class, stop, warned)
        with ended_with_ray(stop, run.write_killed):
            result = run.run()
        if stop.is_made():
            raise Interrupted("the stop came with the last step")
        return result


class _Run:
    """One start of a run on a connected cluster."""

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        critic_class: type[ValueCritic],
        stop: StopRequest,
        warned: RunWarnings,
    ) -> None:
        self._config = config
        self._applied = config  # what the gate has made of it
        self._stop = stop
        self._prepared = prepared
        self._critic_class = critic_class
        self._seconds: dict[str, float] = {}
        self._has_result = False  # of this start
        self._warned = warned
        _warn(*(warning for plan in prepared.plans.values() for warning in plan.warnings), *prepared.left_out)
        require_resources(training_resources(config))
        sink = ray.remote(MetricsSink).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self._metrics: Any = sink.remote(config)
        self._watch = RunWatch(config, self._metrics, warned)
        # On a cluster that was there before us the machine's processes are not this run's alone.
        self._machine = FamilyMemory() if "RAY_ADDRESS" not in os.environ else None

    def run(self) -> RunResult:
        """Train stage after stage; leave result.json whatever happens."""
        status: RunStatus = "FAILED"
        config = self._config
        stages: list[StageResult] = []
        done = tuple(n for n in self._prepared.plans if read_stage_result(stage_directory(config, n)) is not None)
        note_start(config, done)
        try:
            config = self._applied = self._judge_given_critic(config)
            for recipe in self._recipes():
                stages.append(self._run_stage(config, recipe))
                if (kept := stages[-1].kept) is not None:
                    note_critic(config.run_dir, kept)
                    _LOG.info("The critic: %s", kept.words)
                if (health := stages[-1].health) is not None:
                    prefix = f"stage{recipe.stage}/"
                    self._metrics.set_result.remote({prefix + name: value for name, value in health.metrics.items()})
                if recipe.stage == 1 and stages[-1].health is not None:
                    critic = config.folder.critic.final
                    config = self._applied = self._pass_gate(gate_critic(config, stages[-1].health, critic))
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        finally:
            result = self._close(status, stages)
        return result

    def _recipes(self) -> list[StageRecipe]:
        builders = {1: critic_stage, 2: policy_stage}
        return [builders[stage](self._config) for stage in sorted(self._prepared.plans)]

    # ------------------------------------------------------------------------------------------------ a stage

    def _run_stage(self, config: RunConfig, recipe: StageRecipe) -> StageResult:
        directory = stage_directory(config, recipe.stage)
        done = read_stage_result(directory)
        if done is not None:
            return done
        clear_failure(directory)
        log_stage(recipe.stage)
        _LOG.info("%d steps, %d ranks", self._prepared.plans[recipe.stage].num_steps, config.train.num_workers)
        _warn(*check_checkpoints(StageFolder(directory).checkpoints))
        started = time.perf_counter()
        if recipe.stage == 2:
            write_start(config)
            if config.compared_file is not None:
                note_compared_with(config.run_dir, load_index(config.compared_file).file_fingerprint)
            note_weighting(config.run_dir, weighting_begun_with(config.run_dir) or config.weighting.type)
            self._metrics.set_tags.remote(read_decisions(config.run_dir).tags())
        pool = self._score_pool(config) if recipe.stage == 2 else ScorePool(None, OneVersion(), None)
        evaluations = self._step_evaluations(config, recipe)
        job = RankJob(
            config, recipe, directory, pool.scorers, pool.schedule, pool.snapshots, self._metrics, evaluations.scores
        )
        try:
            self._fit(config, job, evaluations)
        finally:
            evaluations.close()
            for actor in pool.scorers.actors if pool.scorers else ():
                ray.kill(actor)
        self._seconds[f"stage_{recipe.stage}"] = time.perf_counter() - started
        result = read_stage_result(directory)
        if result is None:
            raise Interrupted(f"stage {recipe.stage} stopped before its end")
        if recipe.stage == 2:
            write_training(StageFolder(directory).final, record_of_run(config.run_dir))
        return result

    def _step_evaluations(self, config: RunConfig, recipe: StageRecipe) -> StepEvaluations:
        plan = self._prepared.step_evaluations if recipe.stage == 2 else None
        return StepEvaluations(config, plan, self._metrics)

    def _fit(self, config: RunConfig, job: RankJob, evaluations: StepEvaluations) -> None:
        if self._stop.is_made():
            raise Interrupted(f"stopped before stage {job.recipe.stage} began")
        trainer = stage_trainer(config, job)
        failures: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=fit, name="trainer", daemon=True)
        plan = self._prepared.plans[job.recipe.stage]
        console = Console(quiet=not config.tracking.progress)
        self._watch.begin_stage()
        next_look_s = 0.0
        with Progress(console, total_steps=plan.num_steps) as progress:
            thread.start()
            while thread.is_alive():
                thread.join(_POLL_S)
                if self._machine is not None and job.recipe.stage == 2 and time.monotonic() >= next_look_s:
                    self._machine.look()
                    next_look_s = time.monotonic() + _MEMORY_EVERY_S
                show_warnings(config.run_dir, self._watch.look())
                report = self._watch.latest(_POLL_S)
                progress.show(report if report is not None and report.stage == job.recipe.stage else None)
                evaluations.look()
        if failures:
            self._explain(failures[0], job)
        evaluations.finish(plan.num_steps, self._stop.is_made)

    def write_killed(self) -> None:
        """Leave result.json in milliseconds, unless the run has left its own.

        Ray's client ends this process as soon as it finds its raylet gone, so nothing is asked or counted here.
        """
        if self._has_result:
            return
        warnings = (*self._warned.texts, "Ray's own processes were stopped with the run")
        reports = read_training_reports(self._config.run_dir)
        write_result(self._config.run_dir, self._result("KILLED", reports, warnings, policy=None, memory=None))

    def _explain(self, failure: BaseException, job: RankJob) -> NoReturn:
        """Raise the cause of the ranks' failure: the reason that a rank saved, a requested stop, or Ray's error."""
        if (reason := read_failure(job.stage_dir)) is not None:
            raise WmtpError(reason) from failure
        if self._stop.is_made():
            cut = f"stage {job.recipe.stage} was cut short and continues from the last checkpoint"
            raise Interrupted(cut) from failure
        report_stall(self._config.run_dir, "The ranks failed")
        raise WmtpError(f"The ranks failed: {failure}. --resume continues from the last checkpoint") from failure

    # ------------------------------------------------------------------------------------------ its actors

    def _score_pool(self, config: RunConfig) -> ScorePool:
        if config.needs_reference:
            directories = [reference.path for reference in config.references]
            return ScorePool(
                self._start("reference", ReferenceScorer, directories, config),
                self._prepared.schedule,
                SnapshotDirectory(config.run_dir),
            )
        if not config.uses_critic:
            return ScorePool(None, OneVersion(), None)
        args, spec = ModelSpec.read(config.model.path), ValueSpec.of(config)
        snapshots = None
        if config.critic.source == "frozen":
            bundle = critic_bundle(config)
            assert bundle is not None, "the schema asks for critic.path, or for stage 1"
            args, spec = ModelSpec.read(bundle), stored_value_spec(bundle, spec) or spec
            snapshots = SnapshotDirectory(config.folder.frozen_critic)
            snapshots.put_streamed(0, *open_value_path(bundle, spec))
        scorers = self._start("critic", self._critic_class, args, spec, config)
        return ScorePool(scorers, self._prepared.schedule, snapshots)

    def _start(self, kind: str, actor_class: type[Any], *arguments: Any) -> ScorerWatch:
        cluster = self._config.cluster
        remote = ray.remote(actor_class).options(
            num_cpus=cluster.cpus_per_critic, num_gpus=cluster.gpus_per_critic, max_restarts=-1, max_task_retries=-1
        )
        numbers = range(self._config.critic.pool_size)
        actors = tuple(remote.remote(*arguments, number) for number in numbers)
        return ScorerWatch(self._config.run_dir, actors, tuple(f"{kind}_{number}" for number in numbers))

    # --------------------------------------------------------------------------------------------- around stages

    def _judge_given_critic(self, config: RunConfig) -> RunConfig:
        """Check a critic of another run against the gate."""
        if 1 in self._prepared.plans or config.critic.path is None or not config.weighting.needs_values:
            return config
        return self._pass_gate(gate_given_critic(config, config.critic.path))

    def _pass_gate(self, gated: Gated) -> RunConfig:
        """Record and report the gate's decision; return stage 2's configuration. WmtpError where the gate stops."""
        note_gate(self._config.run_dir, gated.decision)
        if gated.decision.outcome == "stopped":
            raise WmtpError(gated.warnings[0])
        _warn(*gated.warnings)
        return gated.config

    def _close(self, status: RunStatus, stages: list[StageResult]) -> RunResult:
        """Flush the metrics and write result.json; a tracking server that does not answer causes only a warning."""
        if self._stop.is_made():
            time.sleep(LOOKED_S)  # a Ray that was stopped as well is found by then, and is not called any more
        self._metrics.set_tags.remote(read_decisions(self._config.run_dir).tags())
        result = self._write_result(status, stages, self._close_metrics(status))
        drop_empty_stacks(self._config.run_dir)
        return result

    def _write_result(self, status: RunStatus, stages: list[StageResult], problems: list[str]) -> RunResult:
        reports = read_training_reports(self._config.run_dir)
        policy = next((s for s in stages if s.stage == 2), None)
        memory = self._memory_use(policy) if policy is not None else None
        of_memory = memory.warnings() if memory is not None else []
        _warn(*weight_warnings(self._applied.weighting, reports), *of_memory, *problems)
        self._warned.new()
        result = self._result(status, reports, tuple(self._warned.texts), policy, memory)
        write_result(self._config.run_dir, result)
        self._has_result = True
        log_stage(None)
        _LOG.info("%s after %d steps, policy %s", status, result.steps, result.policy_sha256)
        return result

    def _result(
        self,
        status: RunStatus,
        reports: list[StepReport],
        warnings: tuple[str, ...],
        policy: StageResult | None,
        memory: MemoryUse | None,
    ) -> RunResult:
        last, decisions = reports[-1] if reports else None, read_decisions(self._config.run_dir)
        return RunResult(
            status=status,
            steps=last.step + 1 if last is not None else 0,
            metrics=dict(last.metrics) if last is not None else {},
            policy_sha256=policy.policy_sha256 if policy else None,
            seconds_per_stage=self._seconds,
            warnings=warnings,
            memory=memory,
            weighting=decisions.weighting,
            decisions=decisions,
        )

    def _memory_use(self, policy: StageResult) -> MemoryUse | None:
        """Compare the measured peaks of stage 2 with their estimates."""
        if self._prepared.estimate is None:
            return None
        load = self._prepared.estimate.load
        is_machine, family = load.device.is_machine, self._machine
        rank = Peak(load.rank().total, policy.peak_bytes, measured_as("cpu" if is_machine else "cuda"))
        if not is_machine or family is None or family.peak_bytes is None:
            return MemoryUse(rank, None)
        return MemoryUse(rank, Peak(load.total_bytes, family.peak_bytes, "sum of PSS, each process at its own peak"))

    def _close_metrics(self, status: RunStatus) -> list[str]:
        """Have the sink flush and end, with one retry where it hangs; return what was not recorded."""
        deadline_s = self._config.deadlines.tracking_s + 5.0
        closed = self._metrics.close.remote(status)
        try:
            try:
                problems: list[str] = ray.get(closed, timeout=deadline_s)
            except GetTimeoutError:
                self._watch.replace_metrics("The metrics actor, asked to close,")
                problems = ray.get(closed, timeout=deadline_s + self._config.deadlines.start_s)
        except RayError as error:
            problems = [f"the metrics actor did not close: {error}"]
        return problems


def _warn(*texts: str) -> None:
    """Warn of each text: in the log, on the console and in result.json."""
    for text in texts:
        _LOG.warning("%s", text)
