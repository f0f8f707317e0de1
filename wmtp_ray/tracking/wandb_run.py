"""A run in Weights & Biases: with its server (WANDB_API_KEY in the environment), or offline in `<run>/wandb`.

Its id is made once and saved in the run's folder, so that a resumed run continues there. A step's place in W&B's
history is its number in the order of metrics.jsonl, and the x-axis of its metrics is `step` (`stage1/step`,
`stage3/step`): W&B takes every place once. Online, places that the server has are skipped; offline, where no server can
be asked, the run's file is written anew from metrics.jsonl and replaces those of earlier starts.

Tested with wandb 0.31 offline, and online against a server that does not answer; not with a server.
"""

import os
import shutil
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from wmtp_ray.config.machine import WandbMode
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import Position
from wmtp_ray.tracking.mlflow_names import metric_key
from wmtp_ray.tracking.mlflow_points import Recorded
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.sink import TrackedRun

OFFLINE_SETTING = "tracking.wandb_mode=offline"
WHEN_SLOW = f"check the network and WANDB_BASE_URL, raise deadlines.tracking_s, or set {OFFLINE_SETTING}"
INIT_TIMEOUT_S = 45.0  # below deadlines.tracking_s: a server that is not there is an error that says so
_OTHER_STAGES = ("stage1/", "stage3/")  # with a step of their own


class WandbRun:
    """The run, open for more; `mode` None: as WANDB_MODE says, else online."""

    def __init__(self, run: TrackedRun, mode: WandbMode | None) -> None:
        import wandb

        folder = RunFolder(run.run_dir)
        earlier = [path for path in folder.wandb.glob("offline-run-*") if path.is_dir()]
        chosen: Any = mode or os.environ.get("WANDB_MODE") or "online"  # the environment may say `disabled` too
        self._run_dir = run.run_dir
        self._run: wandb.Run = wandb.init(
            project=run.project,
            name=run.name,
            id=_saved_id(folder),
            resume="allow",
            dir=run.run_dir,
            config=dict(run.params),
            mode=chosen,
            force=chosen == "online",  # without a key: an error, not a run that is quietly kept offline
            settings=wandb.Settings(
                console="off",
                init_timeout=INIT_TIMEOUT_S,
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._num_there = self._run.step  # places that the server has
        self._num_steps = 0
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        for stage in _OTHER_STAGES:
            self._run.define_metric(f"{stage}step", hidden=True)
            self._run.define_metric(f"{stage}*", step_metric=f"{stage}step")
        self.set_tags(run.tags)
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)

    def positions(self) -> Collection[Position]:
        """Return nothing: every step is offered again, in its order, and skipped where the server has its place."""
        return ()

    def log(self, steps: Sequence[Recorded]) -> None:
        """Log steps at the next places of the history."""
        for each in steps:
            place, self._num_steps = self._num_steps, self._num_steps + 1
            if place < self._num_there:
                continue
            values: dict[str, float] = {point.key: point.value for point in each.points}
            values |= {metric_key("step", each.report.stage): each.report.step, "_timestamp": each.time_ms / 1000}
            self._run.log(values, step=place)

    def set_result(self, numbers: Mapping[str, float]) -> None:
        """Set numbers of the run's summary."""
        self._run.summary.update({metric_key(key, 2): float(value) for key, value in numbers.items()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags as settings under `tags`: W&B's own tags are words without a value."""
        self._run.config.update({f"tags.{key}": text for key, text in tags.items()}, allow_val_change=True)

    def add_artifact(self, path: Path) -> None:
        """Have the run keep a file, or all files of a folder, under the run's name."""
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            self._run.save(str(file), base_path=str(self._run_dir.parent), policy="now")

    def end(self, status: RunStatus) -> None:
        """Send everything and end the run; one that is not FINISHED is shown as failed."""
        import wandb

        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
        wandb.teardown()  # W&B's own process writes the file out after `finish` has returned: wait until it has ended


def remedy(error: BaseException) -> str:
    """Return what to do about an error of this sink."""
    text = str(error).lower()
    if "api key" in text or "api_key" in text or "permission" in text or "401" in text:
        return f"set WANDB_API_KEY in the environment of the run (of its cluster), or {OFFLINE_SETTING}"
    if "deleted" in text:
        return f"remove the file {RunFolder(Path()).wandb_run_id} of the run's folder, which starts a new W&B run"
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return "make room in the run's folder and make it writable"
    return f"check the network and WANDB_BASE_URL, or set {OFFLINE_SETTING}"


def _saved_id(folder: RunFolder) -> str:
    """Return the run's id, made and saved at its first start."""
    if not folder.wandb_run_id.is_file():
        atomic_write(folder.wandb_run_id, uuid.uuid4().hex[:16].encode())
    return folder.wandb_run_id.read_text()
