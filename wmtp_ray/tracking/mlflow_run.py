"""One MLflow run, synchronously: open or continue it, log to it, end it. Any call may raise and may take seconds.

Only what MLflow refuses is lost: a refused batch is halved until the refused item is alone; it is counted in `lost`,
and the rest is logged. `mlflow_sink` keeps all of it away from training. MLflow (3.17) is imported on first use: it
takes seconds.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeVar

from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.mlflow_errors import (
    SQLITE_PREFIX,
    cause_of,
    experiment_deleted,
    is_refusal,
    is_unknown,
    require_usable_file,
    restore_run_command,
    run_deleted,
    says_deleted,
)
from wmtp_ray.tracking.mlflow_names import MAX_PARAM_CHARS, MAX_TAG_CHARS, fit, flat_params, is_cut_from, metric_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["SQLITE_PREFIX", "flat_params", "metric_key"]

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
MAX_METRICS_PER_CALL = 1000  # MLflow's own limits
MAX_PARAMS_PER_CALL = 100
CLIENT_SETTINGS = {  # MLflow's defaults wait for minutes; what the user has set in the environment stays
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_DELETED = "deleted"
_MAX_ALONE = 16  # so many refused one by one, and none taken: the rest of the batch is not tried alone
Item = TypeVar("Item")


@dataclass(frozen=True)
class MlflowTarget:
    """Which run to write to. `params` may be nested; `run_id` continues that run, None starts one."""

    uri: str
    experiment: str
    run_name: str
    params: Mapping[str, object]
    tags: Mapping[str, str]
    run_id: str | None


class MetricPoint(NamedTuple):
    """One number; step None: a final number, of which the newest counts."""

    key: str
    value: float
    time_ms: int
    step: int | None


class MlflowRun:
    """An open run. `notes` lists values that differ in MLflow; `lost` counts what was refused, by its kind."""

    def __init__(self, client: "MlflowClient", target: MlflowTarget, run: "Run", *, continued: bool) -> None:
        self.run_id: str = run.info.run_id
        self.status: str = run.info.status
        self.notes: list[str] = []
        self.lost: Counter[str] = Counter()
        self.refusal: str | None = None  # the newest one, in MLflow's words
        self._client = client
        self._target = target
        self._continued = continued
        self._had = run.data
        self._steps: dict[str, frozenset[int]] = {}
        params = fit("parameter", flat_params(target.params), MAX_PARAM_CHARS)
        self.notes += params.changes
        self._params = self._new_params(params.values)
        self._tags: dict[str, str] = {}
        self.add_tags(target.tags)

    @classmethod
    def open(cls, target: MlflowTarget) -> Self:
        """Connect, then continue the target's run, or start one where there is none, or none any more."""
        client = connect(target.uri)
        found, note = _existing(client, target) if target.run_id is not None else (None, None)
        if found is not None:
            return cls(client, target, found, continued=True)
        created = client.create_run(_experiment_id(client, target), run_name=target.run_name)
        opened = cls(client, target, created, continued=False)
        opened.notes += [f"{note}; a new one ({opened.run_id}) gets all of it"] if note is not None else []
        return opened

    @staticmethod
    def described(target: MlflowTarget) -> tuple[int, int]:
        """Return how many parameters and tags describe a run."""
        return len(flat_params(target.params)), len(target.tags)

    @property
    def num_params(self) -> int:
        """How many parameters MLflow does not have yet."""
        return len(self._params)

    @property
    def num_tags(self) -> int:
        """How many tags MLflow does not have yet."""
        return len(self._tags)

    def set_running(self) -> None:
        """Set the status of a run that had ended back to running."""
        if self.status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
            self.status = "RUNNING"

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Have tags logged with the next `log_params` that the run does not have, or has otherwise."""
        fitted = fit("tag", tags, MAX_TAG_CHARS)
        self.notes += [change for change in fitted.changes if change not in self.notes]
        self._tags |= {key: text for key, text in fitted.values.items() if self._had.tags.get(key) != text}

    def log_params(self) -> None:
        """Log the parameters and tags that the run does not have yet; does nothing when called again."""
        from mlflow.entities import Param, RunTag

        def send_params(keys: Sequence[str]) -> None:
            self._client.log_batch(self.run_id, params=[Param(key, self._params[key]) for key in keys])

        def send_tags(keys: Sequence[str]) -> None:
            self._client.log_batch(self.run_id, tags=[RunTag(key, self._tags[key]) for key in keys])

        for kind, waiting, send in (("parameter", self._params, send_params), ("tag", self._tags, send_tags)):
            while waiting:
                keys = list(waiting)[:MAX_PARAMS_PER_CALL]
                refused = self._send(keys, send)
                self.lost[kind] += len(refused)
                self.notes += [f"{kind} {key} was refused ({self.refusal})" for key in refused]
                for key in keys:
                    del waiting[key]

    def lacking(self, points: Sequence[MetricPoint]) -> list[MetricPoint]:
        """Return the points that the run did not have when it was opened."""
        if not self._continued:
            return list(points)
        return [point for point in points if not self._has(point)]

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Log points; a point that MLflow has with the same time is not stored twice."""
        from mlflow.entities import Metric

        def send(batch: Sequence[MetricPoint]) -> None:
            metrics = [Metric(each.key, _finite(each.value), each.time_ms, each.step or 0) for each in batch]
            self._client.log_batch(self.run_id, metrics=metrics)

        for start in range(0, len(points), MAX_METRICS_PER_CALL):
            self.lost["metric"] += len(self._send(points[start : start + MAX_METRICS_PER_CALL], send))

    def log_artifact(self, path: Path) -> None:
        """Copy a file, or a folder with all below it under its own name."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    def has_artifact(self, path: Path) -> bool:
        """Whether the run keeps the file, or every file of the folder."""
        names = [path.name]
        if path.is_dir():
            names = [str(each.relative_to(path.parent)) for each in path.rglob("*") if each.is_file()]
        listed = {parent: self._listed(parent) for parent in {str(Path(name).parent) for name in names}}
        return all(name in listed[str(Path(name).parent)] for name in names)

    def end(self, status: RunStatus) -> None:
        """Give the run its terminal status."""
        self._client.set_terminated(self.run_id, status)
        self.status = status

    def _listed(self, folder: str) -> set[str]:
        entries = self._client.list_artifacts(self.run_id, None if folder == "." else folder)
        return {entry.path for entry in entries}

    def _send(self, items: Sequence[Item], send: Callable[[Sequence[Item]], None]) -> list[Item]:
        """Send a batch, halving what is refused; return what is refused on its own. Other errors are raised."""
        refused: list[Item] = []
        taken, waiting = 0, [list(items)] if items else []
        while waiting:
            batch = waiting.pop()
            if len(refused) >= _MAX_ALONE and not taken:
                refused += batch
                continue
            try:
                send(batch)
                taken += len(batch)
            except Exception as error:  # raised again unless its content was refused
                if says_deleted(error):
                    raise self._deletion() from error
                if not is_refusal(error):
                    raise
                self.refusal = cause_of(error, self._target.uri).found
                half = len(batch) // 2
                if half:
                    waiting += [batch[half:], batch[:half]]
                else:
                    refused += batch
        return refused

    def _deletion(self) -> Exception:
        """Whether the run was deleted, or its experiment with it."""
        info = self._client.get_run(self.run_id).info
        experiment = self._client.get_experiment(info.experiment_id)
        if experiment.lifecycle_stage == _DELETED:
            return experiment_deleted(self._target.uri, experiment.name, experiment.experiment_id)
        return run_deleted(self._target.uri, self.run_id)

    def _new_params(self, params: Mapping[str, str]) -> dict[str, str]:
        """Return parameters that the run lacks; MLflow lets no parameter change, so note those that have changed."""
        changed = [
            f"parameter {key} stays {self._had.params[key][:60]} there (now {text[:60]}): MLflow keeps the first value"
            for key, text in params.items()
            if key in self._had.params and not is_cut_from(self._had.params[key], text)
        ]
        self.notes += changed
        return {key: text for key, text in params.items() if key not in self._had.params}

    def _has(self, point: MetricPoint) -> bool:
        if point.key not in self._had.metrics:
            return False
        if point.step is None:
            value, there = _finite(point.value), self._had.metrics[point.key]
            return value == there or (math.isnan(value) and math.isnan(there))
        if point.key not in self._steps:
            history = self._client.get_metric_history(self.run_id, point.key)
            steps = frozenset(metric.step for metric in history)
            same = next((known for known in self._steps.values() if known == steps), steps)  # most keys share theirs
            self._steps[point.key] = same
        return point.step in self._steps[point.key]


def default_uri(storage_root: Path) -> str:
    """The embedded server of a storage: an sqlite file. /data/storage -> sqlite:////data/storage/mlflow.db."""
    assert storage_root.is_absolute(), "MLflow would otherwise write wherever the process happens to run"
    return f"{SQLITE_PREFIX}{storage_root}/mlflow.db"


def read_mlflow_run_id(run_dir: Path) -> str | None:
    """Return MLflow's id of this run, or None before its server has answered."""
    path = RunFolder(run_dir).mlflow_run_id
    return path.read_text() if path.is_file() else None


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside an sqlite file; None leaves it to the server."""
    if not uri.startswith(SQLITE_PREFIX):
        return None
    return (Path(uri.removeprefix(SQLITE_PREFIX)).parent / "mlartifacts").as_uri()


def connect(uri: str) -> "MlflowClient":
    """Return a client that gives up after seconds; an sqlite file must be writable, or its folder."""
    require_usable_file(uri)
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _existing(client: "MlflowClient", target: MlflowTarget) -> tuple["Run | None", str | None]:
    """Return the run to continue; or None and why it cannot be."""
    from mlflow.exceptions import MlflowException

    assert target.run_id is not None
    try:
        run = client.get_run(target.run_id)
    except MlflowException as error:
        if not is_unknown(error):
            raise
        return None, f"the former run {target.run_id} is not there"
    if run.info.lifecycle_stage != _DELETED:
        return run, None
    command = restore_run_command(target.uri, target.run_id)
    return None, f"the former run {target.run_id} was deleted there (`{command}` restores it)"


def _experiment_id(client: "MlflowClient", target: MlflowTarget) -> str:
    """Find the experiment or create it; a run beside us may create it in between."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(target.experiment)
    if experiment is None:
        try:
            return client.create_experiment(target.experiment, artifact_location=artifact_location(target.uri))
        except MlflowException as error:
            experiment = client.get_experiment_by_name(target.experiment)
            if experiment is None:
                raise error
    if experiment.lifecycle_stage == _DELETED:
        raise experiment_deleted(target.uri, experiment.name, experiment.experiment_id)
    experiment_id: str = experiment.experiment_id
    return experiment_id


def _finite(value: float) -> float:
    """Infinity as not a number: metrics.jsonl has null for both, and MLflow would store the largest double."""
    return value if math.isfinite(value) else math.nan
