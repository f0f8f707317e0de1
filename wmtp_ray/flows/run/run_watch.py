"""The driver's watchdog of a running stage: the newest report, new warnings, and processes whose heartbeat is overdue.

| silent                    | after                 | then                                                             |
|---------------------------|-----------------------|------------------------------------------------------------------|
| all ranks                 | `deadlines.step_s`    | stacks; they are killed, Ray Train restarts them                 |
| still, after that         | `deadlines.step_s`    | the run fails                                                    |
| the metrics actor         | `deadlines.tracking_s`| stacks; it is killed, Ray restarts it with its pending calls     |
| the ranks, asked to stop  | `deadlines.stop_s`    | stacks; the run ends with the last checkpoint                    |

Ranks time out their own waits (`actors/`); this watchdog covers a process that cannot: one that is stopped, or blocked
in a call.
"""

import logging
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from actors.stalls import kill_processes, report_stall
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.errors import Interrupted, TrainingError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.processes import signs_of_life
from wmtp_ray.tracking.run_warnings import RunWarnings

_LOG = logging.getLogger(__name__)
_RANKS = "rank_"


class RunWatch:
    """Watchdog of a stage: call `look` often, it acts on silent processes; `latest` returns the newest report."""

    def __init__(self, config: RunConfig, metrics: Any, warned: RunWarnings) -> None:
        self._run_dir = config.run_dir
        self._deadlines = config.deadlines
        self._metrics = metrics
        self._warned = warned
        self._asked: Any = None
        self._latest: StepReport | None = None
        self._metrics_limit_s = config.deadlines.start_s + config.deadlines.tracking_s
        self._metrics_heard_s = time.monotonic()
        self.begin_stage()

    def begin_stage(self) -> None:
        """Start the deadline of the ranks' heartbeat now."""
        self._signs = signs_of_life(self._run_dir, _RANKS)
        self._ranks_heard_s = time.monotonic()
        self._ranks_were_killed = False
        self._stop_seen_s: float | None = None

    def look(self) -> list[str]:
        """Act on processes that are silent for too long; return new warnings. Raises TrainingError or Interrupted."""
        self._look_at_ranks()
        self._look_at_stop()
        return self._warned.new()

    def latest(self, wait_s: float) -> StepReport | None:
        """Return the newest report of the metrics actor, waiting for its answer for at most `wait_s`."""
        if self._asked is None:
            self._asked = self._metrics.latest.remote()
        answered, _ = ray.wait([self._asked], timeout=wait_s)
        if not answered:
            if time.monotonic() - self._metrics_heard_s > self._metrics_limit_s:
                self.replace_metrics("The metrics actor")
            return self._latest
        with suppress(RayError):  # it is asked again at the next look
            self._latest = ray.get(self._asked)
        self._asked, self._metrics_heard_s = None, time.monotonic()
        self._metrics_limit_s = self._deadlines.tracking_s
        return self._latest

    def replace_metrics(self, what: str) -> None:
        """End the process of the metrics actor; Ray starts another, which opens the same files."""
        report_stall(self._run_dir, f"{what} did not answer within {self._metrics_limit_s:.0f} s; it is restarted")
        ray.kill(self._metrics, no_restart=False)
        self._metrics_heard_s = time.monotonic()
        self._metrics_limit_s = self._deadlines.start_s + self._deadlines.tracking_s

    def _look_at_ranks(self) -> None:
        signs, now_s = signs_of_life(self._run_dir, _RANKS), time.monotonic()
        if signs != self._signs:
            self._signs, self._ranks_heard_s, self._ranks_were_killed = signs, now_s, False
            return
        if now_s - self._ranks_heard_s < self._deadlines.step_s:
            return
        what = f"No rank sent a heartbeat within {self._deadlines.step_s:.0f} s (deadlines.step_s)"
        report_stall(self._run_dir, what)
        if self._ranks_were_killed:
            raise TrainingError(
                f"{what}, and none came back after they were killed. Stacks: {RunFolder(self._run_dir).stacks}; "
                "--resume continues from the last checkpoint"
            )
        kill_processes(self._run_dir, _RANKS)
        self._ranks_heard_s, self._ranks_were_killed = now_s, True

    def _look_at_stop(self) -> None:
        if not RunFolder(self._run_dir).stop_request.exists():
            return
        if self._stop_seen_s is None:
            self._stop_seen_s = time.monotonic()
            _LOG.info("A stop is asked for: the ranks checkpoint after their step")
        if time.monotonic() - self._stop_seen_s > self._deadlines.stop_s:
            what = f"The ranks did not checkpoint within {self._deadlines.stop_s:.0f} s (deadlines.stop_s) of the stop"
            report_stall(self._run_dir, what)
            raise Interrupted(f"{what}; the run continues from the checkpoint before")
