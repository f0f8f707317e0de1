"""What a sweep found: trial.json in the folder of each trial, sweep.json in the sweep's, and the ranking of points.

Points are ranked by the objective's mean over seeds, with Student's t interval (two-sided, 95 %); one seed has no
interval, and says so. A point that did not finish with every seed stands behind those that did: the seeds that are
left are the lucky ones. Starts nothing and measures nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from wmtp_ray.config.sweep import Objective
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ArtifactError
from wmtp_ray.intervals import CONFIDENCE, Interval, over_seeds
from wmtp_ray.run_folder import RunFolder, SweepFolder

TrialStatus = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended. `run_dir` is relative to the sweep's folder; metrics that are no finite number are None.

    stopped: by early stopping or a rule, which `stop_reason` names; failed: `stop_reason` is the error.
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
    return Ranking(tuple(points), _verdict(points, objective))


def write_trial(run_dir: Path, record: TrialRecord) -> None:
    """Leave a trial's record in its run's folder; from then on the trial is over."""
    atomic_write(RunFolder(run_dir).trial, orjson.dumps(asdict(record), option=_JSON))


def read_trial(run_dir: Path) -> TrialRecord | None:
    """Return the record of a trial that is over, else None."""
    path = RunFolder(run_dir).trial
    if not path.is_file():
        return None
    values = orjson.loads(path.read_bytes())
    return TrialRecord(**values | {"notes": tuple(values["notes"])})


def write_sweep(
    directory: Path, spec: dict[str, Any], records: Sequence[TrialRecord], ranking: Ranking, shared: Sequence[str]
) -> None:
    """Write sweep.json, replacing an earlier one at once. `spec` is the resolved sweep, `shared` what was done once."""
    best = ranking.best
    content = {
        **spec,
        "interval": f"Student's t over seeds, {CONFIDENCE:.0%}",
        "shared": list(shared),
        "trials": [asdict(record) for record in records],
        "points": [_point_json(point) for point in ranking.points],
        "best": _point_json(best) if best else None,
        "verdict": ranking.verdict,
    }
    atomic_write(SweepFolder(directory).result, orjson.dumps(content, option=_JSON))


def read_sweep(directory: Path) -> dict[str, Any]:
    """Read sweep.json; ArtifactError when the folder has none."""
    path = SweepFolder(directory).result
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected the folder of a sweep that has begun")
    content: dict[str, Any] = orjson.loads(path.read_bytes())
    return content


_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def _summary(number: int, trials: Sequence[TrialRecord], metric: str) -> PointSummary:
    values = {t.seed: value for t in trials if t.status == "finished" and (value := t.metrics.get(metric)) is not None}
    statuses: dict[str, int] = {}
    for trial in trials:
        statuses[trial.status] = statuses.get(trial.status, 0) + 1
    objective = over_seeds(list(values.values())) if values else None
    return PointSummary(number, trials[0].overrides, objective, values, len(trials), statuses)


def _verdict(points: Sequence[PointSummary], objective: Objective) -> str:
    """Say how far the first point can be told from the second, in words."""
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


def _paired(first: PointSummary, second: PointSummary) -> str:
    """Compare the two seed by seed, which takes out what a seed does to both."""
    seeds = [seed for seed in first.values if seed in second.values]
    if len(seeds) < 2:
        return ""
    difference = over_seeds([first.values[seed] - second.values[seed] for seed in seeds])
    end = "so seed by seed they do differ" if difference.excludes_zero else "so they cannot be told apart"
    return f" (difference over the same {len(seeds)} seeds {rendered(difference)}, {end})"


def _point_json(point: PointSummary) -> dict[str, Any]:
    found = point.objective
    interval = {"mean": found and found.value, "low": found and found.low, "high": found and found.high}
    rest = {"seeds": sorted(point.values), "num_seeds": point.num_seeds, "statuses": point.statuses}
    return {"point": point.point, "overrides": point.overrides, **interval, "values": point.values, **rest}
