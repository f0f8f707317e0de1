"""A run's folder: claimed by a new run, continued by a resumed one, and only with the settings it was started with."""

import shutil
from collections.abc import Mapping

from wmtp_ray.config.dotted_leaves import differing_keys, dotted_leaves
from wmtp_ray.config.load import dump_config, load_resolved
from wmtp_ray.config.rounds import RoundsConfig
from wmtp_ray.config.schema import RunConfig, effects
from wmtp_ray.data.index_file import load_index
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ArtifactError, ConfigError, PlanError
from wmtp_ray.plan.run_plan import RunPlan, load_plan
from wmtp_ray.tracking.decisions import read_decisions

# Read in a run in rounds alone; `count` tells that it is one.
_OF_ROUNDS = {f"rounds.{name}" for name in RoundsConfig.model_fields if name != "count"}


def check_run_directory(config: RunConfig, *, resume: bool) -> None:
    """Refuse to continue a run without --resume or with another configuration; an evaluation needs no --resume."""
    saved = config.folder.config
    if saved.exists() and not resume and config.stages != (3,):
        raise ConfigError(
            f"The run {config.run_name} exists in {config.run_dir}; add --resume to continue it, or choose another "
            "run_name"
        )
    if resume and not saved.exists():
        raise ConfigError(f"There is no run to resume in {config.run_dir}; give the run_name of one that was started")
    if saved.exists():
        _require_same(load_resolved(saved), config)


def check_plans(config: RunConfig, plans: Mapping[int, RunPlan]) -> None:
    """Refuse to resume with other steps than the run was started with: its data or tokenizer files have changed."""
    if not config.run_dir.is_dir():
        return
    _require_same_compared_file(config)
    for stage, plan in plans.items():
        try:
            started_with = load_plan(config.run_dir, stage)
        except ArtifactError:
            continue  # none yet, or torn by a crash: it is written anew, and a checkpoint knows its plan's digest
        if started_with.digest != plan.digest:
            raise PlanError(
                f"--resume of {config.run_name}: stage {stage} was started with the plan {started_with.digest[:12]}, "
                f"data and code now make {plan.digest[:12]}; {_what_moved(started_with, plan)}. Restore it, or start "
                "a new run_name"
            )


def _require_same_compared_file(config: RunConfig) -> None:
    """The rows that are compared with are no part of a plan."""
    began_with = read_decisions(config.run_dir).compared_with
    if config.compared_file is None or began_with is None:
        return
    if load_index(config.compared_file).file_fingerprint != began_with:
        raise PlanError(
            f"--resume of {config.run_name}: the content of weighting.compared_file={config.compared_file} has changed "
            "since stage 2 began. Restore it, or start a new run_name"
        )


def _what_moved(before: RunPlan, now: RunPlan) -> str:
    if before.dataset_fingerprint != now.dataset_fingerprint:
        return "the content of data.train_file has changed"
    if before.tokenizer_hash != now.tokenizer_hash:
        return "the tokenizer at tokenizer.path, or the chat template beside it, has changed"
    if before.sequence_tokens != now.sequence_tokens:
        return "train.micro_batch_tokens has changed, which is the size of the packed sequences"
    return "the code that plans has changed"


def claim_run_directory(config: RunConfig) -> None:
    """Make the run's folder and save its configuration there; a resumed run keeps the saved one."""
    saved = config.folder.config
    if saved.exists():
        return
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(saved, dump_config(config).encode())
    except OSError as error:
        raise ConfigError(
            f"The run's folder {config.run_dir} cannot be written ({error.strerror}); set storage_root to a directory "
            "that can"
        ) from error


def _require_same(saved: RunConfig, asked: RunConfig) -> None:
    """Refuse to resume with other settings; those that concern only the machine or the evaluation may change."""
    before, after = _flat(saved), _flat(asked)
    if asked.stages == (3,):
        before["stages"] = after["stages"]  # what was trained may be evaluated again, and otherwise
    if changed := differing_keys(before, after):
        lines = "".join(f"\n  {key}: found {after.get(key)}, started with {before.get(key)}" for key in changed)
        raise ConfigError(
            f"--resume with another configuration than the run was started with ({saved.folder.config}):"
            f"{lines}\ngive the same values, or start a new run_name"
        )


def _flat(config: RunConfig) -> dict[str, object]:
    """Return the dotted keys that a resumed run may not change, with their values; rounds have keys of their own."""
    values = dict(dotted_leaves(config.model_dump(mode="json")))
    if config.rounds.count is None:
        values = {key: value for key, value in values.items() if key not in _OF_ROUNDS}
    return {key: value for key, value in values.items() if not effects().may_change_on_resume(key)}


def release_run_directory(config: RunConfig) -> None:
    """Release a folder in which nothing has been trained, so that the corrected command can start the same run."""
    if not config.folder.is_begun:
        shutil.rmtree(config.run_dir, ignore_errors=True)
