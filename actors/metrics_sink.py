"""The one actor that records a run: metrics.jsonl, MLflow, and the newest report for the progress line.

Reports are sent and not waited for. The actor may die: a new one opens the same files, and a report that was recorded
just before the death and is sent again is not recorded twice.
"""

from pathlib import Path

from actors.stalls import enter_run
from wmtp_ray.artifacts.manifest import atomic_write
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.tracker import open_tracker

ROLE = "metrics"
_RUN_ID_FILE = "mlflow_run_id"
_ARTIFACTS = ("config.yaml", "plan.json", "critic/stage_result.json", "eval")  # what MLflow keeps beside the metrics


class MetricsSink:
    """Owns the run's tracker."""

    def __init__(self, config: RunConfig) -> None:
        enter_run(config.run_dir, ROLE)
        self._config = config
        self._tracker = open_tracker(config, mlflow_run_id=read_mlflow_run_id(config.run_dir))

    def start_from(self, stage: int, step: int) -> None:
        """Forget what was recorded at or after (stage, step): the ranks are about to do it again."""
        self._tracker.truncate_from(stage, step)

    def log(self, report: StepReport) -> None:
        """Record one step."""
        self._tracker.log(report)
        self._save_run_id()

    def latest(self) -> StepReport | None:
        """Return the newest report of this actor."""
        return self._tracker.latest()

    def set_result(self, metrics: dict[str, float]) -> None:
        """Record numbers of the run as a whole (the critic's health, Pass@K)."""
        self._tracker.set_result(metrics)

    def close(self, status: RunStatus) -> list[str]:
        """Flush and end; return what could not be recorded, in sentences for the user."""
        for path in map(self._config.run_dir.joinpath, _ARTIFACTS):
            if path.exists():
                self._tracker.add_artifact(path)
        problems = self._tracker.close(status, self._config.deadlines.tracking_s)
        self._save_run_id()
        return problems

    def _save_run_id(self) -> None:
        """Keep MLflow's name of the run where checkpoints and a restarted actor find it."""
        run_id = self._tracker.mlflow_run_id
        if run_id is not None and read_mlflow_run_id(self._config.run_dir) != run_id:
            atomic_write(self._config.run_dir / _RUN_ID_FILE, run_id.encode())


def read_mlflow_run_id(run_dir: Path) -> str | None:
    """Return MLflow's id of this run, or None before its server has answered."""
    path = run_dir / _RUN_ID_FILE
    return path.read_text() if path.is_file() else None
