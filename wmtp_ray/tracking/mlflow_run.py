"""One MLflow run, synchronously: open or continue it, log to it, end it. Any call may raise and may take seconds.

`mlflow_sink` keeps all of that away from training. MLflow (3.17) is imported on first use: it takes seconds.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from mlflow import MlflowClient

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
MAX_METRICS_PER_CALL = 1000  # MLflow's own limits, as are the next two
MAX_PARAMS_PER_CALL = 100
MAX_KEY_CHARS = 250
MAX_PARAM_CHARS = 500
SQLITE_PREFIX = "sqlite:///"
CLIENT_SETTINGS = {  # MLflow's defaults wait for minutes; what the user has set in the environment stays
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


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
    """An open run. On a continued one, steps that it already has are skipped, so that no step occurs twice."""

    def __init__(self, client: "MlflowClient", run_id: str, params: dict[str, str], *, continued: bool) -> None:
        self.run_id = run_id
        self._client = client
        self._params_to_log = params
        self._continued = continued
        self._last_step: dict[str, int] = {}

    @classmethod
    def open(cls, target: MlflowTarget) -> Self:
        """Connect, then start the target's run or continue it; params it already has keep their values."""
        client = _client(target.uri)
        params = flat_params(target.params)
        if target.run_id is None:
            experiment_id = _experiment_id(client, target)
            run = client.create_run(experiment_id, tags=dict(target.tags), run_name=target.run_name)
        else:
            run = client.get_run(target.run_id)
            params = {key: text for key, text in params.items() if key not in run.data.params}
            client.update_run(target.run_id, status="RUNNING")
        return cls(client, run.info.run_id, params, continued=target.run_id is not None)

    def log_params(self) -> None:
        """Log the params that the run does not have yet; does nothing when called again."""
        from mlflow.entities import Param

        while self._params_to_log:
            keys = list(self._params_to_log)[:MAX_PARAMS_PER_CALL]
            self._client.log_batch(self.run_id, params=[Param(key, self._params_to_log[key]) for key in keys])
            self._params_to_log = {key: self._params_to_log[key] for key in self._params_to_log if key not in keys}

    def skip_params(self) -> None:
        """Give up on the params that are not logged yet: the server refuses them."""
        self._params_to_log = {}

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Log at most MAX_METRICS_PER_CALL points in one call."""
        from mlflow.entities import Metric

        new = [point for point in points if point.step is None or point.step > self._last_step_of(point.key)]
        if new:
            metrics = [Metric(point.key, point.value, point.time_ms, point.step or 0) for point in new]
            self._client.log_batch(self.run_id, metrics=metrics)
        self._last_step |= {point.key: point.step for point in new if point.step is not None}

    def log_artifact(self, path: Path) -> None:
        """Copy a file, or a folder with all below it under its own name."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    def end(self, status: RunStatus) -> None:
        """Give the run its terminal status."""
        self._client.set_terminated(self.run_id, status)

    def _last_step_of(self, key: str) -> int:
        if key not in self._last_step:
            history = self._client.get_metric_history(self.run_id, key) if self._continued else []
            self._last_step[key] = max((metric.step for metric in history), default=-1)
        return self._last_step[key]


def default_uri(storage_root: Path) -> str:
    """The embedded server of a storage: an sqlite file. /data/storage -> sqlite:////data/storage/mlflow.db."""
    assert storage_root.is_absolute(), "MLflow would otherwise write wherever the process happens to run"
    return f"{SQLITE_PREFIX}{storage_root}/mlflow.db"


def metric_key(key: str, stage: int) -> str:
    """Name a metric for MLflow: stage 2 as it is, others under their stage, so that steps of two stages never mix.

    (loss/total, 2) -> loss/total; (loss/total, 1) -> stage1/loss/total
    """
    allowed = re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)
    return (allowed if stage == 2 else f"stage{stage}/{allowed}")[:MAX_KEY_CHARS]


def flat_params(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested params to dotted keys and texts cut to MAX_PARAM_CHARS. {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flat_params(value, f"{name}.") if isinstance(value, Mapping) and value else {name: _param_text(value)}
    return flat


def is_refusal(error: Exception) -> bool:
    """Tell a request that will never be accepted (HTTP 4xx) from a server that may answer later."""
    status_of: Any = getattr(error, "get_http_status_code", None)
    status = status_of() if status_of is not None else 0
    return 400 <= status < 500 and status not in (408, 429)


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside an sqlite file; None leaves it to the server."""
    if not uri.startswith(SQLITE_PREFIX):
        return None
    return (Path(uri.removeprefix(SQLITE_PREFIX)).parent / "mlartifacts").as_uri()


def _client(uri: str) -> "MlflowClient":
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


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
    experiment_id: str = experiment.experiment_id
    return experiment_id


def _param_text(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_PARAM_CHARS else text[: MAX_PARAM_CHARS - 3] + "..."
