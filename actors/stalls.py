"""Handle a wait that passed its deadline: report the state of each process, dump all stacks, kill hung processes.

| here                | what it does                                                                          |
|---------------------|---------------------------------------------------------------------------------------|
| `report_stall`      | a warning in the log, all stacks into stacks/, on every node                          |
| `limited`           | a block of this process that cannot be given a timeout: past it, report and kill self |
| `ScorerWatch`       | finds the process of a scorer, and has it restarted                                   |
| `kill_processes`    | SIGKILL on every node; Ray starts actors again                                        |

A restart is always safe: scores are pinned to versions, ranks go on from a checkpoint.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.processes import (
    GONE,
    RunProcess,
    dump_stacks_here,
    find_process,
    find_processes,
    kill_here,
    record_process,
)
from wmtp_ray.tracking.run_log import open_log

_LOG = logging.getLogger(__name__)
_NODE_ANSWERS_S = 30.0


def enter_run(run_dir: Path, role: str, *, is_ready: bool = False, is_announced: bool = True) -> None:
    """Record this process of the run (see `record_process`), with the Ray node that it is on, and open its log.

    `is_announced`: whether the log says so; readers come and go.
    """
    record_process(run_dir, role, node_id=_own_node(), is_ready=is_ready)
    if open_log(run_dir, role) and is_announced:
        _LOG.info("Process %d on %s, Ray node %s", os.getpid(), socket.gethostname(), _own_node()[:8])
    elif is_ready:
        _LOG.info("Ready")


def report_stall(run_dir: Path, what: str) -> dict[str, str]:
    """Have every process of the run write its stacks; note what was waited for; return the states of all roles."""
    states: dict[str, str] = {}
    with suppress(OSError):  # a disk that takes no stacks must not hide what they are for
        states = _on_every_node(dump_on_node, run_dir, find_processes(run_dir), what)
    # Readers come and go with Ray Data's work.
    states = {role: state for role, state in states.items() if not (role.startswith("reader_") and state == GONE)}
    listed = ", ".join(f"{role} {state}" for role, state in sorted(states.items()))
    _LOG.warning("%s (%s; stacks in %s/)", what, listed, RunFolder(run_dir).stacks.name)
    return states


def kill_processes(run_dir: Path, prefix: str) -> None:
    """SIGKILL the recorded processes whose roles begin with `prefix`."""
    _on_every_node(kill_on_node, run_dir, [each for each in find_processes(run_dir) if each.role.startswith(prefix)])


@contextmanager
def limited(run_dir: Path, what: str, deadline_s: float) -> Iterator[None]:
    """Run a block that may block for ever in the system; past the deadline this process reports and kills itself."""

    def expire() -> None:
        try:
            report_stall(run_dir, f"{what} took more than {deadline_s:.0f} s; the process that did it is killed")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    timer = threading.Timer(deadline_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True)
class ScorerWatch:
    """The scorers of a pool: their actors, and the roles their processes are recorded under."""

    run_dir: Path
    actors: tuple[Any, ...]
    roles: tuple[str, ...]

    def process(self, scorer: int) -> RunProcess | None:
        """Return the process of a scorer, or None before it has started."""
        return find_process(self.run_dir, self.roles[scorer])

    def replace(self, scorer: int, hung: RunProcess | None, what: str) -> None:
        """Report, then end a scorer's process unless it is gone or another than `hung` by now; Ray starts the next."""
        state = report_stall(self.run_dir, what).get(self.roles[scorer])
        current = self.process(scorer)
        if hung is not None and current is not None and current.pid == hung.pid and state != GONE:
            _LOG.info("%s is killed; Ray starts it again", self.roles[scorer])
            ray.kill(self.actors[scorer], no_restart=False)


def dump_on_node(run_dir: Path, processes: Sequence[RunProcess], what: str) -> dict[str, str]:
    """Part of `report_stall` for the processes of one node."""
    return dump_stacks_here(run_dir, processes, what)


def kill_on_node(run_dir: Path, processes: Sequence[RunProcess]) -> dict[str, str]:
    """Part of `kill_processes` for the processes of one node."""
    for process in processes:
        kill_here(process)
    return {process.role: "killed" for process in processes}


def _on_every_node(part: Any, run_dir: Path, processes: Sequence[RunProcess], *arguments: Any) -> dict[str, str]:
    """Call `part` on the node of each process; here directly, elsewhere as a Ray task."""
    results: dict[str, str] = {}
    own_node = _own_node()
    for node_id, group in groupby(sorted(processes, key=lambda each: each.node_id), key=lambda each: each.node_id):
        members = list(group)
        if node_id == own_node:
            results |= part(run_dir, members, *arguments)
            continue
        task = ray.remote(part).options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        )
        try:
            results |= ray.get(task.remote(run_dir, members, *arguments), timeout=_NODE_ANSWERS_S)
        except RayError:
            results |= {process.role: f"on node {node_id[:8]}, which does not answer" for process in members}
    return results


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())
