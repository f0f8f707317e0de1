"""The sweep's own MLflow run, parent of its trials' runs. A tracking server that does not answer costs a warning."""

from collections.abc import Sequence
from pathlib import Path
from time import time_ns

from wmtp_ray.artifacts.manifest import atomic_write
from wmtp_ray.flows.sweep_plan import SweepPlan
from wmtp_ray.tracking.mlflow_run import MetricPoint, MlflowRun, MlflowTarget, RunStatus, default_uri
from wmtp_ray.tracking.sweep_result import Ranking

_PARENT_TAG = "mlflow.parentRunId"
_RUN_ID_FILE = "mlflow_run_id"


class ParentRun:
    """Opened before the trials, which carry its id as a tag; closed with the ranking."""

    def __init__(self, plan: SweepPlan) -> None:
        self.problems: list[str] = []
        self.status: RunStatus = "FAILED"
        self._run: MlflowRun | None = None
        if not plan.base.tracking.mlflow:
            return
        try:
            self._run = MlflowRun.open(_target(plan))
            self._run.log_params()
            atomic_write(plan.directory / _RUN_ID_FILE, self._run.run_id.encode())
        except Exception as error:  # the edge to MLflow, which raises what it likes: said, and the sweep goes on
            self._give_up(error)

    @property
    def child_tags(self) -> dict[str, str]:
        """What a trial's run is tagged with to stand below this one."""
        return {_PARENT_TAG: self._run.run_id} if self._run is not None else {}

    def close(self, ranking: Ranking, files: Sequence[Path]) -> None:
        """Log the best point's objective and the files that exist, and end the run."""
        if self._run is None:
            return
        try:
            best = ranking.best
            if best is not None and best.objective is not None:
                self._run.log_metrics([MetricPoint("sweep/best", best.objective.mean, time_ns() // 1_000_000, None)])
            for path in files:
                if path.is_file():
                    self._run.log_artifact(path)
            self._run.end(self.status)
        except Exception as error:  # as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        self.problems.append(
            f"MLflow did not take the sweep's own run ({type(error).__name__}: {str(error)[:160]}); sweep.json has it "
            "all. Check tracking.mlflow_uri, or set tracking.mlflow=false"
        )


def _target(plan: SweepPlan) -> MlflowTarget:
    tracking, saved = plan.base.tracking, plan.directory / _RUN_ID_FILE
    return MlflowTarget(
        uri=tracking.mlflow_uri or default_uri(plan.base.storage_root),
        experiment=tracking.experiment,
        run_name=plan.name,
        params=plan.spec_values(),
        tags={"recipe": plan.base.recipe, "sweep": plan.name, **plan.base.tags},
        run_id=saved.read_text() if saved.is_file() else None,
    )
