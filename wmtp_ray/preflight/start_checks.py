"""Can a run start here? One list of checks for launch, `--dry-run`, sweeps, evaluations and `wmtp doctor`.

A check raises a ConfigError that says what was found, what was expected and what to do, or returns what it found. None
imports torch or Ray, starts anything or leaves anything behind. What only a cluster elsewhere knows (RAY_ADDRESS), its
CPUs and GPUs, is asked once it has been joined: `cluster.require_resources`.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError, WmtpError
from wmtp_ray.preflight.needed_resources import Resources, needed_resources
from wmtp_ray.preflight.ray_place import check_ray_can_start, joins_a_cluster
from wmtp_ray.preflight.writable import why_not_writable
from wmtp_ray.tracking.sink_packages import check_packages
from wmtp_ray.training.estimate.hardware import GIB, machine_cpus, machine_gpus

_LEAST_FREE_BYTES = 64 << 20  # result, metrics and logs of a run without checkpoints


@dataclass(frozen=True)
class StartCheck:
    """One condition of a start; `look` returns what was found, and raises WmtpError where it forbids the start."""

    subject: str
    look: Callable[[], str]


def start_checks(config: RunConfig, needed: Sequence[Resources] | None = None) -> list[StartCheck]:
    """Return every condition that this machine has to meet; `needed` unless the stages of `config` tell."""
    parts = needed_resources(config) if needed is None else needed
    return [
        StartCheck("Ray", check_ray_can_start),
        StartCheck("resources", lambda: check_resources(config, parts)),
        StartCheck("device", lambda: _check_device(config)),
        StartCheck("storage", lambda: _check_storage(config.run_dir)),
        StartCheck("trackers", lambda: check_packages(config.tracking.used_sinks)),
    ]


def require_start(checks: Sequence[StartCheck]) -> None:
    """Raise one ConfigError with everything that forbids the start here."""
    found = []
    for check in checks:
        try:
            check.look()
        except WmtpError as error:
            found.append(str(error))
    if found:
        listed = found[0] if len(found) == 1 else "".join(f"\n  {text}" for text in found)
        raise ConfigError(f"a run cannot start here: {listed}")


def check_resources(config: RunConfig, parts: Sequence[Resources]) -> str:
    """Compare what each part of a run holds with what a Ray of our own would find here."""
    if joins_a_cluster():
        return "the cluster's, asked when it is joined"
    cpus = float(config.cluster.num_cpus or machine_cpus())
    gpus = machine_gpus()
    for part in parts:
        for name, found, needed in (("CPU", cpus, part.cpus), ("GPU", gpus, part.gpus)):
            if found is not None and needed > found + 1e-9:
                refusal = part.refusal(name, needed, "this machine", found)
                raise ConfigError(
                    f"{refusal}; or run where there is more: set RAY_ADDRESS, or submit a job to a cluster"
                )
    return f"{cpus:g} CPUs and {'some' if gpus is None else gpus} GPUs are enough"


def _check_device(config: RunConfig) -> str:
    device = config.train.device
    if device == "mps" and sys.platform != "darwin":
        raise ConfigError("train.device=mps, but this is no Mac; set train.device=auto")
    if device == "cuda" and not joins_a_cluster() and machine_gpus() == 0:
        raise ConfigError("train.device=cuda, but no NVIDIA GPU is visible here; set train.device=auto, or preset=cpu")
    return device


def _check_storage(run_dir: Path) -> str:
    reason = why_not_writable(run_dir)
    if reason is not None:
        raise ConfigError(
            f"The run's folder {run_dir} cannot be written ({reason}); set storage_root to a directory that can"
        )
    existing = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        raise ConfigError(
            f"{existing} has {free >> 20} MiB free, expected at least {_LEAST_FREE_BYTES >> 20}; free space, or set "
            "storage_root to another disk"
        )
    return f"{existing}, {free / GIB:.1f} GiB free"
