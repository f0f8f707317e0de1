"""Steps of metrics.jsonl as points of MLflow. One that is sent twice has the same time, and MLflow keeps it once."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import Position, read_timed_reports
from wmtp_ray.tracking.mlflow_names import metric_key
from wmtp_ray.tracking.mlflow_run import MAX_METRICS_PER_CALL, MetricPoint


class Recorded(NamedTuple):
    """A step as metrics.jsonl has it; time in milliseconds since the epoch."""

    report: StepReport
    time_ms: int

    @property
    def position(self) -> Position:
        """Stage and step."""
        return (self.report.stage, self.report.step)

    @property
    def points(self) -> list[MetricPoint]:
        """One for each metric of the step."""
        stage, step = self.position
        return [
            MetricPoint(metric_key(key, stage), float(value), self.time_ms, step)
            for key, value in self.report.metrics.items()
        ]


def milliseconds(time_s: float) -> int:
    """Round down, always alike: the time is part of what makes a point the same point."""
    return int(time_s * 1000)


def recorded_in(run_dir: Path) -> list[Recorded]:
    """Return every step of a run's metrics.jsonl."""
    return [Recorded(report, milliseconds(time_s)) for report, time_s in read_timed_reports(run_dir)]


def number_points(numbers: Mapping[str, float], time_ms: int) -> list[MetricPoint]:
    """Return the points of numbers of the run as a whole, which have no step."""
    return [MetricPoint(metric_key(key, 2), float(value), time_ms, None) for key, value in numbers.items()]


def batches(recorded: Iterable[Recorded]) -> Iterator[list[Recorded]]:
    """Split steps into batches of one call each; a step is never split, so that it arrives whole or not at all."""
    batch: list[Recorded] = []
    num_points = 0
    for each in recorded:
        if batch and num_points + len(each.report.metrics) > MAX_METRICS_PER_CALL:
            yield batch
            batch, num_points = [], 0
        batch.append(each)
        num_points += len(each.report.metrics)
    if batch:
        yield batch
