"""The sweep's own MLflow run, parent of its trials' runs. A tracking server that does not answer causes a warning."""

from collections.abc import Sequence
from pathlib import Path
from time import time_ns

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.flows.sweep.sweep_plan import SweepPlan
from wmtp_ray.tracking.mlflow_errors import cause_of, without_password
from wmtp_ray.tracking.mlflow_run import (
    MetricPoint,
    MlflowRun,
    MlflowTarget,
    RunStatus,
    default_uri,
    read_mlflow_run_id,
)
from wmtp_ray.tracking.sweep_result import Ranking

_PARENT_TAG = "mlflow.parentRunId"


class ParentRun:
    """Opened before the trials, which carry its id as a tag; closed with the ranking."""

    def __init__(self, plan: SweepPlan) -> None:
        self.problems: list[str] = []
        self.status: RunStatus = "FAILED"
        self._run: MlflowRun | None = None
        self._uri = plan.base.tracking.mlflow_uri or default_uri(plan.base.storage_root)
        if not plan.base.tracking.uses_mlflow:
            return
        try:
            self._run = MlflowRun.open(_target(plan))
            atomic_write(plan.folder.mlflow_run_id, self._run.run_id.encode())
            self._run.set_running()
            self._run.log_params()
            if self._run.notes:
                self.problems.append(f"MLflow, the sweep's own run: {'; '.join(self._run.notes)}")
        except Exception as error:  # the edge to MLflow, which raises what it likes: said, and the sweep goes on
            self._give_up(error)

    @property
    def child_tags(self) -> dict[str, str]:
        """The tags that make a trial's run a child of this one."""
        return {_PARENT_TAG: self._run.run_id} if self._run is not None else {}

    def close(self, ranking: Ranking, files: Sequence[Path]) -> None:
        """Log the best point's objective and the files that exist, and end the run."""
        if self._run is None:
            return
        try:
            best = ranking.best
            if best is not None and best.objective is not None:
                self._run.log_metrics([MetricPoint("sweep/best", best.objective.value, time_ns() // 1_000_000, None)])
            for path in files:
                if path.is_file():
                    self._run.log_artifact(path)
            self._run.end(self.status)
        except Exception as error:  # as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        cause = cause_of(error, self._uri)
        self.problems.append(
            f"MLflow at {without_password(self._uri)} did not take the sweep's own run: it {cause.found}. sweep.json "
            f"has it all. To fix it: {cause.remedy}"
        )


def _target(plan: SweepPlan) -> MlflowTarget:
    tracking = plan.base.tracking
    return MlflowTarget(
        uri=tracking.mlflow_uri or default_uri(plan.base.storage_root),
        experiment=tracking.experiment,
        run_name=plan.name,
        params=plan.spec_values(),
        tags={"recipe": plan.base.recipe, "sweep": plan.name, **plan.base.tags},
        run_id=read_mlflow_run_id(plan.directory),
    )
