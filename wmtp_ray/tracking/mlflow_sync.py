"""Bring a run's MLflow run to what its folder has, once, and say what was missing. A second time finds nothing to do.

What is missing is found out by asking MLflow: which steps of every metric, which parameters, tags and artifacts it has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ArtifactError, TrackingError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.mlflow_errors import cause_of, without_password
from wmtp_ray.tracking.mlflow_points import batches, number_points, recorded_in
from wmtp_ray.tracking.mlflow_run import MlflowRun, MlflowTarget, RunStatus
from wmtp_ray.tracking.mlflow_sink import counted


@dataclass(frozen=True)
class Saved:
    """What a run's folder has beside metrics.jsonl. `status` None: it has not ended, so MLflow's status stays."""

    numbers: Mapping[str, float]
    artifacts: Sequence[Path]
    status: RunStatus | None


@dataclass
class SyncReport:
    """What a run had, what MLflow lacked of it and was sent, and what it did not take."""

    address: str
    run_id: str = ""
    status: str = ""
    num_steps: int = 0
    num_points: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    refusal: str | None = None
    notes: Sequence[str] = ()

    @property
    def is_whole(self) -> bool:
        """Whether MLflow has taken everything."""
        return not self.lost.total()

    def render(self) -> str:
        """Describe the sync in one line, then each note in a line of its own."""
        sent = f"{counted(self.sent)} were missing and were sent" if self.sent.total() else "nothing was missing"
        lost = f"; not taken: {counted(self.lost)} ({self.refusal})" if self.lost.total() else ""
        head = f"{self.num_points:,} metrics of {self.num_steps:,} steps; MLflow at {self.address} (run {self.run_id})"
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        return f"{head}: {sent}{lost}; its status is {self.status}{notes}"


def sync(target: MlflowTarget, run_dir: Path, saved: Saved) -> SyncReport:
    """Send what MLflow lacks of the run in `run_dir`.

    ArtifactError when MLflow takes nothing until the user fixes the cause, TrackingError when it does not answer.
    """
    report = SyncReport(without_password(target.uri))
    try:
        _sync(target, run_dir, saved, report)
    except Exception as error:  # the edge to MLflow, which raises what it likes
        cause = cause_of(error, target.uri)
        is_away = cause.found.startswith("does not answer")
        sent = f"; {counted(report.sent)} had been sent" if report.sent.total() else ""
        raise (TrackingError if is_away else ArtifactError)(
            f"MLflow at {report.address} {cause.found}{sent}. To fix it: {cause.remedy}. Then give this command again"
        ) from error
    return report


def _sync(target: MlflowTarget, run_dir: Path, saved: Saved, report: SyncReport) -> None:
    run = MlflowRun.open(target)
    atomic_write(RunFolder(run_dir).mlflow_run_id, run.run_id.encode())
    report.run_id, report.notes, report.lost = run.run_id, run.notes, run.lost
    described = Counter(parameter=run.num_params, tag=run.num_tags)
    run.log_params()
    report.sent += described - run.lost
    _send_points(run, run_dir, saved.numbers, report)
    _send_artifacts(run, saved.artifacts, report)
    if saved.status is not None and run.status != saved.status and not run.lost["metric"]:
        run.end(saved.status)
    report.refusal = report.refusal or run.refusal
    report.status = run.status


def _send_points(run: MlflowRun, run_dir: Path, numbers: Mapping[str, float], report: SyncReport) -> None:
    recorded = recorded_in(run_dir)
    newest_ms = max((each.time_ms for each in recorded), default=0)
    report.num_steps = len(recorded)
    report.num_points = sum(len(each.report.metrics) for each in recorded)
    whole = [[point for each in batch for point in each.points] for batch in batches(recorded)]
    for points in (*whole, number_points(numbers, newest_ms)):
        lacking = run.lacking(points)
        before = run.lost["metric"]
        run.log_metrics(lacking)
        report.sent["metric"] += len(lacking) - (run.lost["metric"] - before)


def _send_artifacts(run: MlflowRun, artifacts: Sequence[Path], report: SyncReport) -> None:
    """Upload the missing artifacts; one that fails does not stop the others."""
    for path in artifacts:
        try:
            if run.has_artifact(path):
                continue
            run.log_artifact(path)
            report.sent["artifact"] += 1
        except Exception as error:  # said, and the next one is tried
            report.lost["artifact"] += 1
            report.refusal = f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())}"
