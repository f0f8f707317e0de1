"""What a sweep found: trial.json in the folder of each trial, sweep.json in the sweep's, and the ranking of points.

Points are ranked by the objective's mean over seeds, with Student's t interval (two-sided, 95 %); one seed has no
interval, and says so. A point that did not finish with every seed ranks behind those that did: a mean
over only the finished seeds is biased. Starts nothing and measures nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from wmtp_ray.config.sweep import Objective
from wmtp_ray.errors import ArtifactError
from wmtp_ray.intervals import CONFIDENCE, Interval, over_seeds
from wmtp_ray.run_folder import RunFolder, SweepFolder
from wmtp_ray.saved_records import read_record, write_record

TrialStatus = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended. `run_dir` is relative to the sweep's folder; metrics that are no finite number are None.

    stopped: by early stopping or a rule, which `stop_reason` names; failed: `stop_reason` is the error. `fell_back_to`
    names the weighting that stage 2 ran with where it is not the one that was asked for (critic.gate=uniform).
    """

    name: str
    point: int
    overrides: dict[str, Any]
    seed: int
    status: TrialStatus
    stop_reason: str | None
    steps: int
    metrics: dict[str, float | None]
    run_dir: str
    notes: tuple[str, ...]
    fell_back_to: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it need not run again."""
        return self.status in ("finished", "stopped")


@dataclass(frozen=True)
class PointSummary:
    """One point over its seeds. `objective` is None where no seed finished with one; `values` by finished seed."""

    point: int
    overrides: dict[str, Any]
    objective: Interval | None
    values: dict[int, float]
    num_seeds: int
    statuses: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether every seed finished and has the objective."""
        return len(self.values) == self.num_seeds


@dataclass(frozen=True)
class SavedPoint:
    """A point in sweep.json; `mean` is None where no seed finished with the objective, `values` by finished seed."""

    point: int
    overrides: dict[str, Any]
    mean: float | None
    low: float | None
    high: float | None
    values: dict[int, float]
    statuses: dict[str, int]
    seeds: tuple[int, ...] = ()
    num_seeds: int = 0


@dataclass(frozen=True)
class SweepFindings:
    """What sweep.json says beside the resolved sweep; points stand from best to worst."""

    interval: str
    shared: tuple[str, ...]
    trials: tuple[TrialRecord, ...]
    points: tuple[SavedPoint, ...]
    best: SavedPoint | None
    verdict: str


@dataclass(frozen=True)
class SavedObjective:
    """What the points were ranked by."""

    metric: str
    mode: Literal["min", "max"]


@dataclass(frozen=True)
class SavedTrial:
    """A trial in sweep.json, as far as it is read again."""

    name: str
    point: int
    status: TrialStatus
    stop_reason: str | None
    run_dir: str


@dataclass(frozen=True)
class SavedSweepFile:
    """sweep.json, as far as it is read again."""

    objective: SavedObjective
    search: str
    space: dict[str, Any]
    interval: str
    shared: tuple[str, ...]
    trials: tuple[SavedTrial, ...]
    points: tuple[SavedPoint, ...]
    verdict: str


@dataclass(frozen=True)
class Ranking:
    """Points from best to worst, and what can be said about the first two."""

    points: tuple[PointSummary, ...]
    verdict: str

    @property
    def best(self) -> PointSummary | None:
        """The first point, where it has the objective."""
        first = self.points[0] if self.points else None
        return first if first is not None and first.objective is not None else None


def rendered(interval: Interval) -> str:
    """Write an interval over seeds for a table."""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.4f} (one seed)"
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def rank(records: Sequence[TrialRecord], objective: Objective) -> Ranking:
    """Summarise every point over its seeds; sort complete ones by mean, then the others, then those without."""
    by_point: dict[int, list[TrialRecord]] = {}
    for record in records:
        by_point.setdefault(record.point, []).append(record)
    sign = 1.0 if objective.mode == "min" else -1.0
    points = [_summary(number, trials, objective.metric) for number, trials in by_point.items()]
    points.sort(key=lambda p: (not p.is_complete, sign * p.objective.value if p.objective else math.inf, p.point))
    return Ranking(tuple(points), " ".join([_verdict(points, objective), *_fallen_back(records)]))


def write_trial(run_dir: Path, record: TrialRecord) -> None:
    """Write a trial's record into its run's folder; from then on the trial counts as finished."""
    write_record(RunFolder(run_dir).trial, record)


def read_trial(run_dir: Path) -> TrialRecord | None:
    """Return the record of a trial that is over, else None."""
    path = RunFolder(run_dir).trial
    if not path.is_file():
        return None
    return read_record(path, TrialRecord, "remove it, and go on with wmtp sweep ... --resume: the trial runs again")


def write_sweep(
    directory: Path, spec: dict[str, Any], records: Sequence[TrialRecord], ranking: Ranking, shared: Sequence[str]
) -> None:
    """Write sweep.json, replacing an earlier one at once. `spec` is the resolved sweep, `shared` what was done once."""
    found = SweepFindings(
        interval=f"Student's t over seeds, {CONFIDENCE:.0%}",
        shared=tuple(shared),
        trials=tuple(records),
        points=tuple(map(_saved_point, ranking.points)),
        best=_saved_point(ranking.best) if ranking.best else None,
        verdict=ranking.verdict,
    )
    own = {field.name: getattr(found, field.name) for field in fields(found)}
    write_record(SweepFolder(directory).result, spec | own)


def read_sweep(directory: Path) -> SavedSweepFile:
    """Read sweep.json; ArtifactError when the folder has none or one of another form."""
    path = SweepFolder(directory).result
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected the folder of a sweep that has begun")
    return read_record(path, SavedSweepFile, "go on with wmtp sweep ... --resume: it writes a new one")


def _summary(number: int, trials: Sequence[TrialRecord], metric: str) -> PointSummary:
    values = {t.seed: value for t in trials if t.status == "finished" and (value := t.metrics.get(metric)) is not None}
    statuses: dict[str, int] = {}
    for trial in trials:
        statuses[trial.status] = statuses.get(trial.status, 0) + 1
    objective = over_seeds(list(values.values())) if values else None
    return PointSummary(number, trials[0].overrides, objective, values, len(trials), statuses)


def _verdict(points: Sequence[PointSummary], objective: Objective) -> str:
    """Describe how clearly the first point differs from the second."""
    ranked = [point for point in points if point.objective is not None]
    if not ranked:
        return f"No trial finished with {objective.metric}, so there is no best point."
    first = ranked[0]
    text = "" if first.is_complete else f"Point {first.point} did not finish with every seed. "
    if len(ranked) == 1:
        return f"{text}Only point {first.point} has {objective.metric}; there is nothing to compare it with."
    second = ranked[1]
    assert first.objective is not None
    assert second.objective is not None
    if first.objective.low is None or second.objective.low is None:
        return f"{text}Point {first.point} is first with one seed: chance alone may order points so; give more seeds."
    if not first.objective.overlaps(second.objective):
        return f"{text}Point {first.point} is first; its interval lies clear of that of point {second.point}."
    overlap = f"its interval overlaps that of point {second.point}{_paired(first, second)}"
    return f"{text}Point {first.point} is first, but {overlap}."


def _fallen_back(records: Sequence[TrialRecord]) -> list[str]:
    """Name the trials that did not run with the weighting of their point: the swept values of it had no effect."""
    fallen = [record for record in records if record.fell_back_to is not None]
    if not fallen:
        return []
    names = ", ".join(record.name.rpartition("/")[2] for record in fallen)
    return [
        f"{len(fallen)} of {len(records)} trials ran with {fallen[0].fell_back_to} weights (critic.gate): {names}. "
        "Their swept values of weighting had no effect."
    ]


def _paired(first: PointSummary, second: PointSummary) -> str:
    """Compare the two seed by seed, which takes out what a seed does to both."""
    seeds = [seed for seed in first.values if seed in second.values]
    if len(seeds) < 2:
        return ""
    difference = over_seeds([first.values[seed] - second.values[seed] for seed in seeds])
    end = "so seed by seed they do differ" if difference.excludes_zero else "so they cannot be told apart"
    return f" (difference over the same {len(seeds)} seeds {rendered(difference)}, {end})"


def _saved_point(point: PointSummary) -> SavedPoint:
    found = point.objective
    return SavedPoint(
        point=point.point,
        overrides=point.overrides,
        mean=None if found is None else found.value,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        values=point.values,
        seeds=tuple(sorted(point.values)),
        num_seeds=point.num_seeds,
        statuses=point.statuses,
    )
