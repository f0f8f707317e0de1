"""A run as MLflow keeps it, written to a folder that needs no MLflow.

    run.json       id, name, status, times, params, tags, the last value of every metric
    metrics.csv    key,step,value,time_ms: every point in order; final numbers, which have no step, stand at step 0
    artifacts/     what the run uploaded

It changes nothing in MLflow. The run's own folder has most of it too (`metrics.jsonl`, in another form).
"""

import csv
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.errors import ArtifactError
from wmtp_ray.saved_records import write_record
from wmtp_ray.tracking.mlflow_errors import cause_of, without_password
from wmtp_ray.tracking.mlflow_run import SQLITE_PREFIX, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN, METRICS, ARTIFACTS = "run.json", "metrics.csv", "artifacts"
_RUN_ID = re.compile("[0-9a-f]{32}")
_SHOWN = 10


@dataclass(frozen=True)
class ExportedRun:
    """The content of run.json; times are ISO dates, `metrics` holds the last value of each."""

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    started: str | None
    ended: str | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float | None]


def export_mlflow_run(uri: str, run: str, out: Path) -> int:
    """Write the run of that id or name to the folder `out`, whole or not at all; return how many points it has.

    ArtifactError when there is no such run, several of that name, when MLflow does not answer, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ArtifactError(f"{out} is not empty; name another folder with --out")
    _require_file(uri)
    from mlflow.exceptions import MlflowException  # seconds: not for those who import this module

    try:
        client = connect(uri)
        found = _find(client, run)
        with atomic_directory(out) as staged:
            write_record(staged / RUN, _described(found))
            num_points = _write_metrics(client, found, staged / METRICS)
            (staged / ARTIFACTS).mkdir()
            for entry in client.list_artifacts(found.info.run_id):
                client.download_artifacts(found.info.run_id, entry.path, str(staged / ARTIFACTS))
    except (MlflowException, OSError) as error:
        cause = cause_of(error, uri)
        raise ArtifactError(
            f"MLflow at {without_password(uri)} gave no whole run {run}: it {cause.found}; {cause.remedy}"
        ) from error
    return num_points


def _require_file(uri: str) -> None:
    """Refuse a missing sqlite file: MLflow would create an empty one for a mistyped name."""
    path = Path(uri.removeprefix(SQLITE_PREFIX))
    if uri.startswith(SQLITE_PREFIX) and not path.is_file():
        raise ArtifactError(f"{path} does not exist; give the file that runs were tracked in with --uri")


def _find(client: "MlflowClient", wanted: str) -> "Run":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    key = "run_id" if _RUN_ID.fullmatch(wanted) else "run_name"
    matching = client.search_runs(experiments, f'attributes.{key} = "{wanted}"', max_results=_SHOWN)
    if len(matching) == 1:
        return matching[0]
    if matching:
        ids = ", ".join(found.info.run_id for found in matching)
        raise ArtifactError(f"{len(matching)} runs are named {wanted}, expected one; give the id instead: {ids}")
    newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=_SHOWN)
    names = ", ".join(str(found.info.run_name) for found in newest) or "none"
    raise ArtifactError(f"there is no run with the id or name {wanted}; give one of those, the newest are: {names}")


def _described(run: "Run") -> ExportedRun:
    info, data = run.info, run.data
    return ExportedRun(
        run_id=info.run_id,
        run_name=info.run_name,
        experiment_id=info.experiment_id,
        status=info.status,
        started=_iso(info.start_time),
        ended=_iso(info.end_time),
        params=data.params,
        tags=data.tags,
        metrics={**data.metrics},
    )


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


def _write_metrics(client: "MlflowClient", run: "Run", path: Path) -> int:
    num_points = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("key", "step", "value", "time_ms"))
        for key in sorted(run.data.metrics):
            history = sorted(
                client.get_metric_history(run.info.run_id, key), key=lambda point: (point.step, point.timestamp)
            )
            writer.writerows((key, point.step, point.value, point.timestamp) for point in history)
            num_points += len(history)
    return num_points
