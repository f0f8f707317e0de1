"""Kept answers as lines of the row schema (`data/rows.py`), with where they come from under `metadata.collected`.

    {"instruction": "...", "input": "", "output": "def f(x): ...", "task_id": "list_17_correct_3f9a01c2b4d5-6",
     "is_correct": true, "metadata": {"source": "list_tasks", "difficulty": 3, "has_tests": true, "language": 3,
     "collected": {"origin": "3f9a01c2b4d5", "weights_sha256": "...", "temperature": 1.0, "top_p": 1.0, "seed": 42,
                   "sample": 6, "verdict": "pass", "tests_passed": 12, "num_tests": 12, "finish": "end"}}}

Rows of the data set itself end in a number alone, and `origin` is a hash of policy, problems and decoding: no two rows
share a task_id, and all of a problem share its name. A row of a server's answer has null for `weights_sha256`, and
`model` and `server` behind the rest: the name that the server gave with the answer, and its address.
"""

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from wmtp_ray.data.kept_rows import LANGUAGES
from wmtp_ray.evaluation.collecting.answer_classes import ClassifiedAnswers, JudgedAnswer
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.counted_tests import counted_tests
from wmtp_ray.evaluation.collecting.training_problems import TrainingProblem
from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.samples import Sample


@dataclass(frozen=True)
class Origin:
    """Where answers come from: `origin` is a hash of policy, problems and decoding, `seed` the base seed.

    `weights_sha256` is None for the model of a server, which says no more of itself than a name.
    """

    origin: str
    weights_sha256: str | None
    temperature: float
    top_p: float
    seed: int


def chosen_answers(classes: ClassifiedAnswers, settings: CollectionSettings) -> list[tuple[bool, JudgedAnswer]]:
    """Return the answers that become rows, each with its class: the first of each class, in the order of samples."""
    correct = [(True, each) for each in classes.correct[: settings.most_rows(is_correct=True)]]
    incorrect = [(False, each) for each in classes.incorrect[: settings.most_rows(is_correct=False)]]
    return sorted([*correct, *incorrect], key=lambda kept: kept[1].sample)


def row_line(
    described: TrainingProblem,
    source: str,
    kept: tuple[bool, JudgedAnswer],
    found: tuple[Sample, Judgement],
    by: Origin,
) -> bytes:
    """Spell a row as a line of JSON with its line end."""
    is_correct, answer = kept
    sample, judgement = found
    tests = counted_tests(described.problem.tests, judgement)
    metadata: dict[str, Any] = {
        "source": source,
        "difficulty": described.difficulty,
        "has_tests": True,
        "language": LANGUAGES["python3"],
    }
    metadata |= {key: value for key in ("cf_rating", "contest") if (value := getattr(described, key)) is not None}
    metadata["collected"] = asdict(by) | {
        "sample": answer.sample,
        "verdict": answer.status,
        "tests_passed": tests.num_passed,
        "num_tests": tests.num_tests,
        "finish": sample.finish,
    }
    if sample.served is not None:
        metadata["collected"] |= {"model": sample.served.model, "server": sample.served.url}
    row = {
        "instruction": described.instruction,
        "input": described.input,
        "output": answer.program,
        "task_id": f"{described.name}_{'correct' if is_correct else 'incorrect'}_{by.origin}-{answer.sample}",
        "is_correct": is_correct,
        "metadata": metadata,
    }
    return orjson.dumps(row) + b"\n"
