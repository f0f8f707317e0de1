"""`wmtp tracking sync RUN`: MLflow gets what it lacks of a run, from the run's own folder. Needs no Ray."""

import socket
from dataclasses import replace
from pathlib import Path

from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.tracking.mlflow_run import read_mlflow_run_id
from wmtp_ray.tracking.mlflow_sink import MISSING
from wmtp_ray.tracking.mlflow_sync import Saved, SyncReport, sync
from wmtp_ray.tracking.processes import GONE, find_process, state_here
from wmtp_ray.tracking.result import RunResult, read_result, write_result
from wmtp_ray.tracking.tracker import mlflow_target, tracked_artifacts


def sync_tracking(run_dir: Path) -> SyncReport:
    """Send what MLflow lacks of the run in `run_dir` to where its config.yaml says that it is tracked.

    result.json loses the warning that MLflow lacks something once that is no longer so.
    """
    if not RunFolder(run_dir).config.is_file():
        raise ConfigError(f"{run_dir} holds no config.yaml; expected the folder of a run, storage/runs/NAME")
    config = load_resolved(RunFolder(run_dir).config)
    target = mlflow_target(config, read_mlflow_run_id(run_dir))
    result = read_result(run_dir) if RunFolder(run_dir).result.is_file() else None
    status = None if result is None or _is_running(run_dir) else result.status
    report = sync(target, run_dir, Saved(_numbers(config, run_dir, result), tracked_artifacts(run_dir), status))
    if result is not None and status is not None and not report.lost.total():
        kept = tuple(text for text in result.warnings if not text.startswith(MISSING))
        if kept != result.warnings:
            write_result(run_dir, replace(result, warnings=kept))
    return report


def _numbers(config: RunConfig, run_dir: Path, result: RunResult | None) -> dict[str, float]:
    """Return the numbers of the run as a whole that training and evaluation gave MLflow: critic's health, Pass@K."""
    from wmtp_ray.training.stages import read_stage_result  # torch

    numbers: dict[str, float] = {}
    for stage in (CRITIC_STAGE, TRAIN_STAGE):
        done = read_stage_result(RunFolder(run_dir).stage(stage).path)
        if done is not None and done.health is not None:
            numbers |= {f"stage{stage}/{name}": value for name, value in done.health.metrics.items()}
    reports = read_reports(run_dir)
    of_steps = reports[-1].metrics.keys() if reports else set()
    found = result.metrics if result is not None else {}
    return numbers | {key: value for key, value in found.items() if key not in of_steps and value is not None}


def _is_running(run_dir: Path) -> bool:
    """Whether the run's newest start has not ended yet: no result of it, and its driver not known to be gone."""
    driver = find_process(run_dir, "driver")
    if driver is None or RunFolder(run_dir).result.stat().st_mtime >= driver.started_s:
        return False
    return driver.host != socket.gethostname() or state_here(driver) != GONE
