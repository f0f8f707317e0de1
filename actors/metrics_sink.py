"""The one actor that records a run: metrics.jsonl, the trackers, and the newest report for the progress line.

Reports are sent and not waited for. The actor may die: a new one opens the same files, and a report that was recorded
just before the death and is sent again is not recorded twice.
"""

from actors.stalls import enter_run
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.mlflow_run import RunStatus, read_mlflow_run_id
from wmtp_ray.tracking.run_log import log_stage, log_step
from wmtp_ray.tracking.tracker import open_tracker, tracked_artifacts

__all__ = ["MetricsSink", "read_mlflow_run_id"]

ROLE = "metrics"


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
        log_stage(report.stage)
        log_step(report.step)
        self._tracker.log(report)

    def latest(self) -> StepReport | None:
        """Return the newest report of this actor."""
        return self._tracker.latest()

    def set_result(self, metrics: dict[str, float]) -> None:
        """Record numbers of the run as a whole (the critic's health, Pass@K)."""
        self._tracker.set_result(metrics)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Record what was decided while the run ran."""
        self._tracker.set_tags(tags)

    def close(self, status: RunStatus) -> list[str]:
        """Flush and end; return what could not be recorded, in sentences for the user."""
        for path in tracked_artifacts(self._config.run_dir):
            self._tracker.add_artifact(path)
        return self._tracker.close(status, self._config.deadlines.tracking_s)
