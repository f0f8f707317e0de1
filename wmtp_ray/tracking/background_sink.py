"""A sink that logs from a thread of its own, and that is dropped with one warning when its tracker fails.

| event | what happens |
|---|---|
| it opens | the tracker is opened, then gets what it lacks of metrics.jsonl and of the run's numbers |
| `log` | the step is queued; returns in microseconds |
| more steps wait than `MAX_WAITING_STEPS` | the queue is dropped; the steps come from metrics.jsonl |
| a step was sent before (a resumed run trains it again) | the tracker keeps the first one |
| the tracker raises, on whatever call | one warning with the remedy; the sink takes no more, the run goes on |
| `close` | the rest is sent and the run ended, within the deadline |

MLflow has a sink of its own, which tries again (`mlflow_sink.py`): its server comes back, these trackers write files or
have a queue of their own.
"""

import logging
import shlex
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wmtp_ray.tracking.metrics_file import Position
from wmtp_ray.tracking.mlflow_points import Recorded, recorded_in
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.run_numbers import run_numbers
from wmtp_ray.tracking.sink import lacks
from wmtp_ray.tracking.sink_thread import GATHER_S, MAX_WAITING_STEPS, SinkThread

_LOG = logging.getLogger(__name__)
MAX_FOUND_CHARS = 300


class TrackerRun(Protocol):
    """An open run of a tracker, synchronously: any call may raise and may take seconds."""

    def positions(self) -> Collection[Position]:
        """Return the steps that it has for sure; a step among them is not logged again."""

    def log(self, steps: Sequence[Recorded]) -> None:
        """Log steps, in their order."""

    def set_result(self, numbers: Mapping[str, float]) -> None:
        """Log numbers of the run as a whole; those that it has so are not logged twice."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Log tags, in place of those of the same names."""

    def add_artifact(self, path: Path) -> None:
        """Keep a file or folder, where it keeps files."""

    def end(self, status: RunStatus) -> None:
        """Write everything out and end the run."""


@dataclass(frozen=True)
class TrackerKind:
    """A tracker for one run: its title in messages, how its run is opened, what to do about an error or slowness."""

    title: str
    open: Callable[[], TrackerRun]
    remedy: Callable[[BaseException], str]
    when_slow: str = "raise deadlines.tracking_s"


class BackgroundSink(SinkThread):
    """Logs to the run of `tracker` from a background thread that starts at once; `run_dir` has its metrics.jsonl."""

    def __init__(self, tracker: TrackerKind, run_dir: Path) -> None:
        super().__init__(f"{tracker.title}-sink")
        self._tracker = tracker
        self._run_dir = run_dir
        self._waiting: list[Recorded] = []
        self._is_behind = True  # metrics.jsonl may have steps that are neither sent nor waiting
        self._sent: set[Position] = set()
        self._numbers: dict[str, float] = {}
        self._problem: str | None = None
        self._thread.start()

    def log(self, recorded: Recorded) -> None:
        """Queue a step that metrics.jsonl has."""
        with self._wake:
            if self._problem is not None:
                return
            if len(self._waiting) >= MAX_WAITING_STEPS:
                self._waiting, self._is_behind = [], True
            self._waiting.append(recorded)
            self._wake.notify_all()

    def set_result(self, metrics: Mapping[str, float]) -> None:
        """Queue numbers of the run as a whole."""
        with self._wake:
            self._numbers |= metrics
            self._wake.notify_all()

    def problems(self) -> list[str]:
        """Return why the tracker lacks something; empty while it takes everything."""
        if self._problem is not None:
            return [self._problem]
        if self._final_status is not None and self._thread.is_alive():
            return [self._lacks("was too slow for deadlines.tracking_s", self._tracker.when_slow)]
        return []

    def _work(self) -> None:
        """The thread: open, catch up, send what comes; ends after `start_closing`, or at the first failure."""
        try:
            run = self._tracker.open()
            self._sent |= set(run.positions())
            run.set_result(run_numbers(self._run_dir))
            while True:
                closing = self._final_status
                self._send(run)
                if closing is not None:
                    break
                self._pause(GATHER_S)
            for path in self._artifacts:
                run.add_artifact(path)
            run.end(closing)
        except (Exception, SystemExit) as error:  # the edge of the thread: whatever a tracker raises is kept and said
            self._drop(error)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._numbers or self._tags)

    def _send(self, run: TrackerRun) -> None:
        with self._wake:
            waiting, self._waiting = self._waiting, []
            numbers, self._numbers = self._numbers, {}
            tags, self._tags = self._tags, {}
            is_behind, self._is_behind = self._is_behind, False
        saved = recorded_in(self._run_dir) if is_behind else []
        new: dict[Position, Recorded] = {}
        for each in (*saved, *waiting):
            if each.position not in self._sent:
                new.setdefault(each.position, each)
        if new:
            run.log(list(new.values()))
            self._sent |= new.keys()
        if numbers:
            run.set_result(numbers)
        if tags:
            run.set_tags(tags)

    def _drop(self, error: BaseException) -> None:
        text = textwrap.shorten(str(error), MAX_FOUND_CHARS, placeholder=" ...")
        problem = self._lacks(f"failed ({type(error).__name__}: {text})", self._tracker.remedy(error))
        with self._wake:
            self._problem = problem
            self._waiting = []
        _LOG.warning("%s", problem)

    def _lacks(self, found: str, remedy: str) -> str:
        command = f"wmtp tracking sync {shlex.quote(str(self._run_dir))}"
        return (
            f"{lacks(self._tracker.title)} some of this run: it {found}. metrics.jsonl has every number. To fix it: "
            f"{remedy}. Then `{command}` sends what is missing"
        )
