"""The search that Ray Tune asks for the next trial of a sweep: it returns a point and a seed.

`ListedPoints` (grid, random) knows its points; `TpePoints` has Optuna propose each from the objective's mean over seeds
of those before. Either way a trial that is over is not asked for again, and after a restart the same points come in
the same order: those of TPE are kept in points.jsonl as they are proposed.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from wmtp_ray.config.sweep import Dimension, LogUniform, SweepSpec, Uniform
from wmtp_ray.config.sweep_points import Point, Trial
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.sweep.sweep_outcome import read_points
from wmtp_ray.run_folder import SweepFolder
from wmtp_ray.saved_records import encode_line
from wmtp_ray.tracking.sweep_result import TrialRecord

_MAX_REFUSED = 100  # proposals in a row that do not load


class PointSource(Protocol):
    """Points one after the other."""

    def next(self) -> Point | None:
        """Return the next point, None at the end."""

    def tell(self, point: Point, records: Mapping[int, TrialRecord]) -> None:
        """Record how a point's trials ended, by seed; called once, when all have ended."""


class ListedPoints:
    """Points that are known beforehand."""

    def __init__(self, points: list[Point]) -> None:
        self._points = iter(points)

    def next(self) -> Point | None:
        """Return the next point, None at the end."""
        return next(self._points, None)

    def tell(self, point: Point, records: Mapping[int, TrialRecord]) -> None:
        """Ignore the results."""


class TpePoints:
    """Points that Optuna's TPE proposes; one that does not load as a configuration is left out for another."""

    def __init__(self, spec: SweepSpec, directory: Path, check: Callable[[Point], None]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert spec.num_points is not None
        self._spec = spec
        self._num_points = spec.num_points
        self._file = SweepFolder(directory).points
        self._check = check
        self._study = optuna.create_study(direction="minimize" if spec.objective.mode == "min" else "maximize")
        self._distributions = {key: _distribution(dimension) for key, dimension in spec.space.items()}
        self._proposed = read_points(self._file)
        self._before = iter(tuple(self._proposed))
        self._asked: dict[int, optuna.Trial] = {}
        self._number = 0

    def next(self) -> Point | None:
        """Return the next point: those of an earlier start first, then new ones."""
        if self._number >= self._num_points:
            return None
        again = next(self._before, None)
        point = self._ask(again) if again is not None else self._propose()
        self._number += 1
        return point

    def tell(self, point: Point, records: Mapping[int, TrialRecord]) -> None:
        """Report to TPE the mean over the finished seeds; a point that was stopped with every seed counts as bad."""
        metric = self._spec.objective.metric
        finished = [record for record in records.values() if record.status == "finished"]
        values = [value for record in finished if (value := record.metrics.get(metric)) is not None]
        trial = self._asked.pop(point.number)
        if values:
            self._study.tell(trial, fmean(values))
        else:
            stopped = any(record.status == "stopped" for record in records.values())
            self._study.tell(trial, state=TrialState.PRUNED if stopped else TrialState.FAIL)

    def _propose(self) -> Point:
        for attempt in range(_MAX_REFUSED):
            # Keyed by the point, so that what a restart has drawn before does not matter.
            seed = self._spec.search_seed * 1_000_003 + self._number * _MAX_REFUSED + attempt
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self._spec.startup_points, constant_liar=True
            )
            point = self._ask(None)
            try:
                self._check(point)
            except ConfigError as error:
                refusal = error
                self._study.tell(self._asked.pop(point.number), state=TrialState.FAIL)
                continue
            self._proposed.append(point)
            lines = [encode_line(each.values) for each in self._proposed]
            atomic_write(self._file, b"".join(lines))
            return point
        raise ConfigError(f"{_MAX_REFUSED} points in a row do not load, the last because {refusal}; narrow sweep.space")

    def _ask(self, point: Point | None) -> Point:
        if point is not None:
            self._study.enqueue_trial({key: self._parameter(key, value) for key, value in point.values.items()})
        trial = self._study.ask(self._distributions)
        self._asked[self._number] = trial
        return Point(self._number, {key: self._value(key, trial.params[key]) for key in self._spec.space})

    def _value(self, key: str, parameter: Any) -> Any:
        dimension = self._spec.space[key]
        return dimension[parameter] if isinstance(dimension, tuple) else parameter

    def _parameter(self, key: str, value: Any) -> Any:
        dimension = self._spec.space[key]
        return dimension.index(value) if isinstance(dimension, tuple) else value


class SweepSearch(Searcher):
    """Gives Tune one trial at a time, and gives the source of points each point's result.

    `begin` claims a trial's folder and returns what Tune gives to it; `record_of` returns the record of a trial that is
    over; `stopping` tells that no more trials are to be begun. With `replays` trials that are over are given to Tune
    too, which shows it their metrics once more: what early stopping compares.
    """

    def __init__(
        self,
        source: PointSource,
        spec: SweepSpec,
        *,
        begin: Callable[[Trial], dict[str, Any]],
        record_of: Callable[[Trial], TrialRecord | None],
        stopping: Callable[[], bool],
        replays: bool,
    ) -> None:
        super().__init__()
        self._source = source
        self._seeds = spec.seeds
        self._begin = begin
        self._record_of = record_of
        self._stopping = stopping
        self._replays = replays
        self._trials = self._in_order()
        self._running: dict[str, Trial] = {}
        self._open: dict[int, set[int]] = {}  # seeds of a point that are not over

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial."""
        trial = None if self._stopping() else next(self._trials, None)
        if trial is None:
            return Searcher.FINISHED
        self._running[trial_id] = trial
        return self._begin(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report a point to the source once its last seed has ended."""
        trial = self._running.pop(trial_id)
        self._close(trial)

    def __getstate__(self) -> dict[str, Any]:
        """Return no state: Tune pickles the search for its own restore, which a sweep does not use."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what a restart needs is in the trials' folders and in points.jsonl."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `save`."""

    def _in_order(self) -> Iterator[Trial]:
        while (point := self._source.next()) is not None:
            self._open[point.number] = set(self._seeds)
            trials = [Trial(point, seed) for seed in self._seeds]
            over = [trial for trial in trials if _is_settled(self._record_of(trial))]
            for trial in over if not self._replays else ():
                self._close(trial)
            yield from trials if self._replays else [trial for trial in trials if trial not in over]

    def _close(self, trial: Trial) -> None:
        point = trial.point
        self._open[point.number].discard(trial.seed)
        if not self._open[point.number]:
            records = {seed: self._record_of(Trial(point, seed)) for seed in self._seeds}
            self._source.tell(point, {seed: record for seed, record in records.items() if record is not None})


def _is_settled(record: TrialRecord | None) -> bool:
    return record is not None and record.is_settled


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension:
        case Uniform(uniform=(low, high)):
            return FloatDistribution(low, high)
        case LogUniform(loguniform=(low, high)):
            return FloatDistribution(low, high, log=True)
        case _:
            return CategoricalDistribution(range(len(dimension)))
