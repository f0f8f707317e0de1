"""A sweep read from its folder: sweep.json, and the runs of its trials that left anything. Ranks nothing itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.report.saved_run import SavedRun, is_run, read_run
from wmtp_ray.run_folder import SweepFolder
from wmtp_ray.tracking.sweep_result import SavedPoint, SavedTrial, read_sweep


@dataclass(frozen=True)
class SavedSweep:
    """sweep.json, and the trials' runs by the number of their point."""

    name: str
    metric: str
    mode: str
    search: str
    space: dict[str, Any]
    verdict: str
    interval: str
    shared: tuple[str, ...]
    points: tuple[SavedPoint, ...]
    unfinished: tuple[tuple[str, str, str], ...]
    runs: dict[int, tuple[SavedRun, ...]]


def is_sweep(path: Path) -> bool:
    """Whether a folder belongs to a sweep that has begun."""
    return SweepFolder(path).result.is_file()


def read_saved_sweep(path: Path) -> SavedSweep:
    """Read a sweep's folder; ArtifactError for a file of another form."""
    content = read_sweep(path)
    return SavedSweep(
        name=path.name,
        metric=content.objective.metric,
        mode=content.objective.mode,
        search=content.search,
        space=content.space,
        verdict=content.verdict,
        interval=content.interval,
        shared=content.shared,
        points=content.points,
        unfinished=tuple(
            (each.name, each.status, each.stop_reason or "") for each in content.trials if each.status != "finished"
        ),
        runs=_runs(path, content.trials),
    )


def _runs(path: Path, trials: Sequence[SavedTrial]) -> dict[int, tuple[SavedRun, ...]]:
    runs: dict[int, tuple[SavedRun, ...]] = {}
    for trial in trials:
        folder = path / trial.run_dir
        if is_run(folder):
            runs[trial.point] = (*runs.get(trial.point, ()), read_run(folder, trial.name))
    return runs
