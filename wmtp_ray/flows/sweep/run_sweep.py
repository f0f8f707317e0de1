"""A sweep from its command to its table: shared critics, then trials through Ray Tune, then the ranking.

    driver ── shared critics of stage 1         (each a run of its own, at most `slots` at once)
       └───── Tune ── SweepTrial 0..slots-1     (each a run of its own: flows/sweep/sweep_trial.py)

Every start is a new Tune run: finished trials are read from their folders, interrupted ones continue from their run's
checkpoints, so a sweep that was killed continues with `--resume` and repeats nothing. Tune's own snapshots hold less:
they are written late and without the values that early stopping has compared.
"""

import os
import threading
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wmtp_ray.config.arguments import Arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep_points import Point, Trial, listed_points
from wmtp_ray.errors import ConfigError, Failed, Interrupted, TrainingError, WmtpError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.sweep.sweep_outcome import records_of, table_of, write_outcome
from wmtp_ray.flows.sweep.sweep_plan import (
    PlannedTrial,
    SweepPlan,
    claim_sweep_directory,
    plan_sweep,
    release_sweep_directory,
)
from wmtp_ray.flows.sweep.sweep_slots import largest_of, slots
from wmtp_ray.interrupts import undone_at_end
from wmtp_ray.preflight.needed_resources import TRIAL_CPUS
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.preflight.start_checks import require_start, start_checks
from wmtp_ray.tracking.sweep_result import Ranking, TrialRecord, read_trial

if TYPE_CHECKING:
    from wmtp_ray.flows.sweep.sweep_tracking import ParentRun
    from wmtp_ray.flows.sweep.sweep_trial import TrialBrief

_POLL_S = 0.5
_TUNE_SETTINGS = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}  # we print our own lines


def sweep(arguments: Arguments, now: datetime) -> None:
    """Plan the sweep that a command asks for and, unless it is a dry run, run what is left of it.

    Raises WmtpError before anything is begun; after that Failed when a trial failed or none finished, Interrupted after
    a stop.
    """
    plan = plan_sweep(arguments, now)
    print(plan.render(), flush=True)
    checks = start_checks(plan.base, [largest_of(plan)])
    if arguments.dry_run:
        print(f"\n{next(iter(plan.prepared.values())).rendered}", flush=True)
    require_start(checks)
    if arguments.dry_run:
        return
    claim_sweep_directory(plan)
    ranking, records = _run(plan)
    print(f"{table_of(plan, ranking)}\n{ranking.verdict}\nEverything is in {plan.directory}", flush=True)
    failed = [f"{record.name}: {record.stop_reason}" for record in records if record.status == "failed"]
    if failed or ranking.best is None:
        raise Failed("\nfailed: ".join(failed) or "no trial finished")


def _run(plan: SweepPlan) -> tuple[Ranking, list[TrialRecord]]:
    try:
        with undone_at_end(lambda: _left(plan)):
            return run_sweep(plan)
    except (Interrupted, KeyboardInterrupt) as stop:
        raise Interrupted(f"{stop or 'the sweep'}; continue with run_name={plan.name} --resume") from stop
    except ConfigError:
        release_sweep_directory(plan)
        raise
    except WmtpError as error:
        raise Failed(str(error)) from error


def _left(plan: SweepPlan) -> str:
    """Release the folder of a sweep that has begun no run; return how to continue."""
    release_sweep_directory(plan)
    goes_on = f"continue with run_name={plan.name} --resume"
    return f"interrupted: {goes_on if plan.directory.exists() else 'no run was begun; the same command starts again'}"


def run_sweep(plan: SweepPlan) -> tuple[Ranking, list[TrialRecord]]:
    """Run what is left of a sweep; leaves sweep.json and, where a trial finished, recipe.best.yaml.

    Raises Interrupted after a stop, WmtpError when a shared critic fails.
    """
    from wmtp_ray.flows.run.stop_request import StopRequest
    from wmtp_ray.flows.sweep.sweep_tracking import ParentRun

    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    with joined(plan.base.cluster.num_cpus), StopRequest(plan.directory) as stop:
        num_slots = slots(plan)
        tracking = ParentRun(plan)
        try:
            running = _Sweep(plan, tracking, stop, num_slots)
            running.train_critics()
            running.run_trials()
            tracking.status = "KILLED" if stop.is_made() else "FINISHED"
        finally:
            ranking, records = write_outcome(plan)
            tracking.close(ranking, [plan.folder.result, plan.folder.best_recipe])
        for problem in tracking.problems:
            print(f"warning: {problem}")
        if stop.is_made():
            left = sum(record.status == "unfinished" for record in records)
            raise Interrupted(f"{left} of {len(records)} trials are not over")
    return ranking, records


class _Sweep:
    """One start of a sweep on a connected cluster."""

    def __init__(self, plan: SweepPlan, tracking: "ParentRun", stop: Any, num_slots: int) -> None:
        import ray

        self._plan = plan
        self._tracking = tracking
        self._stop = stop
        self._by_name = {each.trial.name: each for each in plan.trials}
        self._prepared = {key: ray.put(prepared) for key, prepared in plan.prepared.items()}
        self._slots = num_slots
        self._said: set[str] = {each.trial.name for each in plan.trials if read_trial(each.config.run_dir)}
        print(f"{self._slots} trials at once, {len(self._said)} of {plan.num_trials} are over", flush=True)

    def train_critics(self) -> None:
        """Train the critics of stage 1 that trials share and that are not there yet."""
        import ray

        from wmtp_ray.flows.sweep.sweep_trial import RunOutcome, start_run
        from wmtp_ray.training.stages import read_stage_result, stage_directory

        critics = self._plan.critics.values() if self._is_open() else ()
        waiting = [each for each in critics if read_stage_result(stage_directory(each, 1)) is None]
        running: dict[Any, RunConfig] = {}
        while waiting or running:
            while waiting and len(running) < self._slots and not self._stop.is_made():
                critic = waiting.pop(0)
                prepared = self._prepared[self._plan.key_of_critic(critic)]
                running[start_run(self._claimed(critic), prepared, measures=False)] = critic
            if self._stop.is_made():
                waiting.clear()
                for critic in running.values():
                    critic.folder.stop_request.touch()
            for ref in ray.wait(list(running), timeout=_POLL_S)[0] if running else ():
                critic = running.pop(ref)
                outcome: RunOutcome = ray.get(ref)
                if outcome.status == "failed":
                    raise TrainingError(f"the shared critic {critic.run_name} failed: {outcome.reason}")
                print(f"critic {critic.run_name.rpartition('/')[2]}: {outcome.status}", flush=True)

    def run_trials(self) -> None:
        """Have Tune run the unfinished trials, and report each that ends."""
        if self._stop.is_made() or not self._is_open():
            return
        failures: list[BaseException] = []

        def fit() -> None:
            try:
                self._tuner().fit()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=fit, name="tuner", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            self._say_news()
        self._say_news()
        if failures:
            raise TrainingError(f"Ray Tune failed: {failures[0]}; --resume goes on") from failures[0]

    def _is_open(self) -> bool:
        """Whether a trial is left to run."""
        if not self._plan.trials:
            return True
        return not all((found := read_trial(t.config.run_dir)) and found.is_settled for t in self._plan.trials)

    def _tuner(self) -> Any:
        from ray import tune

        from wmtp_ray.flows.sweep.sweep_search import ListedPoints, PointSource, SweepSearch, TpePoints
        from wmtp_ray.flows.sweep.sweep_trial import SweepContext, SweepTrial

        plan, spec = self._plan, self._plan.spec
        source: PointSource = ListedPoints(listed_points(spec))
        if spec.search == "optuna":
            source = TpePoints(spec, plan.directory, self._check)
        search = SweepSearch(
            source,
            spec,
            begin=self._begin,
            record_of=lambda trial: read_trial(plan.directory / trial.name),
            stopping=self._stop.is_made,
            replays=spec.early_stopping is not None,
        )
        context = SweepContext(plan.directory, spec, self._prepared)
        trainable = tune.with_parameters(SweepTrial, context=context)
        return tune.Tuner(
            tune.with_resources(trainable, {"cpu": TRIAL_CPUS}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=_scheduler(plan),
                num_samples=plan.num_trials,
                max_concurrent_trials=self._slots,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name=f"tune_{uuid.uuid4().hex[:8]}",
                storage_path=str(plan.folder.ray),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

    def _planned(self, trial: Trial) -> PlannedTrial:
        if trial.name not in self._by_name:
            self._by_name[trial.name] = self._plan.planned(trial)
        return self._by_name[trial.name]

    def _check(self, point: Point) -> None:
        for seed in self._plan.spec.seeds:
            self._planned(Trial(point, seed))

    def _begin(self, trial: Trial) -> dict[str, Any]:
        """Claim a trial's folder, forget an earlier failure, and return what Tune gives to the trial."""
        from wmtp_ray.flows.sweep.sweep_trial import TrialBrief

        planned = self._planned(trial)
        self._claimed(planned.config)
        record = read_trial(planned.config.run_dir)
        if record is not None and not record.is_settled:
            planned.config.folder.trial.unlink()
            self._said.discard(trial.name)
        point = trial.point
        return {"trial": TrialBrief(trial.name, point.number, point.values, trial.seed, planned.plan_key)}

    def _claimed(self, config: RunConfig) -> RunConfig:
        """Make the folder of a run of this sweep, with the parent's tag, which a resumed run keeps."""
        tagged = config.model_copy(update={"tags": config.tags | self._tracking.child_tags})
        claim_run_directory(tagged)
        return tagged

    def _say_news(self) -> None:
        """Print a line for each trial that has ended, and bring sweep.json up to date."""
        over = [record for record in records_of(self._plan) if record.status != "unfinished"]
        news = [record for record in over if record.name not in self._said]
        for record in news:
            self._said.add(record.name)
            value = record.metrics.get(self._plan.spec.objective.metric)
            found = f"{self._plan.spec.objective.metric} {value:.4f}" if value is not None else record.stop_reason or ""
            print(f"{len(self._said)}/{self._plan.num_trials} {record.name}: {record.status}, {found}", flush=True)
        if news:
            write_outcome(self._plan)


def _name_of(trial: Any) -> str:
    brief: TrialBrief = trial.config["trial"]
    return brief.name


def _scheduler(plan: SweepPlan) -> Any:
    """ASHA on our own step, which never ends a trial by itself; None where nothing is stopped early."""
    stopping = plan.spec.early_stopping
    if stopping is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    from wmtp_ray.flows.sweep.sweep_trial import COMPARED, STEP

    num_steps = max(prepared.plans[2].num_steps for prepared in plan.prepared.values())
    return ASHAScheduler(
        time_attr=STEP,
        metric=COMPARED,
        mode=stopping.mode,
        max_t=num_steps + 1,
        grace_period=min(stopping.grace_steps, num_steps),
        reduction_factor=stopping.reduction_factor,
    )
