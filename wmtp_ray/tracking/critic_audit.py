"""audit.json: what a critic says of prefixes beside how often the policy's continuations of them pass.

The file's form alone: `evaluation/audit_critic.py` fills it, `report/` shows it. Torch stays out.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.objective.true_values import AuditedPrefix, ValueAgreement
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.saved_records import read_record, write_record

STRATA = ("all", "at the edit", "elsewhere")


@dataclass(frozen=True)
class AuditSettings:
    """What was asked for: continuations of each prefix, at most so many problems, and the seed of all draws."""

    rollouts: int
    problems: int
    seed: int


@dataclass(frozen=True)
class CriticAudit:
    """One audit. `policy` and `critic` say where the models lie; `agreement` has the strata that have prefixes.

    `num_available` counts the held-out problems with tests, of which `num_problems` were drawn; `num_with_edit` of
    those have a minimal pair. `num_not_judged` rollouts are left out, since the judge failed on them.
    """

    settings: AuditSettings
    policy: str
    critic: str
    num_available: int
    num_problems: int
    num_with_edit: int
    num_not_judged: int
    agreement: dict[str, ValueAgreement]
    prefixes: tuple[AuditedPrefix, ...]


def write_critic_audit(run_dir: Path, audit: CriticAudit) -> Path:
    """Write the run's audit.json, replacing an earlier one at once."""
    path = RunFolder(run_dir).critic_audit
    write_record(path, audit)
    return path


def read_critic_audit(run_dir: Path) -> CriticAudit | None:
    """Read what `write_critic_audit` wrote, None where there is none; ArtifactError for a file of another form."""
    path = RunFolder(run_dir).critic_audit
    if not path.is_file():
        return None
    return read_record(path, CriticAudit, "remove it: the rest of the run can be read without it")
