"""The one place a StepReport goes to: metrics.jsonl, the sinks of the run, and the newest for the progress line.

A plain class; the metrics actor owns one. Problems of a sink never raise here: one that raises all the same is dropped
with a warning. A full disk under metrics.jsonl does raise.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.run_folder import EVALUATION_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.tracking.decisions import read_decisions
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.mlflow_points import Recorded, milliseconds
from wmtp_ray.tracking.mlflow_run import MlflowTarget, RunStatus, default_uri
from wmtp_ray.tracking.mlflow_sink import MlflowSink
from wmtp_ray.tracking.open_sinks import open_sinks
from wmtp_ray.tracking.sink import Sink

_LOG = logging.getLogger(__name__)


class Tracker:
    """Fans reports out to the sinks; `mlflow` is None where it is switched off."""

    def __init__(self, metrics_file: JsonlSink, mlflow: MlflowSink | None, others: Sequence[Sink] = ()) -> None:
        self._metrics_file = metrics_file
        self._mlflow = mlflow
        self._sinks: list[Sink] = [*([mlflow] if mlflow is not None else []), *others]
        self._dropped: list[str] = []
        self._latest: StepReport | None = None

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run, for checkpoints; None without MLflow and until its server has answered."""
        return self._mlflow.run_id if self._mlflow is not None else None

    def log(self, report: StepReport) -> None:
        """Record one optimizer step, or an evaluation of the policy between two."""
        if report.stage != EVALUATION_STAGE:
            self._latest = report
        recorded = Recorded(report, milliseconds(self._metrics_file.log(report)))
        self._each(lambda sink: sink.log(recorded))

    def truncate_from(self, stage: int, step: int) -> None:
        """Forget the recorded steps at or after (stage, step), as a run does that resumes there."""
        self._metrics_file.truncate_from(stage, step)
        self._latest = None

    def set_result(self, metrics: Mapping[str, float]) -> None:
        """Record the run's final numbers (evaluation); result.json is `write_result`'s part."""
        self._each(lambda sink: sink.set_result(metrics))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record what was decided while the run ran; decisions.json is `tracking/decisions.py`'s part."""
        self._each(lambda sink: sink.set_tags(tags))

    def add_artifact(self, path: Path) -> None:
        """Have the sinks that keep files keep a file or folder when the run ends."""
        self._each(lambda sink: sink.add_artifact(path))

    def latest(self) -> StepReport | None:
        """Return the newest report of an optimizer step, for the progress line; None before the first."""
        return self._latest

    def problems(self) -> list[str]:
        """Return what was not recorded so far, in sentences for the user."""
        found: list[str] = []
        self._each(lambda sink: found.extend(sink.problems()))
        return [*found, *self._dropped]

    def close(self, status: RunStatus, deadline_s: float) -> list[str]:
        """Flush everything within `deadline_s` and return the problems; the tracker takes no more reports."""
        self._metrics_file.close()
        end_s = time.monotonic() + deadline_s
        self._each(lambda sink: sink.start_closing(status))
        self._each(lambda sink: sink.close(status, max(0.0, end_s - time.monotonic())))
        return self.problems()

    def _each(self, call: Callable[[Sink], None]) -> None:
        """Call every sink; one that raises is told and called no more."""
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # the edge to code of others: counted, said, and the run goes on
                self._sinks.remove(sink)
                self._dropped.append(
                    f"{type(sink).__name__} failed ({type(error).__name__}: {error}) and gets nothing more. "
                    "metrics.jsonl has every number. To fix it: take it out of tracking.sinks"
                )
                _LOG.warning("%s", self._dropped[-1])


def open_tracker(config: RunConfig, *, mlflow_run_id: str | None) -> Tracker:
    """Open the sinks of a run; `mlflow_run_id` continues that MLflow run, None starts one."""
    metrics_file = JsonlSink(config.run_dir)
    mlflow = None
    if config.tracking.uses_mlflow:
        mlflow = MlflowSink(mlflow_target(config, mlflow_run_id), config.run_dir)
    return Tracker(metrics_file, mlflow, open_sinks(config))


def mlflow_target(config: RunConfig, run_id: str | None) -> MlflowTarget:
    """Return the MLflow run to write to; a run's tags become tags there, not parameters.

    What was decided so far while the run ran is among the tags.
    """
    return MlflowTarget(
        uri=config.tracking.mlflow_uri or default_uri(config.storage_root),
        experiment=config.tracking.experiment,
        run_name=config.run_name,
        params=config.model_dump(mode="json", exclude={"tags"}),
        tags={"recipe": config.recipe, **config.tags, **read_decisions(config.run_dir).tags()},
        run_id=run_id,
    )


def tracked_artifacts(run_dir: Path) -> list[Path]:
    """Return the files and folders that trackers keep of a run, those that there are."""
    folder = RunFolder(run_dir)
    kept = (
        folder.config,
        folder.plan(TRAIN_STAGE),
        folder.critic.stage_result,
        folder.evaluations,
        folder.step_evaluations,
    )
    return [path for path in kept if path.exists()]
