"""`wmtp tracking sync RUN`: trackers get what they lack of a run, from the run's own folder. Needs no Ray."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.background_sink import BackgroundSink
from wmtp_ray.tracking.mlflow_run import RunStatus, read_mlflow_run_id
from wmtp_ray.tracking.mlflow_sync import Saved, SyncReport, sync
from wmtp_ray.tracking.open_sinks import tracker_kind
from wmtp_ray.tracking.processes import GONE, find_process, state_here
from wmtp_ray.tracking.result import read_result, write_result
from wmtp_ray.tracking.run_numbers import run_numbers
from wmtp_ray.tracking.sink import TITLES, lacks
from wmtp_ray.tracking.sink_packages import check_packages
from wmtp_ray.tracking.tracker import mlflow_target, tracked_artifacts

SINK_DEADLINE_S = 600.0


@dataclass(frozen=True)
class SinkReport:
    """How a tracker beside MLflow was brought up to date: its title, and why it lacks something."""

    title: str
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the tracker lacks nothing."""
        return not self.problems

    def render(self) -> str:
        """Say it in one line."""
        return "; ".join(self.problems) or f"{self.title} has every number of this run"


def sync_tracking(run_dir: Path) -> Iterator[SyncReport | SinkReport]:
    """Send what the trackers of the run in `run_dir` lack to where its config.yaml says that it is tracked.

    A run that is configured without any tracker is sent to MLflow. result.json loses the warning that a tracker lacks
    something once that is no longer so. Trackers beside MLflow wait for the end of a run that is still running.
    """
    if not RunFolder(run_dir).config.is_file():
        raise ConfigError(f"{run_dir} holds no config.yaml; expected the folder of a run, storage/runs/NAME")
    config = load_resolved(RunFolder(run_dir).config)
    result = read_result(run_dir) if RunFolder(run_dir).result.is_file() else None
    is_running = _is_running(run_dir)
    status = None if result is None or is_running else result.status
    for name in config.tracking.other_sinks:
        yield _untimely(name) if is_running else _sync_sink(config, name, status or "KILLED")
    if "mlflow" in config.tracking.sinks or not config.tracking.sinks:
        target = mlflow_target(config, read_mlflow_run_id(run_dir))
        report = sync(target, run_dir, Saved(run_numbers(run_dir), tracked_artifacts(run_dir), status))
        if status is not None and not report.lost.total():
            _forget(run_dir, TITLES["mlflow"])
        yield report


def _sync_sink(config: RunConfig, name: str, status: RunStatus) -> SinkReport:
    """Open a tracker, which then gets what it lacks, and end its run."""
    check_packages([name])
    kind = tracker_kind(config, name)
    sink = BackgroundSink(kind, config.run_dir)
    for path in tracked_artifacts(config.run_dir):
        sink.add_artifact(path)
    sink.close(status, SINK_DEADLINE_S)
    report = SinkReport(kind.title, tuple(sink.problems()))
    if report.is_whole:
        _forget(config.run_dir, kind.title)
    return report


def _untimely(name: str) -> SinkReport:
    text = f"{TITLES[name]} is written by the run, which is still running: give this command again when it has ended"
    return SinkReport(TITLES[name], (text,))


def _forget(run_dir: Path, title: str) -> None:
    """Take the warning that a tracker lacks something out of result.json."""
    if not RunFolder(run_dir).result.is_file():
        return
    result = read_result(run_dir)
    kept = tuple(text for text in result.warnings if not text.startswith(lacks(title)))
    if kept != result.warnings:
        write_result(run_dir, replace(result, warnings=kept))


def _is_running(run_dir: Path) -> bool:
    """Whether the run's newest start has not ended yet: no result of it, and its driver not known to be gone."""
    driver, result = find_process(run_dir, "driver"), RunFolder(run_dir).result
    if driver is None or (result.is_file() and result.stat().st_mtime >= driver.started_s):
        return False
    return driver.host != socket.gethostname() or state_here(driver) != GONE
