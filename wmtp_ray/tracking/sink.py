"""What the tracker asks of a sink: a place that a run's numbers go to beside metrics.jsonl.

No call of a sink delays training or fails it. `open_sinks.py` lists those that there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wmtp_ray.tracking.mlflow_points import Recorded
from wmtp_ray.tracking.mlflow_run import RunStatus

TITLES = {"mlflow": "MLflow", "tensorboard": "TensorBoard", "wandb": "Weights & Biases", "trackio": "trackio"}


def lacks(title: str) -> str:
    """Return how a warning begins that a later sync makes untrue."""
    return f"{title} lacks"


LACKS = tuple(lacks(title) for title in TITLES.values())
RESULT = "result/"  # before the names of numbers of the run as a whole, where a tracker gives them a step
_STAGE = re.compile(r"stage(\d+)/")


def stage_of(key: str) -> int:
    """Return the stage that a metric's key is of (`mlflow_names.metric_key`): stage 2 has no prefix."""
    stage = _STAGE.match(key)
    return int(stage[1]) if stage else 2


class Sink(Protocol):
    """Takes what a run records; returns at once from everything but `close`."""

    def log(self, recorded: Recorded) -> None:
        """Take a step that metrics.jsonl has."""

    def set_result(self, metrics: Mapping[str, float]) -> None:
        """Take numbers of the run as a whole."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Take tags, in place of those of the same names."""

    def add_artifact(self, path: Path) -> None:
        """Have a file or folder kept when the run ends, where the tracker keeps files."""

    def problems(self) -> list[str]:
        """Return what was not recorded so far, in sentences for the user."""

    def start_closing(self, status: RunStatus) -> None:
        """Begin to send what waits and to end the run; `close` waits for it."""

    def close(self, status: RunStatus, deadline_s: float) -> None:
        """Send what waits and end the run; gives up after `deadline_s`."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers describe it. `project` groups runs; `params` are its settings by dotted key."""

    run_dir: Path
    storage_root: Path
    project: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
