"""Checkpoints of a run: written whole or not at all, verified before use, the newest and the best kept.

A checkpoint is a directory `step_<n>` ("after n steps"):

    policy/ ...      weights and optimizer, whole or in shards: see `stored_tensors.py`
    snapshots/       the critic's versions that later steps still need
    state.json       step, plan digest, scorer state, MLflow run id
    rng.pt           torch's generator
    manifest.json    size and SHA-256 of every file above

It is written under a temporary name, synced and renamed; a directory whose manifest does not hold is passed over with
a warning and the one before is used. With FSDP2 every rank writes its shards first, then rank 0 adds the rest: the
run's folder is shared. This module decides nothing about when to save.
"""

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import Ranks
from wmtp_ray.saved_records import read_record, write_exact_record, write_record
from wmtp_ray.tracking.kept_critic import HeldOutReading
from wmtp_ray.training.stored_tensors import SHARDS, describe, is_sharded, read_into, write_shards, write_whole

_PREFIX = "step_"
_MANIFEST = "manifest.json"
_STATE = "state.json"


@dataclass(frozen=True)
class WrittenFile:
    """A file of a checkpoint as it was written."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class RunState:
    """What a checkpoint knows beside tensors. `step` steps are done; the next one is number `step`.

    `mean_loss` is the mean total loss of the steps since the checkpoint before, `held_out` what stage 1 has read of its
    critic so far. A field that this version does not know is refused: without it the run would not go on as the one
    that wrote it.
    """

    REFUSES_UNKNOWN_FIELDS: ClassVar = True

    stage: int
    step: int
    plan_digest: str
    scorer: dict[str, float]
    mlflow_run_id: str | None
    world_size: int
    mean_loss: float
    held_out: tuple[HeldOutReading, ...] = ()


class Ranking(Protocol):
    """Which checkpoints are better than others."""

    def cost(self, checkpoint: Path) -> tuple[float, ...]:
        """Return what checkpoints are ordered by: the lowest is the best."""
        ...

    def is_open(self, checkpoint: Path) -> bool:
        """Whether its place is not known yet, so that it stays until it is."""
        ...


class LossRanking:
    """By the mean loss; a checkpoint without one counts as the worst."""

    def cost(self, checkpoint: Path) -> tuple[float, ...]:
        return (mean_loss_of(checkpoint),)

    def is_open(self, checkpoint: Path) -> bool:
        return False


def save_checkpoint(
    root: Path,
    state: RunState,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    snapshots: Sequence[Path],
    ranks: Ranks,
    *,
    keep: int,
    keep_best: int,
    ranking: Ranking | None = None,
) -> Path:
    """Write `root/step_<n>` atomically; keep the newest `keep` up to it and, of those before, the `keep_best` best.

    Every rank calls it; when it returns on rank 0 the checkpoint is there. Best is the lowest `mean_loss`, or what
    `ranking` says. Checkpoints of later steps go: the run came back to this step because they are damaged. Returns the
    path. Raises ArtifactError when it cannot be written (a full disk, say): nothing of it stays, the previous
    checkpoint is untouched.
    """
    target = root / f"{_PREFIX}{state.step}"
    if ranks.rank == 0:
        for torn in root.glob(f".{_PREFIX}*"):
            shutil.rmtree(torn, ignore_errors=True)
    staged = root / f".{target.name}.{SHARDS}"
    if is_sharded(policy):
        ranks.sum(torch.zeros(1))  # nobody writes before rank 0 has swept
    try:
        if is_sharded(policy):
            write_shards(staged, policy, optimizer)
        if ranks.rank == 0:
            with atomic_directory(target) as directory:
                _write(directory, state, policy, optimizer, snapshots, staged)
    except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ArtifactError(
            f"The checkpoint of step {state.step} could not be written to {root}: {_reason(error)}. Checkpoints "
            "already there are untouched: free disk space, then start the same command again with --resume."
        ) from error
    if ranks.rank == 0:
        _drop_others(root, target, ranking or LossRanking(), keep=keep, keep_best=keep_best)
    return target


def _reason(error: BaseException) -> str:
    """Describe what went wrong on which rank; the exception that all ranks get carries every rank's traceback."""
    if not isinstance(error, CheckpointException):
        return str(error)
    return "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in error.failures.items())


def _drop_others(root: Path, target: Path, ranking: Ranking, *, keep: int, keep_best: int) -> None:
    found = list_checkpoints(root)
    place = found.index(target)
    older = found[: max(0, place + 1 - keep)]
    kept = {*sorted(older, key=ranking.cost)[:keep_best], *(path for path in older if ranking.is_open(path))}
    for other in [*(path for path in older if path not in kept), *found[place + 1 :]]:
        shutil.rmtree(other, ignore_errors=True)


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint directories under `root`, oldest first, verified or not."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.name.startswith(_PREFIX) and path.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps done in a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def latest_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint whose every file is as it was written, or None; warn about each one passed over."""
    for path in reversed(list_checkpoints(root)):
        damage = find_damage(path)
        if damage is None:
            return path
        warnings.warn(f"The checkpoint {path} is damaged ({damage}); the one before it, if any, is used.", stacklevel=2)
    return None


def check_checkpoints(root: Path) -> list[str]:
    """Return a warning for each damaged checkpoint that a resumed run will pass over.

    Raises ArtifactError when there are checkpoints and all are damaged: a run does not start over in silence.
    """
    damages = [(path, find_damage(path)) for path in list_checkpoints(root)]
    damaged = [f"The checkpoint {path} is damaged ({damage})" for path, damage in damages if damage is not None]
    if damaged and len(damaged) == len(damages):
        raise ArtifactError(
            f"No checkpoint in {root} is whole: {'; '.join(damaged)}. Restore one from a copy, or remove the folder to "
            "start over from step 0"
        )
    return [f"{text}; the one before it is used" for text in damaged]


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    try:
        expected = read_record(checkpoint / _MANIFEST, dict[str, WrittenFile], "it is passed over")
    except ArtifactError as error:
        return str(error)
    unlisted = sorted(set(_files(checkpoint)) - expected.keys() - {_MANIFEST})
    if unlisted:
        return f"{unlisted[0]} is not in {_MANIFEST}"
    for name, written in expected.items():
        if (damage := _file_damage(checkpoint / name, name, written)) is not None:
            return damage
    return None


def mean_loss_of(checkpoint: Path) -> float:
    """Return the loss of the steps before a checkpoint; infinity where it has none."""
    try:
        return read_state(checkpoint).mean_loss
    except ArtifactError:
        return math.inf


def _file_damage(path: Path, name: str, written: WrittenFile) -> str | None:
    try:
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != written.num_bytes:
            return f"{name} has {path.stat().st_size} bytes, {written.num_bytes} were written"
        if file_sha256(path) != written.sha256:
            return f"{name} has another SHA-256 than when it was written"
    except OSError as error:  # a sector that cannot be read, say
        return f"{name} cannot be read: {error}"
    return None


def read_state(checkpoint: Path) -> RunState:
    """Return the checkpoint's state.json."""
    return read_record(checkpoint / _STATE, RunState, "restore the checkpoint from a copy, or remove its folder")


def restore(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> RunState:
    """Load weights, optimizer and generator in place; return the rest.

    Every rank calls it. However many ranks saved it, whole or in shards, it fits any number of ranks, DDP or FSDP2.
    """
    read_into(checkpoint, policy, optimizer)
    torch.set_rng_state(torch.load(checkpoint / "rng.pt", weights_only=True))
    return read_state(checkpoint)


def snapshot_files(checkpoint: Path) -> list[Path]:
    """Return the critic's versions that the checkpoint carries."""
    return sorted((checkpoint / "snapshots").glob("*.safetensors"))


def _write(
    directory: Path,
    state: RunState,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    snapshots: Sequence[Path],
    staged: Path,
) -> None:
    (directory / "snapshots").mkdir(parents=True)
    describe(directory, policy)
    if is_sharded(policy):
        staged.rename(directory / SHARDS)
    else:
        write_whole(directory, policy, optimizer)
    torch.save(torch.get_rng_state(), directory / "rng.pt")
    for snapshot in snapshots:
        shutil.copy2(snapshot, directory / "snapshots" / snapshot.name)
    write_exact_record(directory / _STATE, state)
    files = _files(directory).items()
    manifest = {name: WrittenFile(path.stat().st_size, file_sha256(path)) for name, path in files}
    write_record(directory / _MANIFEST, manifest)


def _files(directory: Path) -> dict[str, Path]:
    """Return the files below a directory by relative name.

    Hidden ones, such as a file browser leaves, do not count, but for the one that shards have.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and _counts(path.name))
    return {path.relative_to(directory).as_posix(): path for path in paths}


def _counts(name: str) -> bool:
    return not name.startswith(".") or name == ".metadata"
