"""result.json: how a run ended, in one file that appears whole or not at all."""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.errors import ArtifactError
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.saved_records import read_record, write_record
from wmtp_ray.tracking.decisions import Decisions
from wmtp_ray.tracking.memory_use import MemoryUse
from wmtp_ray.tracking.mlflow_run import RunStatus


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    `steps` counts the optimizer steps of stage 2 over all resumes; `policy_sha256` is None where no policy was
    trained. Metrics that are no finite number come back as None. `memory` holds stage 2's peaks beside their estimates,
    None where stage 2 did not end in this start of the run. `weighting` is what stage 2 weighted with, which is
    `uniform` where critic.gate=uniform fell back to it; None where stage 2 has not begun. `decisions` says it with all
    else that was decided while the run ran (`decisions.py`); None for runs of earlier versions.
    """

    status: RunStatus
    steps: int
    metrics: dict[str, float | None]
    policy_sha256: str | None
    seconds_per_stage: dict[str, float]
    warnings: tuple[str, ...]
    memory: MemoryUse | None = None
    weighting: str | None = None
    decisions: Decisions | None = None


def write_result(run_dir: Path, result: RunResult) -> Path:
    """Write `run_dir/result.json`, replacing an earlier one at once."""
    path = RunFolder(run_dir).result
    write_record(path, result)
    return path


def read_result(run_dir: Path) -> RunResult:
    """Read what `write_result` wrote; ArtifactError when the run has none or one of another form."""
    path = RunFolder(run_dir).result
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; expected the result of a run that has ended: check the run's name")
    return read_record(path, RunResult, "restore the file, or start the run again with --resume: it writes a new one")
