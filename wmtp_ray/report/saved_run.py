"""A run read from its folder: what is there, None or empty for what is not. Reads JSON and YAML, computes nothing.

config.yaml is read as it is, not against today's schema: a report is for runs of any age.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wmtp_ray.evaluation.results import FILE_NAME as RESULTS_FILE
from wmtp_ray.evaluation.results import EvaluationResults, read_results
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.critic_audit import CriticAudit, read_critic_audit
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.tracking.stage_health import Health, read_health
from wmtp_ray.tracking.token_evidence import TokenEvidence, read_token_evidence
from wmtp_ray.tracking.training_record import TrainingRecord, read_settings, record_of_run

Column = npt.NDArray[np.float64]

WEIGHTING = "weighting.type"


@dataclass(frozen=True)
class Curves:
    """The steps of one stage, and each metric at these steps; NaN where a step does not report it."""

    steps: Column
    metrics: dict[str, Column]


@dataclass(frozen=True)
class SavedRun:
    """One run's folder. `config` is what was asked for, by dotted key; `evaluations` are by the folder below eval/."""

    name: str
    path: Path
    config: dict[str, Any]
    curves: dict[int, Curves] = field(default_factory=dict)
    health: dict[int, Health] = field(default_factory=dict)
    evaluations: dict[str, EvaluationResults] = field(default_factory=dict)
    result: RunResult | None = None
    evidence: TokenEvidence | None = None
    training: TrainingRecord | None = None
    audit: CriticAudit | None = None

    @property
    def weighting(self) -> str:
        """The arm that the run was: what stage 2 ran with (critic.gate=uniform may fall back), else as configured."""
        return self.training.weighting if self.training is not None else str(self.config.get(WEIGHTING))

    @property
    def fell_back(self) -> bool:
        """Whether stage 2 ran with another weighting than the one that was asked for."""
        return self.training is not None and self.weighting != str(self.config.get(WEIGHTING))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as it ran: with the weighting that stage 2 ran with."""
        return self.config | {WEIGHTING: self.weighting} if self.fell_back else self.config

    @property
    def seed(self) -> int | None:
        """The base seed."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None


def is_run(path: Path) -> bool:
    """Whether a folder belongs to a run that was started."""
    return RunFolder(path).config.is_file()


def read_run(path: Path, name: str | None = None) -> SavedRun:
    """Read a run's folder, called `name` (the folder's own); ArtifactError for damaged files."""
    return SavedRun(
        name=name or path.name,
        path=path,
        config=read_settings(RunFolder(path).config),
        curves=_read_curves(path),
        health=read_health(path),
        evaluations={each.parent.name: read_results(each) for each in sorted(path.glob(f"eval/*/{RESULTS_FILE}"))},
        result=read_result(path) if RunFolder(path).result.is_file() else None,
        evidence=read_token_evidence(path),
        training=record_of_run(path),
        audit=read_critic_audit(path),
    )


def _read_curves(path: Path) -> dict[int, Curves]:
    reports = read_reports(path)
    curves = {}
    for stage in sorted({report.stage for report in reports}):
        own = [report for report in reports if report.stage == stage]
        metrics = [report.metrics_of_arm for report in own]
        names = dict.fromkeys(name for each in metrics for name in each)
        columns = {name: np.array([each.get(name, np.nan) for each in metrics], np.float64) for name in names}
        curves[stage] = Curves(np.array([report.step for report in own], np.float64), columns)
    return curves
