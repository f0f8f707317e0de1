"""One trial of a sweep, as Ray Tune sees it: a run in a process of its own, and a watch on its metrics.

    Tune ── SweepTrial (0.1 CPU) ── run_planned ── what `flows/run/run_stages.py` starts
                 └ metrics.jsonl ──> stop rules, early stopping ──> a stop request ──> checkpoint

Tune's actor is in a placement group of its size, which its children would have to fit into; `run_planned` is started
outside of it. A Trainable rather than a function, because its `cleanup` is waited for: a trial that is stopped ends as
an interrupted run does, with a checkpoint and its metrics flushed.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.tune import Trainable

from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep import SweepSpec
from wmtp_ray.contracts import StepReport
from wmtp_ray.errors import Interrupted, TrainingError, WmtpError
from wmtp_ray.flows.run.prepare import Prepared, prepare
from wmtp_ray.flows.run.run_stages import run_stages
from wmtp_ray.flows.sweep.sweep_plan import own_part
from wmtp_ray.run_folder import RunFolder, SweepFolder
from wmtp_ray.tracking.metrics_tail import MetricsTail
from wmtp_ray.tracking.sweep_result import TrialRecord, TrialStatus, read_trial, write_trial
from wmtp_ray.tracking.training_record import weighting_begun_with
from wmtp_ray.tracking.trial_watch import ComparedWindow, RuleWatch
from wmtp_ray.training.held_out import measure_held_out_problems
from wmtp_ray.training.stages import read_stage_result, stage_directory

STEP, COMPARED = "step", "compared"  # what ASHA reads
_STAGE = 2
_POLL_S = 0.5


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended in its process."""

    status: TrialStatus
    reason: str | None
    steps: int
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialBrief:
    """The arguments of one trial: its name, its place in the search, and the keys of its plans."""

    name: str
    point: int
    overrides: dict[str, Any]
    seed: int
    plan_key: str


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share. `prepared` holds references to plans in the object store, by `plan_key`."""

    directory: Path
    spec: SweepSpec
    prepared: dict[str, Any]


def start_run(config: RunConfig, prepared: Any, *, measures: bool) -> Any:
    """Start a claimed run in a process of its own, outside of any placement group; returns the reference to wait for.

    `prepared` is a reference to plans that hold the run's, or None where it has to make its own. The run is started
    once more when its process dies, and then continues from the newest checkpoint.
    """
    remote = ray.remote(run_planned).options(num_cpus=0, max_retries=1, scheduling_strategy="DEFAULT")
    return remote.remote(config, prepared, measures)


def run_planned(config: RunConfig, prepared: Prepared | None, measures: bool) -> RunOutcome:
    """Run all stages, then measure the final policy on held-out problems; every end of a run is an outcome."""
    try:
        result = run_stages(config, own_part(prepared, config) if prepared is not None else prepare(config))
        metrics = result.metrics | (_measured(config) if measures else {})
    except (Interrupted, KeyboardInterrupt) as stop:
        return RunOutcome("unfinished", str(stop), 0)
    except WmtpError as error:
        return RunOutcome("failed", str(error), 0)
    return RunOutcome("finished", None, result.steps, metrics)


def _measured(config: RunConfig) -> dict[str, float | None]:
    """Return measures of a trial that its metrics lack: held-out losses, and the critic's health at the end."""
    cluster = config.cluster
    remote = ray.remote(measure_held_out_problems).options(
        num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker, scheduling_strategy="DEFAULT"
    )
    deadline_s = config.deadlines.start_s + config.deadlines.evaluation_s
    try:
        losses = ray.get(remote.remote(config.folder.final, config), timeout=deadline_s)
    except GetTimeoutError as error:
        raise TrainingError(
            f"{config.run_name} has trained, but its held-out losses did not come within {deadline_s:.0f} s "
            "(deadlines.start_s + deadlines.evaluation_s); --resume measures them again"
        ) from error
    found = dict(losses.metrics()) if losses is not None else {}
    stage = read_stage_result(stage_directory(config, _STAGE))
    if stage is not None and stage.health is not None:
        found |= {f"stage2/{name}": value for name, value in stage.health.metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _fell_back_to(config: RunConfig) -> str | None:
    begun_with = weighting_begun_with(config.run_dir)
    return begun_with if begun_with != config.weighting.type else None


class SweepTrial(Trainable):
    """Reports our own steps to Tune and leaves trial.json when the trial is over."""

    def setup(self, config: dict[str, Any], context: SweepContext | None = None) -> None:
        """Start the run, or only show its metrics again where the trial is over already."""
        assert context is not None, "Tune gives it, see tune.with_parameters"
        self._brief: TrialBrief = config["trial"]
        self._sweep_dir, spec = context.directory, context.spec
        self._run_config = load_resolved(RunFolder(self._sweep_dir / self._brief.name).config)
        self._tail = MetricsTail(self._run_config.run_dir, _STAGE)
        self._rules = RuleWatch(spec)
        self._window = ComparedWindow(spec)
        self._steps = 0
        self._last: dict[str, Any] = {STEP: 0, COMPARED: self._window.mean}
        self._may_be_stopped = False
        self._is_over = read_trial(self._run_config.run_dir) is not None
        self._run: Any = None
        if not self._is_over:
            self._run = start_run(self._run_config, context.prepared.get(self._brief.plan_key), measures=True)

    def step(self) -> dict[str, Any]:
        """Wait for the next steps of the run, or for its end."""
        self._may_be_stopped = False
        while not (reports := self._tail.new()):
            if self._has_ended():
                return self._end()
        for report in reports:
            self._steps = report.step + 1
            self._window.add(report)
            if not self._is_over and (reason := self._rules.broken_by(report)) is not None:
                result = self._result(report)
                self._stop_run()
                self._record("stopped", reason, {})
                return result | {"done": True}
        self._may_be_stopped = True
        return self._result(reports[-1])

    def cleanup(self) -> None:
        """Called by Tune at the end; when early stopping has ended the trial, ask the run to stop."""
        if self._is_over or not self._may_be_stopped:
            return
        if not SweepFolder(self._sweep_dir).stop_request.exists():
            self._record("stopped", f"early stopping at step {self._steps}: others were better by then", {})
        self._stop_run()

    def _has_ended(self) -> bool:
        if self._is_over:
            return True
        if SweepFolder(self._sweep_dir).stop_request.exists():
            self._run_config.folder.stop_request.touch()
        ready, _ = ray.wait([self._run], timeout=_POLL_S)
        return bool(ready)

    def _end(self) -> dict[str, Any]:
        if not self._is_over:
            outcome = self._outcome()
            self._steps = max(self._steps, outcome.steps)
            if outcome.status != "unfinished":
                self._record(outcome.status, outcome.reason, outcome.metrics)
        return self._last | {"done": True}

    def _outcome(self) -> RunOutcome:
        try:
            outcome: RunOutcome = ray.get(self._run)
        except RayError as error:
            return RunOutcome("failed", f"the process of the run died: {error}", self._steps)
        return outcome

    def _stop_run(self) -> None:
        """Ask the run to checkpoint and stop, and wait for it."""
        self._run_config.folder.stop_request.touch()
        deadlines = self._run_config.deadlines
        ready, _ = ray.wait([self._run], timeout=deadlines.stop_s + deadlines.tracking_s)
        if not ready:
            ray.cancel(self._run, force=True)

    def _record(self, status: TrialStatus, reason: str | None, metrics: dict[str, float | None]) -> None:
        brief = self._brief
        shown = {name: value for name, value in self._last.items() if name not in (STEP, COMPARED)}
        record = TrialRecord(
            name=brief.name,
            point=brief.point,
            overrides=brief.overrides,
            seed=brief.seed,
            status=status,
            stop_reason=reason,
            steps=self._steps,
            metrics=metrics or {k: v if math.isfinite(v) else None for k, v in shown.items()},
            run_dir=brief.name,
            notes=tuple(self._rules.notes()),
            fell_back_to=_fell_back_to(self._run_config),
        )
        write_trial(self._run_config.run_dir, record)
        self._is_over = True

    def _result(self, report: StepReport) -> dict[str, Any]:
        self._last = {**report.metrics, STEP: self._steps, COMPARED: self._window.mean}
        return self._last
