"""The health of a run's critic after each stage, read from stage_result.json. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.saved_records import read_record


@dataclass(frozen=True)
class Health:
    """The critic's health as a stage left it: metrics by name, and each criterion of the gate that failed."""

    metrics: dict[str, float]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class _StageHealth:
    """What the report reads of stage_result.json."""

    health: Health | None


def read_health(run_dir: Path) -> dict[int, Health]:
    """Return the health by stage, of the stages that ended and measured one; ArtifactError for another form."""
    found = {}
    for stage in (CRITIC_STAGE, TRAIN_STAGE):
        file = RunFolder(run_dir).stage(stage).stage_result
        health = read_record(file, _StageHealth, "restore it, or leave the run out").health if file.is_file() else None
        if health is not None:
            found[stage] = health
    return found
