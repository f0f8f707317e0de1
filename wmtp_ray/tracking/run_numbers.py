"""The numbers of a run as a whole, which have no step: the critic's health and Pass@K, from the run's folder."""

from pathlib import Path

from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import read_training_reports
from wmtp_ray.tracking.result import read_result
from wmtp_ray.tracking.stage_health import read_health


def run_numbers(run_dir: Path) -> dict[str, float]:
    """Return the numbers that training and evaluation have given the trackers so far; those of stage 1 by its name."""
    numbers: dict[str, float] = {}
    for stage, health in read_health(run_dir).items():
        numbers |= {f"stage{stage}/{name}": value for name, value in health.metrics.items()}
    if not RunFolder(run_dir).result.is_file():
        return numbers
    reports = read_training_reports(run_dir)
    of_steps = reports[-1].metrics.keys() if reports else set()
    found = read_result(run_dir).metrics
    return numbers | {key: value for key, value in found.items() if key not in of_steps and value is not None}
