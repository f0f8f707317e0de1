"""How a policy was trained: what a comparison of two policies must say before it says which one is better.

A run leaves start.json when stage 2 begins (the policy it starts from, by hash, and how that one was trained) and
training.json beside the policy at its end, so that a copied or exported model still knows where it comes from. For runs
of earlier versions the same is read from their other files, with what these know. Imports no torch.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.data import Condition, Template
from wmtp_ray.config.dotted_leaves import dotted_leaves
from wmtp_ray.config.schema import RunConfig, effects
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.run_folder import TRAIN_STAGE, RunFolder, StageFolder
from wmtp_ray.saved_records import read_record, write_record
from wmtp_ray.tracking.metrics_file import read_reports

_REMEDY = "restore the file, or remove it: the run's other files tell what they know"


@dataclass(frozen=True)
class Start:
    """The policy that a training started from; `training` made it, None where nothing is known of that.

    `weights_sha256` is the hash of its file when training began, None for runs that have not recorded it.
    """

    path: str
    weights_sha256: str | None
    training: "TrainingRecord | None"


@dataclass(frozen=True)
class TrainingRecord:
    """One training of a policy. None: the files do not tell.

    `steps` and `supervised_tokens` are those of stage 2 up to this policy, `critic_steps` those of its critic's stage
    1. `weighting` is what stage 2 ran with: `uniform` where critic.gate=uniform fell back to it. `settings` holds the
    configuration by dotted key, without names and what concerns the machine alone.
    """

    run: str
    policy_sha256: str | None
    steps: int
    supervised_tokens: int | None
    critic_steps: int
    weighting: str
    dataset_fingerprint: str | None
    start: Start
    settings: dict[str, Any]


@dataclass(frozen=True)
class StartRecord:
    """The content of start.json: what stage 2 weights with, and the policy that it starts from."""

    weighting: str
    start: Start


@dataclass(frozen=True)
class PolicyTraining:
    """The content of training.json: the hash of the weights that it speaks of, and how they were trained."""

    weights_sha256: str | None
    training: TrainingRecord


@dataclass(frozen=True)
class _PlannedPhase:
    end_step: int


@dataclass(frozen=True)
class _PlannedCounts:
    supervised_tokens: int


@dataclass(frozen=True)
class _PlanFacts:
    """What a plan.json of any version may say of the training."""

    dataset_fingerprint: str | None = None
    phases: tuple[_PlannedPhase, ...] = ()
    counts: _PlannedCounts | None = None


@dataclass(frozen=True)
class _StageFacts:
    """What a stage_result.json of any version may say of the training."""

    steps: int = 0
    policy_sha256: str | None = None


def write_start(config: RunConfig) -> None:
    """Write start.json: the policy and weighting that stage 2 starts with. A resumed run keeps its first start.json."""
    path = config.folder.start
    if path.is_file():
        return
    weights_sha256 = _weights_sha256(config.model.path)
    training = training_of(config.model.path, weights_sha256)
    start = Start(str(config.model.path.absolute()), weights_sha256, training)
    write_record(path, StartRecord(config.weighting.type, start))


def weighting_begun_with(run_dir: Path) -> str | None:
    """Return what stage 2 began with, None where it has not begun."""
    path = RunFolder(run_dir).start
    return read_record(path, StartRecord, _REMEDY).weighting if path.is_file() else None


def write_training(directory: Path, record: TrainingRecord) -> None:
    """Write training.json beside a policy, with the hash of the weights that it speaks of."""
    write_record(ModelFolder(directory).training, PolicyTraining(_weights_sha256(directory), record))


def training_of(model: Path, weights_sha256: str | None) -> TrainingRecord | None:
    """Return how the policy of a model directory was trained, given the hash of its weights' file.

    None for a directory that no run has left, and where the weights are others than those that the run left.
    """
    model = model.absolute()
    written = ModelFolder(model).training
    if written.is_file():
        found = read_record(written, PolicyTraining, _REMEDY)
        return found.training if weights_sha256 in (None, found.weights_sha256) else None
    if model.name == "final" and _is_trained_run(model.parent):
        return record_of_run(model.parent)
    checkpoint = re.fullmatch(r"step_(\d+)", model.name)
    if checkpoint is not None and model.parent.name == "exported" and _is_trained_run(model.parent.parent):
        return record_of_run(model.parent.parent, int(checkpoint[1]))
    return None


def condition_of(config: RunConfig, model: Path) -> Condition:
    """Return what a model's training told it of the rows' labels, by its record; without a record, what is configured.

    The hash of the weights is not compared: it would take as long as reading them.
    """
    record = training_of(model, None)
    told = None if record is None else record.settings.get("data.condition", "none")
    return "label" if told == "label" or (record is None and config.data.condition == "label") else "none"


def template_of(config: RunConfig, model: Path) -> Template:
    """Return the template of the rows that a model was trained on, by its record; without one, what is configured."""
    record = training_of(model, None)
    found = config.data.template if record is None else record.settings.get("data.template", "plain")
    return "chat" if found == "chat" else "plain"


def record_of_run(run_dir: Path, step: int | None = None) -> TrainingRecord:
    """Read the training of a run from its folder, up to `step` (None: as far as it came)."""
    settings = settings_of(read_settings(RunFolder(run_dir).config))
    steps, tokens = _extent(run_dir, step)
    start_file = RunFolder(run_dir).start
    if start_file.is_file():
        begun = read_record(start_file, StartRecord, _REMEDY)
        weighting, start = begun.weighting, begun.start
    else:
        weighting, start = str(settings.get("weighting.type")), _start_by_path(run_dir, settings)
    return TrainingRecord(
        run=str(run_dir.absolute()),
        policy_sha256=_policy_sha256(run_dir, steps),
        steps=steps,
        supervised_tokens=tokens,
        critic_steps=_critic_steps(run_dir, settings),
        weighting=weighting,
        dataset_fingerprint=_planned(run_dir).dataset_fingerprint,
        start=start,
        settings=settings,
    )


def _is_trained_run(folder: Path) -> bool:
    """Whether the folder holds a trained run: a config.yaml alone does not show it, a plan does."""
    return RunFolder(folder).config.is_file() and RunFolder(folder).plan(TRAIN_STAGE).is_file()


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml, as it is, by dotted key; ArtifactError where that is no configuration."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}); expected the config.yaml of a run"
        ) from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} holds {type(values).__name__}, expected the sections of a run's configuration")
    return dict(dotted_leaves(values))


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out names and what only concerns the machine or the evaluation."""
    return {key: value for key, value in config.items() if effects().is_of_training(key)}


def _start_by_path(run_dir: Path, settings: dict[str, Any]) -> Start:
    """For runs that have no start.json: the path that was configured, and what lies there now."""
    path = Path(str(settings.get("model.path")))
    came_from_itself = path.absolute().is_relative_to(run_dir.absolute())
    return Start(str(path.absolute()), None, None if came_from_itself else training_of(path, None))


def _extent(run_dir: Path, step: int | None) -> tuple[int, int | None]:
    """Return the steps of stage 2 and their supervised tokens: the plan's, or of a part of it those reported."""
    plan = _planned(run_dir)
    planned = plan.phases[-1].end_step if plan.phases else None
    reports = [each for each in read_reports(run_dir) if each.stage == 2 and (step is None or each.step < step)]
    steps = step if step is not None else max((each.step + 1 for each in reports), default=0)
    if planned is not None and steps == planned and plan.counts is not None:
        return steps, plan.counts.supervised_tokens
    rates = [(each.metrics.get("perf/supervised_tokens_per_s"), each.metrics.get("perf/step_s")) for each in reports]
    known = [rate * seconds for rate, seconds in rates if rate is not None and seconds is not None]
    return steps, sum(map(round, known)) if len(known) == steps else None


def _critic_steps(run_dir: Path, settings: dict[str, Any]) -> int:
    """Count the steps of the critic's stage 1: this run's, else those of the run that made critic.path."""
    given = settings.get("critic.path")
    folders = [RunFolder(run_dir).critic.path, *([Path(str(given)).parent] if given is not None else [])]
    for path in (StageFolder(folder).stage_result for folder in folders):
        if path.is_file():
            return read_record(path, _StageFacts, _REMEDY).steps
    return 0


def _policy_sha256(run_dir: Path, steps: int) -> str | None:
    """Return the hash of the run's last policy, if it is the one after so many steps."""
    path = StageFolder(run_dir).stage_result
    found = read_record(path, _StageFacts, _REMEDY) if path.is_file() else None
    return found.policy_sha256 if found is not None and found.steps == steps else None


def _planned(run_dir: Path) -> _PlanFacts:
    path = RunFolder(run_dir).plan(TRAIN_STAGE)
    return read_record(path, _PlanFacts, _REMEDY) if path.is_file() else _PlanFacts()


def _weights_sha256(model: Path) -> str | None:
    weights = ModelFolder(model).find_weights()
    return None if weights is None else file_sha256(weights)
