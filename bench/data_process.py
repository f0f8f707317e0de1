"""Run a job of data_jobs.py in a fresh process and watch its whole process tree: memory and CPU of its children too.

Resident memory is summed over the tree every 50 ms, so pages that processes share, and pages of a mapped file, count as
often as they are mapped. The job's own peak comes from the kernel and is exact.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLE_S = 0.05
SAMPLES_PER_SEARCH = 4  # looking for new children reads all of /proc: 4 ms
JOBS_FILE = Path(__file__).with_name("data_jobs.py")
READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Measurement:
    """One job, or the median of several runs of it. `cpu_s` and `peak_bytes` are of all its processes together;
    `facts` holds what the job counted."""

    wall_s: float
    cpu_s: float
    peak_bytes: float
    facts: dict[str, float]


def run_job(job: str, **arguments: Any) -> Measurement:
    """Run one job to its end; ends the bench when it fails (its message is on stderr)."""
    command = [sys.executable, str(JOBS_FILE), job, json.dumps(arguments, default=str)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        peak_bytes, children_cpu_s = _watch(process)
        printed = process.stdout.read() if process.stdout is not None else b""
    if process.returncode:
        raise SystemExit(f"the job {job} ended with code {process.returncode}")
    facts = json.loads(printed)
    return Measurement(
        wall_s=facts.pop("wall_s", 0.0),
        cpu_s=facts.pop("cpu_s", 0.0) + children_cpu_s,
        peak_bytes=max(peak_bytes, facts.pop("peak_bytes")),
        facts=facts,
    )


def _watch(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Sample a process and its descendants until it ends: the largest sum of resident bytes, and the descendants' CPU
    seconds as last seen."""
    root = psutil.Process(process.pid)
    children: dict[int, psutil.Process] = {}
    cpu_s: dict[int, float] = {}
    peak_bytes = sample = 0
    while process.poll() is None:
        if sample % SAMPLES_PER_SEARCH == 0:
            children |= {child.pid: child for child in _children(root)}
        peak_bytes = max(peak_bytes, sum(_sampled(each, cpu_s) for each in (root, *children.values())))
        sample += 1
        time.sleep(SAMPLE_S)
    return peak_bytes, sum(seconds for pid, seconds in cpu_s.items() if pid != process.pid)


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _sampled(process: psutil.Process, cpu_s: dict[int, float]) -> int:
    """Note a process's CPU seconds and return its resident bytes; 0 when it has ended."""
    try:
        with process.oneshot():
            times = process.cpu_times()
            cpu_s[process.pid] = times.user + times.system
            return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def median_of(measurements: Sequence[Measurement]) -> Measurement:
    """Combine several runs: medians, but the largest peak."""
    return Measurement(
        wall_s=statistics.median(each.wall_s for each in measurements),
        cpu_s=statistics.median(each.cpu_s for each in measurements),
        peak_bytes=max(each.peak_bytes for each in measurements),
        facts=measurements[-1].facts,
    )


def warm(*paths: Path) -> None:
    """Read files once, so that they come from the page cache afterwards."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
