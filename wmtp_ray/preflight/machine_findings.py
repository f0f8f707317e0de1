"""What `wmtp doctor` looks at on the machine itself: cores, memory, GPUs, versions, the judge.

Each function returns findings and raises nothing for what it finds. Starts no Ray; torch is imported only where a GPU's
driver is present.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from wmtp_ray.config.layers import CONFIG_DIR
from wmtp_ray.errors import SandboxError
from wmtp_ray.training.estimate.hardware import GIB, Card, machine_memory_bytes

CONSTRAINTS = CONFIG_DIR.parent / "constraints.txt"
PACKAGES = ("torch", "ray", "mlflow", "numpy", "pyarrow", "pydantic", "omegaconf", "orjson", "sentencepiece")
_LOWEST_PYTHON = (3, 11)
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED_BYTES = GIB


@dataclass(frozen=True)
class Finding:
    """One thing looked at: a `problem` stops a run, a `warning` may slow it or surprise; `remedy` says what to do."""

    level: Literal["ok", "warning", "problem"]
    subject: str
    found: str
    remedy: str = ""


def look_at_machine(cards: list[Card]) -> list[Finding]:
    """Cores, memory, shared memory and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = Finding("ok", "machine", f"{cores} cores, {machine_memory_bytes() / GIB:.1f} GiB of memory")
    gpus = ", ".join(f"{card.name} ({card.memory_bytes / GIB:.0f} GiB)" for card in cards) or "none"
    return [memory, *_look_at_shared_memory(), Finding("ok", "GPUs", gpus)]


def _look_at_shared_memory() -> list[Finding]:
    if not _SHARED_MEMORY.is_dir():
        return []
    total = shutil.disk_usage(_SHARED_MEMORY).total
    found = f"{total / GIB:.1f} GiB in {_SHARED_MEMORY}"
    if total >= _LEAST_SHARED_BYTES:
        return [Finding("ok", "shared memory", found)]
    remedy = "Ray's object store would go to disk: start the container with --shm-size=4g"
    return [Finding("warning", "shared memory", found, remedy)]


def find_cards() -> list[Card]:
    """Return the CUDA devices with their memory; their peaks are not asked for (0)."""
    if not any(driver.exists() for driver in _DRIVERS):
        return []
    import torch  # seconds: only where there may be a GPU

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [Card(each.name, float(each.total_memory), 0.0, 0.0) for each in properties]


def look_at_versions(constraints: Path = CONSTRAINTS) -> list[Finding]:
    """Python, and the packages that matter against the versions that the tests pass with."""
    found = ".".join(map(str, sys.version_info[:3]))
    python = Finding("ok", "Python", found)
    if sys.version_info[:2] < _LOWEST_PYTHON:
        python = Finding("problem", "Python", found, "use Python 3.11 or newer")
    pinned = _pinned(constraints)
    return [python, *(_look_at_package(name, pinned.get(name)) for name in PACKAGES)]


def _pinned(constraints: Path) -> dict[str, str]:
    if not constraints.is_file():
        return {}
    lines = [line.strip() for line in constraints.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def _look_at_package(name: str, pinned: str | None) -> Finding:
    install = "pip install -c constraints.txt -e ."
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding("problem", name, "not installed", install)
    if pinned is not None and found.partition("+")[0] != pinned:
        return Finding("warning", name, f"{found}, tested with {pinned}", install)
    return Finding("ok", name, found)


def look_at_judge() -> list[Finding]:
    """Find by trying the isolation that this machine gives to model-written programs."""
    from wmtp_ray.evaluation.judge import Judge

    try:
        with Judge(num_workers=1) as judge:
            return [Finding("ok", "judge", f"isolation level {judge.isolation_level}")]
    except SandboxError as error:
        return [Finding("warning", "judge", str(error), "training works; evaluation of programs does not, here")]
