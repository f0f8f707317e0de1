"""Log to MLflow without delaying training: a background thread talks to the server; its failures never reach training.

| event | what happens |
|---|---|
| `log` | the step is queued; returns in microseconds |
| MLflow does not answer, or takes nothing | a warning says so; tried again after 1, 2, 4, .. 30 s |
| it takes again | what it lacks is sent from metrics.jsonl; a warning says so |
| a run is continued | what MLflow lacks of metrics.jsonl is sent first |
| MLflow refuses a tag, parameter or point | that alone is left out and counted (`mlflow_run`) |
| `close` | one last attempt, at most `deadline_s`; FINISHED only when nothing is missing |

metrics.jsonl has every number in any case; `problems()` says what MLflow lacks.
"""

import logging
import shlex
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import Position
from wmtp_ray.tracking.mlflow_errors import Cause, cause_of, without_password
from wmtp_ray.tracking.mlflow_points import Recorded, batches, milliseconds, number_points, recorded_in
from wmtp_ray.tracking.mlflow_run import MetricPoint, MlflowRun, MlflowTarget
from wmtp_ray.tracking.sink import TITLES, lacks
from wmtp_ray.tracking.sink_thread import GATHER_S, MAX_WAITING_STEPS, SinkThread

_LOG = logging.getLogger(__name__)
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
MISSING = lacks(TITLES["mlflow"])


@dataclass
class _Outage:
    """A time in which every attempt to log failed. It is reported from the second failure on, so a short one is not."""

    cause: Cause
    began_s: float = field(default_factory=time.time)
    is_told: bool = False


class MlflowSink(SinkThread):
    """Logs to the run of `target` from a background thread that starts at once; `run_dir` has its metrics.jsonl."""

    def __init__(self, target: MlflowTarget, run_dir: Path) -> None:
        super().__init__("mlflow-sink")
        self._target = target
        self._run_dir = run_dir
        self._run: MlflowRun | None = None
        self._waiting: deque[Recorded] = deque(maxlen=MAX_WAITING_STEPS)
        self._numbers: dict[str, MetricPoint] = {}
        self._began_ms = milliseconds(time.time())
        self._sent: set[Position] = set()  # steps that MLflow has, for sure
        self._is_behind = True  # metrics.jsonl may have steps that are neither sent nor waiting
        self._num_points_sent = 0
        self._artifact_failure: str | None = None
        self._outage: _Outage | None = None
        self._ended = False
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of every attempt; we tell an outage once
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The MLflow run, for checkpoints; the one to continue before the server has answered, None for a new one."""
        return self._run.run_id if self._run is not None else self._target.run_id

    def log(self, recorded: Recorded) -> None:
        """Queue a step that metrics.jsonl has. Of a long outage the oldest leave the queue, and come from the file."""
        with self._wake:
            self._is_behind = self._is_behind or len(self._waiting) == MAX_WAITING_STEPS
            self._waiting.append(recorded)
            self._wake.notify_all()

    def set_result(self, metrics: Mapping[str, float]) -> None:
        """Queue final numbers, which have no step."""
        points = number_points(metrics, time.time_ns() // 1_000_000)
        with self._wake:
            self._numbers |= {point.key: point for point in points}
            self._wake.notify_all()

    def problems(self) -> list[str]:
        """Return what MLflow lacks now and which values differ there; empty when it is up to date."""
        with self._wake:
            notes = list(self._run.notes) if self._run is not None else []
            cause = self._cause()
        changes = [f"MLflow at {self._address}: {'; '.join(notes)}"] if notes else []
        if cause is None:
            return changes
        command = f"wmtp tracking sync {shlex.quote(str(self._run_dir))}"
        return [
            f"{MISSING} {self._missing()} of this run: MLflow at {self._address} {cause.found}. metrics.jsonl has "
            f"every number. To fix it: {cause.remedy}. Then `{command}` sends what is missing",
            *changes,
        ]

    @property
    def _address(self) -> str:
        return without_password(self._target.uri)

    def _cause(self) -> Cause | None:
        if self._outage is not None:
            return self._outage.cause
        if self._final_status is not None and not self._ended:
            return Cause("was too slow for deadlines.tracking_s", "wait until it is less busy")
        if self._run is not None and self._run.lost.total():
            return Cause(self._run.refusal or "refused some", "the log of the server may say more")
        if self._artifact_failure is not None:
            return Cause(self._artifact_failure, "make the artifact location of that experiment writable")
        return None

    def _missing(self) -> str:
        """Count missing items by kind; nothing is known of a server that never answered."""
        run, recorded = self._run, recorded_in(self._run_dir)
        with self._wake:
            left = [each for each in recorded if each.position not in self._sent]
            counts = Counter(metric=sum(len(each.report.metrics) for each in left) + len(self._numbers))
            counts["artifact"] = len(self._artifacts)
            counts += run.lost if run is not None else Counter()
        described = MlflowRun.described(self._target) if run is None else (run.num_params, run.num_tags)
        counts["parameter"] += described[0]
        counts["tag"] += described[1] + len(self._tags)
        words = counted(counts)
        if self._final_status is not None and not (self._ended and self._is_whole()):
            words = f"{words}, the status {self._final_status}" if words else f"the status {self._final_status}"
        is_known = run is not None or self._target.run_id is None
        return ("" if is_known else "at most ") + words

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
            self._pause(pause_s)

    def _has_work(self) -> bool:
        """While MLflow is away there is always something: to find out when it is back."""
        return bool(self._waiting or self._numbers or self._tags or self._outage)

    def _attempt(self, *, closing: bool) -> bool:
        """Send everything that waits, and end the run when closing; False when the server did not take it."""
        before = self._num_points_sent
        try:
            self._send()
            self._tell_end(self._num_points_sent - before)
            if closing:
                self._end()
        except Exception as error:  # the edge of the thread: whatever MLflow raises is kept and said
            self._tell_begin(cause_of(error, self._target.uri))
            return False
        return True

    def _tell_begin(self, cause: Cause) -> None:
        with self._wake:
            is_first = self._outage is None
            outage = self._outage = self._outage or _Outage(cause)
            outage.cause = cause
            if is_first or outage.is_told:
                return
            outage.is_told = True
        since = time.strftime("%H:%M:%S", time.localtime(outage.began_s))
        _LOG.warning(
            f"MLflow at {self._address} {cause.found}, since {since}. Training goes on, metrics.jsonl has every "
            f"number, and MLflow gets what it lacks when it is back. To fix it: {cause.remedy}"
        )

    def _tell_end(self, num_sent: int) -> None:
        with self._wake:
            outage, self._outage = self._outage, None
        if outage is not None and outage.is_told:
            away_s = time.time() - outage.began_s
            waited = f"{num_sent:,} metrics that waited are sent"
            _LOG.warning(f"MLflow at {self._address} is back after {away_s:.0f} s: {waited}")

    def _send(self) -> None:
        run = self._opened()
        with self._wake:
            tags, self._tags = self._tags, {}
        run.add_tags(tags)
        run.log_params()
        if self._is_behind:
            self._catch_up(run)
        while self._waiting:
            with self._wake:
                waiting = list(self._waiting)
            for batch in batches(waiting):
                self._send_steps(run, batch)
                with self._wake:
                    while self._waiting and self._waiting[0].position in self._sent:
                        self._waiting.popleft()
        self._send_numbers(run)

    def _opened(self) -> MlflowRun:
        if self._run is None:
            run = MlflowRun.open(self._target)
            atomic_write(RunFolder(self._run_dir).mlflow_run_id, run.run_id.encode())
            run.set_running()
            self._run = run
        return self._run

    def _catch_up(self, run: MlflowRun) -> None:
        """Send the steps of metrics.jsonl that MLflow lacks."""
        with self._wake:
            self._is_behind = False
        recorded = recorded_in(self._run_dir)
        try:
            for is_earlier in (True, False):
                steps = [each for each in recorded if (each.time_ms < self._began_ms) is is_earlier]
                num_sent = sum(self._send_steps(run, batch) for batch in batches(steps))
                if is_earlier and num_sent and self._outage is None:
                    _LOG.warning(
                        f"MLflow lacked {num_sent:,} metrics of earlier steps; they are sent from metrics.jsonl"
                    )
        except BaseException:
            self._is_behind = True
            raise

    def _send_steps(self, run: MlflowRun, steps: list[Recorded]) -> int:
        """Send what MLflow lacks of some steps; return how many points these were."""
        new = [each for each in steps if each.position not in self._sent]
        points = run.lacking([point for each in new for point in each.points])
        run.log_metrics(points)
        with self._wake:
            self._sent |= {each.position for each in new}
            self._num_points_sent += len(points)
        return len(points)

    def _send_numbers(self, run: MlflowRun) -> None:
        with self._wake:
            numbers = dict(self._numbers)
        run.log_metrics(run.lacking(list(numbers.values())))
        with self._wake:
            self._numbers = {key: point for key, point in self._numbers.items() if numbers.get(key) != point}

    def _end(self) -> None:
        """Upload the artifacts, each for itself, and give the run its status; FINISHED only when it has every point."""
        assert self._run is not None
        assert self._final_status is not None
        failed: list[Path] = []
        for path in self._artifacts:
            try:
                self._run.log_artifact(path)
            except Exception as error:  # the others may be taken
                failed.append(path)
                reason = " ".join(str(error).split())
                self._artifact_failure = f"did not take {path.name} ({type(error).__name__}: {reason})"
        self._artifacts = failed
        if self._is_whole():
            self._run.end(self._final_status)
        self._ended = True

    def _is_whole(self) -> bool:
        """Whether the final status may be set: FINISHED only when every point is there."""
        return self._final_status != "FINISHED" or self._run is None or not self._run.lost["metric"]


def counted(counts: Mapping[str, int]) -> str:
    """Write counts by kind: 31 metrics, 1 tag."""
    return ", ".join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in counts.items() if count)
