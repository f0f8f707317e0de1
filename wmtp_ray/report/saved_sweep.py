"""A sweep as its folder tells it: sweep.json, and the runs of its trials that left anything. Ranks nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.errors import ArtifactError
from wmtp_ray.report.saved_run import SavedRun, is_run, read_run
from wmtp_ray.run_folder import SweepFolder
from wmtp_ray.tracking.sweep_result import read_sweep


@dataclass(frozen=True)
class SweepPoint:
    """A point over its seeds, from best to worst; `mean` is None where no seed finished with the objective."""

    number: int
    overrides: dict[str, Any]
    mean: float | None
    low: float | None
    high: float | None
    values: dict[str, float]
    statuses: dict[str, int]


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
    points: tuple[SweepPoint, ...]
    unfinished: tuple[tuple[str, str, str], ...]
    runs: dict[int, tuple[SavedRun, ...]]


def is_sweep(path: Path) -> bool:
    """Say whether a folder is one of a sweep that has begun."""
    return SweepFolder(path).result.is_file()


def read_saved_sweep(path: Path) -> SavedSweep:
    """Read a sweep's folder; ArtifactError for a file of another form."""
    content = read_sweep(path)
    try:
        return SavedSweep(
            name=path.name,
            metric=content["objective"]["metric"],
            mode=content["objective"]["mode"],
            search=content["search"],
            space=content["space"],
            verdict=content["verdict"],
            interval=content["interval"],
            shared=tuple(content["shared"]),
            points=tuple(_point(each) for each in content["points"]),
            unfinished=tuple(
                (each["name"], each["status"], each["stop_reason"] or "")
                for each in content["trials"]
                if each["status"] != "finished"
            ),
            runs=_runs(path, content["trials"]),
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{SweepFolder(path).result} is not what a sweep writes ({error!r}); run it on with wmtp sweep ... --resume"
        ) from error


def _point(values: Mapping[str, Any]) -> SweepPoint:
    names = ("overrides", "mean", "low", "high", "values", "statuses")
    return SweepPoint(number=values["point"], **{name: values[name] for name in names})


def _runs(path: Path, trials: list[dict[str, Any]]) -> dict[int, tuple[SavedRun, ...]]:
    runs: dict[int, tuple[SavedRun, ...]] = {}
    for trial in trials:
        folder = path / trial["run_dir"]
        if is_run(folder):
            runs[trial["point"]] = (*runs.get(trial["point"], ()), read_run(folder, trial["name"]))
    return runs
