"""MLflow beside training, never in its way: a thread of its own talks to the server, and no failure leaves it.

| event | what happens |
|---|---|
| `log` | the numbers are queued; returns in microseconds |
| the server does not answer | the numbers wait, at most MAX_WAITING of them; tried again after 1, 2, 4, .. 30 s |
| the server refuses a batch (HTTP 4xx) | that batch alone is dropped and counted |
| `close` | one last attempt, at most `deadline_s`; what is left is counted |

What was not logged is said by `problems()`; metrics.jsonl has every number in any case.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.mlflow_run import (
    MAX_METRICS_PER_CALL,
    MetricPoint,
    MlflowRun,
    MlflowTarget,
    RunStatus,
    is_refusal,
    metric_key,
)

MAX_WAITING = 200_000
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
GATHER_S = 0.5  # reports of this time go in one call
MAX_ERROR_CHARS = 160


class MlflowSink:
    """Logs to the run of `target` from a background thread that starts at once."""

    def __init__(self, target: MlflowTarget) -> None:
        self._target = target
        self._run: MlflowRun | None = None
        self._waiting: deque[MetricPoint] = deque()
        self._artifacts: list[Path] = []
        self._num_dropped = 0
        self._failure: str | None = None  # of the newest attempt
        self._refusal: str | None = None  # the newest one; what was refused stays missing
        self._final_status: RunStatus | None = None
        self._ended = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow-sink", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The MLflow run, for checkpoints; the one to continue before the server has answered, None for a new one."""
        return self._run.run_id if self._run is not None else self._target.run_id

    def log(self, report: StepReport) -> None:
        """Queue a step's metrics."""
        now_ms = time.time_ns() // 1_000_000
        self._enqueue(
            MetricPoint(metric_key(key, report.stage), float(value), now_ms, report.step)
            for key, value in report.metrics.items()
        )

    def set_result(self, metrics: Mapping[str, float]) -> None:
        """Queue final numbers, which have no step."""
        now_ms = time.time_ns() // 1_000_000
        self._enqueue(MetricPoint(metric_key(key, 2), float(value), now_ms, None) for key, value in metrics.items())

    def add_artifact(self, path: Path) -> None:
        """Have a file or folder uploaded when the sink closes."""
        with self._wake:
            self._artifacts.append(path)

    def close(self, status: RunStatus, deadline_s: float) -> None:
        """Send what waits, upload the artifacts, end the run; gives up after `deadline_s`."""
        with self._wake:
            self._final_status = status
            self._wake.notify_all()
        self._thread.join(deadline_s)

    def problems(self) -> list[str]:
        """Say what MLflow lacks at this moment; empty when it lacks nothing that it should have by now."""
        with self._wake:
            if self._failure is not None:
                reason = f"did not answer ({self._failure})"
            elif self._final_status is not None and not self._ended:
                reason = "was too slow (deadlines.tracking_s)"
            elif self._refusal is not None:
                reason = f"refused some ({self._refusal})"
            elif self._num_dropped > 0:
                reason = f"was away for more than {MAX_WAITING} metrics"
            else:
                return []
            return [
                f"MLflow at {_without_password(self._target.uri)} {reason}: {self._missing()}; metrics.jsonl has every "
                "number. Check tracking.mlflow_uri, or set tracking.mlflow=false"
            ]

    def _missing(self) -> str:
        missing = [f"{self._num_dropped + len(self._waiting)} metrics were not logged there"]
        missing += [f"{len(self._artifacts)} artifacts were not uploaded"] if self._artifacts else []
        return ", ".join(missing)

    def _enqueue(self, points: Iterable[MetricPoint]) -> None:
        with self._wake:
            self._waiting.extend(points)
            while len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self._num_dropped += 1
            self._wake.notify_all()

    def _work(self) -> None:
        """The thread: attempt, pause, wait for more; ends after the attempt that follows `close`."""
        retry_s = FIRST_RETRY_S
        while True:
            closing = self._final_status is not None
            if self._attempt(closing=closing):
                pause_s, retry_s = GATHER_S, FIRST_RETRY_S
            else:
                pause_s, retry_s = retry_s, min(2 * retry_s, LAST_RETRY_S)
            if closing:
                return
            with self._wake:
                self._wake.wait_for(lambda: self._final_status, timeout=pause_s)
                self._wake.wait_for(lambda: self._waiting or self._final_status)

    def _attempt(self, *, closing: bool) -> bool:
        """Send everything that waits, and end the run when closing; False when the server did not take it."""
        failure: str | None = None
        try:
            self._send()
            if closing:
                self._end()
        except Exception as error:  # the edge of the thread: whatever MLflow raises is kept and said
            failure = _error_text(error)
        with self._wake:
            self._failure = failure
        return failure is None

    def _send(self) -> None:
        run = self._run = self._run or MlflowRun.open(self._target)
        if not self._is_taken(run.log_params):
            run.skip_params()
        while self._waiting:
            with self._wake:
                batch = list(islice(self._waiting, MAX_METRICS_PER_CALL))
            is_taken = self._is_taken(partial(run.log_metrics, batch))
            with self._wake:
                for point in batch:
                    if self._waiting and self._waiting[0] is point:
                        self._waiting.popleft()
                self._num_dropped += 0 if is_taken else len(batch)

    def _end(self) -> None:
        """Upload the artifacts and give the run its status, the latter even when the former fails."""
        assert self._run is not None
        assert self._final_status is not None
        try:
            while self._artifacts:
                self._run.log_artifact(self._artifacts[0])
                self._artifacts.pop(0)
        finally:
            self._run.end(self._final_status)
        self._ended = True

    def _is_taken(self, request: Callable[[], None]) -> bool:
        """Make a request; False when the server will never take it, which is remembered. Other errors are raised."""
        try:
            request()
        except Exception as error:  # raised again unless it is a refusal
            if not is_refusal(error):
                raise
            with self._wake:
                self._refusal = _error_text(error)
            return False
        return True


def _error_text(error: Exception) -> str:
    text = _without_password(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:MAX_ERROR_CHARS]}"


def _without_password(text: str) -> str:
    """http://name:word@host/x -> http://host/x."""
    return re.sub(r"://[^/@\s]*@", "://", text)
