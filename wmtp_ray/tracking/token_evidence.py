"""token_evidence.json: a few held-out programs token by token, as the policy, its critic and the weightings see them.

    {"weighting": "td", "clip_min": 0.1, "clip_max": 5.0, "held_out": {"correct": 0.31, "incorrect": 0.35, ...},
     "pairs": [{"problem": "list_7", "prompt": "...", "correct": {...}, "incorrect": {...}}]}

The file's form alone: `training/collect_evidence.py` fills it, `report/` shows it. Numpy and torch stay out.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.run_folder import StageFolder
from wmtp_ray.saved_records import read_record, write_record


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean next-token cross-entropy (nats a token) of correct and of incorrect held-out programs, without weights."""

    correct: float
    incorrect: float
    num_rows: int
    num_problems: int


@dataclass(frozen=True)
class TokenTrace:
    """One program: entry i of every tuple speaks about its token i.

    `weights` holds horizon 1 by weighting; one that needs what the run did not have is absent. `values[i]` is V after
    token i and `prompt_value` V before the first; `td_errors[i]` belongs to token i. Without a critic all three are
    None. `edit` is the range [begin, end) in which the other program of the pair differs. `num_tokens` counts the whole
    program, of which a long one is only shown in part.
    """

    row_id: int
    num_tokens: int
    tokens: tuple[str, ...]
    losses: tuple[float, ...]
    weights: dict[str, tuple[float, ...]]
    prompt_value: float | None
    values: tuple[float, ...] | None
    td_errors: tuple[float, ...] | None
    edit: tuple[int, int]


@dataclass(frozen=True)
class ProgramPair:
    """A correct and an incorrect program for one problem; minimal pairs differ in one short span."""

    problem: str
    prompt: str
    is_minimal: bool
    correct: TokenTrace
    incorrect: TokenTrace


@dataclass(frozen=True)
class TokenEvidence:
    """What the end of stage 2 leaves; `held_out` is None and `pairs` empty where no held-out problem has both kinds."""

    weighting: str
    clip_min: float
    clip_max: float
    held_out: HeldOutLoss | None
    pairs: tuple[ProgramPair, ...]


def write_token_evidence(directory: Path, evidence: TokenEvidence) -> Path:
    """Write `directory/token_evidence.json`, replacing an earlier one at once."""
    path = StageFolder(directory).token_evidence
    write_record(path, evidence)
    return path


def read_token_evidence(directory: Path) -> TokenEvidence | None:
    """Read what `write_token_evidence` wrote, None where there is none; ArtifactError for a file of another form."""
    path = StageFolder(directory).token_evidence
    if not path.is_file():
        return None
    return read_record(path, TokenEvidence, "remove it: the rest of the run can be read without it")
