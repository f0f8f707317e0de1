"""rounds.json: what each round of a run has collected, trained on and made, appended when the round is done.

How a round's training and evaluation went lies in the folder of its run; nothing of that is repeated here. Imports no
torch: the report reads it.
"""

from dataclasses import dataclass

from wmtp_ray.run_folder import RoundsFolder
from wmtp_ray.saved_records import read_record, write_record

_REMEDY = "restore it, or start a new run_name"


@dataclass(frozen=True)
class CollectedRows:
    """What a round's collection came to.

    `judged` answers have a verdict, `correct` of them passed all tests. `different_programs` counts each program of a
    problem once, whether a cap lets it be a row or not.
    """

    problems: int
    problems_with_correct: int
    judged: int
    correct: int
    different_programs: int
    correct_rows: int
    incorrect_rows: int
    rows_sha256: str


@dataclass(frozen=True)
class MixedRows:
    """The rows that a round trains on: where they come from, and the SHA-256 of their file.

    `repeated` collected rows are the program of a newer one, `contradicted` ones that of a row of the other class.
    """

    from_file: int
    from_file_of: int
    collected: int
    collected_of: int
    repeated: int
    contradicted: int
    sha256: str


@dataclass(frozen=True)
class Round:
    """A round that is done. `collected` and `mixed` are None where nothing is collected.

    `steps` and `critic_steps` are the optimizer steps of stages 2 and 1. `run` is the folder below the run's own.
    """

    run: str
    collected: CollectedRows | None
    mixed: MixedRows | None
    steps: int
    critic_steps: int
    policy_sha256: str


@dataclass(frozen=True)
class RoundsRecord:
    """The content of rounds.json: the rounds that are done, in order.

    `inputs` are the files that all rounds read, as fingerprints of their content by the key that names them.
    """

    inputs: dict[str, str]
    rounds: tuple[Round, ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of the policy, all rounds together."""
        return sum(each.steps for each in self.rounds)

    @property
    def judged(self) -> int:
        """Judged programs, all rounds together."""
        return sum(each.collected.judged for each in self.rounds if each.collected is not None)


def read_rounds(folder: RoundsFolder) -> RoundsRecord:
    """Return the rounds that are done, none before the first; ArtifactError for a file of another form."""
    if not folder.record.is_file():
        return RoundsRecord({})
    return read_record(folder.record, RoundsRecord, _REMEDY)


def write_rounds(folder: RoundsFolder, record: RoundsRecord) -> None:
    """Write rounds.json, replacing an earlier one at once."""
    write_record(folder.record, record)
