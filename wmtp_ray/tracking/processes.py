"""Records of a run's processes: process id, heartbeat and stacks on request, a file for each role in the run's folder.

    runs/<run_name>/processes/rank_1    what `RunProcess` holds
    runs/<run_name>/stacks/rank_1.txt   Python stacks of all its threads, once they were requested

A process that is recorded answers when it is asked for its stacks, even while it is blocked in C or waits for a lock
(`stacks.py`). One that is stopped does not answer; its file then says so. The time of a role's file is its latest
heartbeat. Nothing here knows other nodes: `actors/stalls.py` does.
"""

import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.stacks import StackAddress, answer_for_stacks, ask_for_stacks

GONE = "gone"
_SAME_START_S = 1.0  # two readings of one process's start differ by rounding; another process started later


@dataclass(frozen=True)
class RunProcess:
    """A process of a run. `is_ready` once it has loaded what it needs (scorers only)."""

    role: str
    pid: int
    host: str
    node_id: str
    started_s: float
    is_ready: bool
    stacks: StackAddress


def record_process(run_dir: Path, role: str, *, node_id: str, is_ready: bool = False) -> None:
    """Record this process under its role, replacing its predecessor, and make it able to write its stacks."""
    for folder in (RunFolder(run_dir).processes, RunFolder(run_dir).stacks):
        folder.mkdir(parents=True, exist_ok=True)
    stacks = answer_for_stacks(stack_file(run_dir, role))
    started_s = psutil.Process().create_time()
    text = (
        f"{os.getpid()} {socket.gethostname()} {node_id} {started_s:.3f} {int(is_ready)} {stacks.port} {stacks.word}\n"
    )
    atomic_write(RunFolder(run_dir).processes / role, text.encode())


def forget_processes(run_dir: Path) -> None:
    """Drop the records of an earlier start; its processes are gone and their ids may be reused."""
    for path in _record_files(run_dir):
        path.unlink(missing_ok=True)


def find_process(run_dir: Path, role: str) -> RunProcess | None:
    """Return the process recorded for a role, or None before it has started."""
    try:
        words = (RunFolder(run_dir).processes / role).read_text().split()
    except FileNotFoundError:
        return None
    pid, host, node_id, started_s, is_ready, port, word = words
    return RunProcess(role, int(pid), host, node_id, float(started_s), is_ready == "1", StackAddress(int(port), word))


def find_processes(run_dir: Path) -> list[RunProcess]:
    """Return all recorded processes, in the order of their roles."""
    found = [find_process(run_dir, path.name) for path in _record_files(run_dir)]
    return [process for process in found if process is not None]


def process_id(run_dir: Path, role: str) -> int:
    """Return the process id recorded for a role; raises FileNotFoundError before it has started."""
    return int((RunFolder(run_dir).processes / role).read_text().split()[0])


def show_life(run_dir: Path, role: str) -> None:
    """Update the heartbeat of a role: the time of its file."""
    with suppress(FileNotFoundError):  # the driver has restarted and forgotten this process
        os.utime(RunFolder(run_dir).processes / role)


def signs_of_life(run_dir: Path, prefix: str) -> dict[str, int]:
    """Return the latest heartbeat of each role that begins with `prefix`; compare only heartbeats of one role."""
    signs = {}
    for path in _record_files(run_dir):
        with suppress(FileNotFoundError):
            if path.name.startswith(prefix):
                signs[path.name] = path.stat().st_mtime_ns
    return signs


def state_here(process: RunProcess) -> str:
    """Return the system's state of a process of this host: running, sleeping, stopped, disk-sleep, gone."""
    try:
        found = psutil.Process(process.pid)
        if abs(found.create_time() - process.started_s) > _SAME_START_S:
            return GONE
        return GONE if found.status() == psutil.STATUS_ZOMBIE else str(found.status())
    except psutil.NoSuchProcess:
        return GONE


def kill_here(process: RunProcess) -> None:
    """SIGKILL a process of this host, stopped or not; does nothing when it is gone."""
    if state_here(process) != GONE:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def stack_file(run_dir: Path, role: str) -> Path:
    """Return where a role's stacks are."""
    return RunFolder(run_dir).stacks / f"{role}.txt"


def dump_stacks_here(run_dir: Path, processes: Iterable[RunProcess], reason: str) -> dict[str, str]:
    """Have processes of this host write their stacks, under a line that says when and why; return their states."""
    states = {}
    asked = []
    for process in processes:
        state = states[process.role] = state_here(process)
        path = stack_file(run_dir, process.role)
        _append(path, f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} process {process.pid}, {state}: {reason}\n")
        if state in (GONE, psutil.STATUS_STOPPED):
            _append(path, f"No stacks: the process is {state}.\n")
        else:
            asked.append((process.pid, process.stacks, path))
    ask_for_stacks(asked)
    return states


def drop_empty_stacks(run_dir: Path) -> None:
    """Remove the files of processes that were never asked."""
    for path in RunFolder(run_dir).stacks.glob("*.txt"):
        if path.stat().st_size == 0:
            path.unlink()
    with suppress(OSError):  # there are stacks in it, or it was never made
        RunFolder(run_dir).stacks.rmdir()


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _record_files(run_dir: Path) -> list[Path]:
    return sorted(path for path in RunFolder(run_dir).processes.glob("*") if not path.name.startswith("."))
