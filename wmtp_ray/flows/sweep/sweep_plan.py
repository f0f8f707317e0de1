"""A sweep before anything starts: every point loaded and planned, and what trials share named. No torch, no Ray.

A trial is a run as any other, in `<storage>/runs/<sweep>/<trial>`. Where stage 1 is asked for, it is taken out of the
trials: runs `<sweep>/critic-...` train one critic for each seed (and for each value of a swept key that stage 1 reads),
and trials start at stage 2 with that critic, as they would with their own.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from wmtp_ray.config.arguments import Arguments
from wmtp_ray.config.layers import short_name
from wmtp_ray.config.load import check_files, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep import SweepSpec, load_sweep
from wmtp_ray.config.sweep_points import Point, Trial, corner_points, listed_points, trial_arguments
from wmtp_ray.config.sweep_sharing import critic_values, plan_key, shares_critic
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.run.prepare import Prepared, prepare
from wmtp_ray.plan.versions import version_schedule
from wmtp_ray.preflight.run_directory import check_plans, check_run_directory
from wmtp_ray.run_folder import SweepFolder

_FIXED = ("search", "search_seed", "space", "objective")  # what a resumed sweep may not change
_MAX_NAMED = 3


@dataclass(frozen=True)
class PlannedTrial:
    """A trial: the requested configuration, the configuration it runs with, and the critic it waits for."""

    trial: Trial
    asked: RunConfig
    config: RunConfig
    critic: RunConfig | None

    @cached_property
    def plan_key(self) -> str:
        """Equal for trials with equal plans."""
        return plan_key(self.asked)


@dataclass(frozen=True)
class SweepPlan:
    """All that is known before the start.

    `trials` is empty for optuna; `examples` are the trials, or for optuna those at the corners of its space. `prepared`
    is by `plan_key` of what was asked.
    """

    arguments: Arguments
    spec: SweepSpec
    base: RunConfig
    trials: tuple[PlannedTrial, ...]
    examples: tuple[PlannedTrial, ...]
    prepared: dict[str, Prepared]

    @property
    def name(self) -> str:
        """The sweep's folder under storage_root/runs."""
        return self.base.run_name

    @property
    def directory(self) -> Path:
        """Everything this sweep writes."""
        return self.base.run_dir

    @property
    def folder(self) -> SweepFolder:
        """The paths inside `directory`."""
        return SweepFolder(self.directory)

    @property
    def num_trials(self) -> int:
        """Trials in all, those of optuna included that are not known yet."""
        return len(self.trials) or (self.spec.num_points or 0) * len(self.spec.seeds)

    @property
    def critics(self) -> dict[str, RunConfig]:
        """The shared critics by run name; for optuna, those of the keys that it does not vary."""
        return {each.critic.run_name: each.critic for each in self.examples if each.critic is not None}

    def planned(self, trial: Trial) -> PlannedTrial:
        """Plan a trial that is not listed. Raises ConfigError where its point does not load."""
        return _Loader(self.arguments, self.name).planned(trial)

    def key_of_critic(self, critic: RunConfig) -> str:
        """Return the key in `prepared` of the plans that hold a shared critic's."""
        return next(each.plan_key for each in self.examples if each.critic is critic)

    def best_config(self, point: Point) -> RunConfig:
        """Return what the command asked for with a point's values and its own seeds."""
        arguments = trial_arguments(self.arguments, self.name, "best", point.values, seed=None)
        return load_config(arguments, now=datetime.min)

    def spec_values(self) -> dict[str, Any]:
        """Return the resolved sweep as plain values."""
        words = {"name": self.name, "sweep": self.arguments.sweep, "recipe": self.base.recipe}
        return words | {"preset": self.base.preset} | self.spec.model_dump(mode="json")

    def shared(self) -> list[str]:
        """Describe the work that is done once, in sentences."""
        lines = [f"the index and token counts of {self.base.data.train_file}"]
        lines.append(f"plans: {len(self.prepared)} for {self.num_trials} trials")
        critics = self.critics
        if critics:
            read = critic_values(dict.fromkeys(self.spec.space))
            why = f"stage 1 reads {', '.join(read)}" if read else "no swept key reaches stage 1"
            lines.append(f"critics of stage 1: {len(critics)} for {self.num_trials} trials ({why}): {_some(critics)}")
        elif 1 in self.base.stages:
            lines.append("no critic of stage 1: there is no stage 2 in stages")
        return lines

    def render(self) -> str:
        """Describe the sweep for people."""
        spec = self.spec
        points = self.num_trials // len(spec.seeds)
        head = f"Sweep {self.name}: {spec.search}, {points} points x {len(spec.seeds)} seeds = {self.num_trials} trials"
        lines = [head, f"  in {self.directory}"]
        lines += [f"  {key}: {json.dumps(values)}" for key, values in spec.model_dump(mode="json")["space"].items()]
        lines.append(f"  objective: {spec.objective.metric}, {spec.objective.mode}; seeds {list(spec.seeds)}")
        lines += [f"  stops a trial: {name}: {rule.render()}" for name, rule in spec.rules.items()]
        if spec.early_stopping is not None:
            lines.append(f"  early stopping: {_in_words(spec.early_stopping.model_dump())}")
        lines += [f"  done once: {line}" for line in self.shared()]
        lines += [f"  point {point.number:03d}: {point.render()}" for point in listed_points(spec)]
        return "\n".join(lines)


def plan_sweep(arguments: Arguments, now: datetime) -> SweepPlan:
    """Load, check and plan every point. Raises a WmtpError that names the first points that cannot run."""
    assert arguments.sweep is not None
    spec = load_sweep(arguments.sweep, arguments.sweep_overrides, own_dir=arguments.config_dir)
    _refuse_swept_words(arguments, spec)
    name = f"{short_name('recipe', arguments.recipe or '')}-{short_name('sweep', arguments.sweep)}-{now:%Y%m%d-%H%M%S}"
    arguments = replace(arguments, run_name=arguments.run_name or (None if arguments.resume else name))
    base = load_config(arguments, now=now)
    _check_objective(base, spec)
    loader = _Loader(arguments, base.run_name)
    trials = loader.load_all([Trial(point, seed) for point in listed_points(spec) for seed in spec.seeds])
    examples = trials or loader.load_all(_corner_trials(spec))
    prepared: dict[str, Prepared] = {}
    for trial in examples:
        if trial.plan_key not in prepared:
            prepared[trial.plan_key] = prepare(trial.asked)
        check_files(trial.asked)
    plan = SweepPlan(arguments, spec, base, trials, examples, prepared)
    _check_directory(plan)
    return plan


def own_part(whole: Prepared, config: RunConfig) -> Prepared:
    """Return the plans of the stages that a run executes itself, out of the plans of the requested configuration."""
    plans = {stage: plan for stage, plan in whole.plans.items() if stage in config.stages}
    evaluation = whole.evaluation if 3 in config.stages else None
    return replace(whole, plans=plans, schedule=version_schedule(config, plans.get(2)), evaluation=evaluation)


def claim_sweep_directory(plan: SweepPlan) -> None:
    """Make the sweep's folder and save the requested sweep in it."""
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        atomic_write(plan.folder.spec, yaml.safe_dump(plan.spec_values(), sort_keys=False).encode())
    except OSError as error:
        raise ConfigError(
            f"The sweep's folder {plan.directory} cannot be written ({error.strerror}); set storage_root to a "
            "directory that can"
        ) from error


class _Loader:
    """Loads the configurations of trials and, once each, of the critics that they share."""

    def __init__(self, arguments: Arguments, sweep_name: str) -> None:
        self._arguments = arguments
        self._sweep_name = sweep_name
        self._critics: dict[str, RunConfig] = {}

    def load_all(self, trials: Sequence[Trial]) -> tuple[PlannedTrial, ...]:
        """Load every trial; one ConfigError names the first points that do not load, and how many there are."""
        planned: list[PlannedTrial] = []
        refused: dict[str, Point] = {}
        num_refused = 0
        for trial in trials:
            try:
                planned.append(self.planned(trial))
            except ConfigError as error:
                num_refused += 1
                refused.setdefault(str(error), trial.point)
        if refused:
            first = "\n".join(f"{p.render()}: {text}" for text, p in list(refused.items())[:_MAX_NAMED])
            raise ConfigError(f"{num_refused} of {len(trials)} trials of the sweep cannot run, for example\n{first}")
        return tuple(planned)

    def planned(self, trial: Trial) -> PlannedTrial:
        """Load a trial, and take stage 1 out of it where that can be shared."""
        asked = self._loaded(trial.name, trial.point.values, trial.seed)
        if not shares_critic(asked):
            return PlannedTrial(trial, asked, asked, None)
        critic = self._critic(critic_values(trial.point.values), trial.seed)
        bundle = asked.critic.model_copy(update={"path": critic.folder.critic.final})
        stages = tuple(stage for stage in asked.stages if stage != 1)
        return PlannedTrial(trial, asked, asked.model_copy(update={"stages": stages, "critic": bundle}), critic)

    def _critic(self, values: dict[str, Any], seed: int) -> RunConfig:
        text = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        name = f"critic-{text}-seed_{seed}" if values else f"critic-seed_{seed}"
        if name not in self._critics:
            whole = self._loaded(name, values, seed)
            gate = whole.critic.model_copy(update={"gate": "warn"})  # each trial judges it by its own gate
            stages = tuple(stage for stage in whole.stages if stage < 2)
            self._critics[name] = whole.model_copy(update={"stages": stages, "critic": gate})
        return self._critics[name]

    def _loaded(self, name: str, values: dict[str, Any], seed: int) -> RunConfig:
        return load_config(trial_arguments(self._arguments, self._sweep_name, name, values, seed), now=datetime.min)


def _corner_trials(spec: SweepSpec) -> list[Trial]:
    """Every corner with the first seed, and the first corner with every seed."""
    corners, (first, *others) = corner_points(spec), spec.seeds
    return [*(Trial(point, first) for point in corners), *(Trial(corners[0], seed) for seed in others)]


def _refuse_swept_words(arguments: Arguments, spec: SweepSpec) -> None:
    given = {word.partition("=")[0]: word for word in arguments.overrides}
    both = [given[key] for key in spec.space if key in given]
    if both:
        raise ConfigError(
            f"{', '.join(both)}: the sweep varies what the command line sets; leave the word out, or sweep other keys"
        )


def release_sweep_directory(plan: SweepPlan) -> None:
    """Release a folder in which no run has begun, so that the corrected command can start the same sweep."""
    if not plan.folder.has_run():
        shutil.rmtree(plan.directory, ignore_errors=True)


def _check_objective(base: RunConfig, spec: SweepSpec) -> None:
    """Refuse an objective that no trial can have; judged by the base's stages and files alone."""
    metric = spec.objective.metric
    if 2 not in base.stages:
        raise ConfigError(f"stages={list(base.stages)}: a sweep trains policies; add stage 2")
    if metric.startswith("eval/") and 3 not in base.stages:
        raise ConfigError(f"sweep.objective.metric={metric} comes from stage 3; add it to stages={list(base.stages)}")
    if metric.startswith("held_out/") and base.data.valid_file is None and base.data.valid_problems_frac == 0.0:
        raise ConfigError(
            f"sweep.objective.metric={metric} needs held-out problems: give data.valid_file, or "
            "data.valid_problems_frac above 0"
        )


def _check_directory(plan: SweepPlan) -> None:
    """Refuse to continue a sweep without --resume, or with another sweep or run configuration than it began with."""
    saved = plan.folder.spec
    if saved.exists() and not plan.arguments.resume:
        raise ConfigError(
            f"The sweep {plan.name} exists in {plan.directory}; add --resume to continue it, or choose another run_name"
        )
    if plan.arguments.resume and not saved.exists():
        raise ConfigError(f"There is no sweep to resume in {plan.directory}; give the run_name of one that was started")
    if not saved.exists():
        return
    before, after = yaml.safe_load(saved.read_text(encoding="utf-8")), plan.spec_values()
    changed = [key for key in _FIXED if before.get(key) != after[key]]
    if changed:
        lines = "".join(f"\n  sweep.{key}: found {after[key]}, started with {before.get(key)}" for key in changed)
        raise ConfigError(
            f"--resume with another sweep than {plan.name} was started as:{lines}\nGive the same, or start a new "
            "run_name; seeds, num_points, stop rules and early stopping may change"
        )
    for trial in plan.trials:
        if trial.config.folder.config.exists():
            check_run_directory(trial.config, resume=True)
            check_plans(trial.config, own_part(plan.prepared[trial.plan_key], trial.config).plans)


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)


def _some(names: dict[str, RunConfig]) -> str:
    shown = [name.rpartition("/")[2] for name in list(names)[:_MAX_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _MAX_NAMED else "")
