"""A run in trackio's local database: `trackio show --project wmtp_ray` draws it, `trackio sync` sends it to a Space.

The database is in TRACKIO_DIR, else in `<storage>/trackio`. Which steps it has is read from it. Tested with
trackio 0.43.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import TrackingError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import Position
from wmtp_ray.tracking.mlflow_names import allowed_key, metric_key
from wmtp_ray.tracking.mlflow_points import Recorded
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.sink import RESULT, TrackedRun, stage_of

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
_OF_TRACKIO = ("step", "timestamp")


class TrackioRun:
    """The run in the database, open for more."""

    def __init__(self, run: TrackedRun) -> None:
        if named := [name for name in _REMOTE if os.environ.get(name)]:
            raise TrackingError(
                f"{' and '.join(named)} is set, expected none: steps go to a local database, so that a resumed run "
                "finds which ones are there"
            )
        os.environ.setdefault("TRACKIO_DIR", str(run.storage_root / "trackio"))
        import trackio  # reads TRACKIO_DIR once

        self._name, self._project = run.name, allowed_key(run.project).replace("/", "_")
        saved_id = RunFolder(run.run_dir).trackio_run_id
        with redirect_stdout(StringIO()):  # where the dashboard is; the run's own console has no room for it
            self._run: trackio.Run = trackio.init(
                project=self._project,
                name=run.name,
                config=dict(run.params) | {f"tags.{key}": text for key, text in run.tags.items()},
                resume="allow" if saved_id.is_file() else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        atomic_write(saved_id, self._run.id.encode())
        self._sent: set[Position] = set()
        self._numbers: dict[str, float] = {}
        for row in self._rows():
            self._note(row)

    def positions(self) -> Collection[Position]:
        """Return the steps that the database has."""
        return set(self._sent)

    def log(self, steps: Sequence[Recorded]) -> None:
        """Log steps; trackio writes them from a thread of its own."""
        for each in steps:
            if values := {point.key: point.value for point in each.points}:
                self._run.log(values, step=each.report.step)
                self._sent.add(each.position)

    def set_result(self, numbers: Mapping[str, float]) -> None:
        """Log numbers of the run as a whole at step 0, those that changed."""
        named = {f"{RESULT}{metric_key(key, 2)}": float(value) for key, value in numbers.items()}
        changed = {key: value for key, value in named.items() if repr(value) != repr(self._numbers.get(key))}
        if changed:
            self._run.log(changed, step=0)
            self._numbers |= changed

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing: trackio takes settings when a run is opened, and has the tags of then."""

    def add_artifact(self, path: Path) -> None:
        """Keep a file, or a folder with all below it, as an artifact of the run's and its own name."""
        import trackio

        artifact = trackio.Artifact(re.sub(r"[^\w.-]", "_", f"{self._name}-{path.name}"), type="run")
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, status: RunStatus) -> None:
        """Write everything out; TrackingError when the database then lacks a step: trackio itself raises nothing."""
        with redirect_stdout(StringIO()):
            self._run.finish()
        sent, self._sent = self._sent, set()
        for row in self._rows():
            self._note(row)
        if lacking := sent - self._sent:
            raise TrackingError(f"the database in {os.environ['TRACKIO_DIR']} did not take {len(lacking):,} steps")

    def _rows(self) -> list[dict[str, Any]]:
        from trackio.sqlite_storage import SQLiteStorage

        rows: list[dict[str, Any]] = SQLiteStorage.get_logs(self._project, self._name, run_id=self._run.id)
        return rows

    def _note(self, row: Mapping[str, Any]) -> None:
        """Remember what a row of the database holds."""
        keys = [key for key in row if key not in _OF_TRACKIO]
        if not keys:
            return
        if keys[0].startswith(RESULT):
            self._numbers |= {key: float(row[key]) for key in keys}
            return
        self._sent.add((stage_of(keys[0]), int(row["step"])))


def remedy(error: BaseException) -> str:
    """Return what to do about an error of this sink."""
    if isinstance(error, TrackingError) and "is set" in str(error):
        return "unset it, and send the database afterwards with `trackio sync`"
    return "make the folder of TRACKIO_DIR (storage_root/trackio) writable, with room in it"
