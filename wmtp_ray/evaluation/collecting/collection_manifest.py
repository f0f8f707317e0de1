"""The record of a collection beside its rows: what was asked for, which policy answered, and what came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.evaluation.collecting.answer_classes import ClassifiedAnswers
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.samples import Sample
from wmtp_ray.saved_records import read_record


def manifest_of(rows: Path) -> Path:
    """Return where the manifest of a file of rows lies."""
    return rows.with_name(f"{rows.name}.manifest.json")


def answers_of(rows: Path) -> Path:
    """Return the folder of all answers and verdicts behind a file of rows."""
    return rows.with_name(f"{rows.name}.answers")


@dataclass(frozen=True)
class CollectionCounts:
    """What came of the answers. An answer is a row, or `left_out` says why it is none.

    `drawn` has how many problems got how many answers.
    """

    problems: int
    problems_with_correct: int
    problems_with_both: int
    samples: int
    tokens: int
    correct_rows: int
    incorrect_rows: int
    verdicts: dict[str, int]
    left_out: dict[str, int]
    drawn: dict[int, int]


class Tally:
    """Counts the answers and rows of one problem after the other."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._drawn: Counter[int] = Counter()

    def add_answers(self, answers: Sequence[tuple[Sample, Judgement]]) -> None:
        """Count the answers to a problem."""
        self._drawn[len(answers)] += 1
        self._verdicts.update(judgement.status for _, judgement in answers)
        self._numbers.update(problems=1, samples=len(answers), tokens=sum(sample.num_tokens for sample, _ in answers))

    def add_rows(self, classes: ClassifiedAnswers, chosen: Sequence[bool]) -> None:
        """Count a problem's rows by their classes, and the answers that are none."""
        self._numbers.update(
            correct_rows=sum(chosen),
            incorrect_rows=len(chosen) - sum(chosen),
            problems_with_correct=any(chosen),
            problems_with_both=len(set(chosen)) > 1,
        )
        self._left_out.update(classes.left_out)
        if over := len(classes.correct) + len(classes.incorrect) - len(chosen):
            self._left_out["over the cap"] += over

    def counts(self) -> CollectionCounts:
        """Return what was counted; names and numbers in their order, so that equal counts are equal files."""
        return CollectionCounts(
            problems=self._numbers["problems"],
            problems_with_correct=self._numbers["problems_with_correct"],
            problems_with_both=self._numbers["problems_with_both"],
            samples=self._numbers["samples"],
            tokens=self._numbers["tokens"],
            correct_rows=self._numbers["correct_rows"],
            incorrect_rows=self._numbers["incorrect_rows"],
            verdicts=dict(sorted(self._verdicts.items())),
            left_out=dict(sorted(self._left_out.items())),
            drawn=dict(sorted(self._drawn.items())),
        )


@dataclass(frozen=True)
class CollectionManifest:
    """The content of <rows>.manifest.json; `identity` is everything that answers and verdicts depend on.

    `tokenizer_sha256` is the tokenizer that tells which programs a row can hold, None: no program was tried.
    """

    rows_sha256: str
    origin: str
    policy: str
    tokenizer_sha256: str | None
    problems: str
    problems_left_out: tuple[str, ...]
    format: str
    format_reason: str
    settings: CollectionSettings
    counts: CollectionCounts
    identity: dict[str, Any]

    def render(self) -> str:
        """Return a few lines for a terminal."""
        counts = self.counts
        lines = [
            f"{counts.correct_rows + counts.incorrect_rows:,} rows of {counts.problems:,} problems: "
            f"{counts.correct_rows:,} correct and {counts.incorrect_rows:,} incorrect, of {counts.samples:,} answers",
            f"  verdicts: {_listed(counts.verdicts)}",
            f"  no rows: {_listed(counts.left_out)}",
            f"  problems with a correct row: {counts.problems_with_correct:,}, with rows of both classes: "
            f"{counts.problems_with_both:,}",
            f"  format {self.format} ({self.format_reason})",
        ]
        return "\n".join([*lines, *(f"  left out: {each}" for each in self.problems_left_out)])


def read_collection_manifest(rows: Path) -> CollectionManifest:
    """Read the manifest of a file of rows; ArtifactError without one."""
    return read_record(manifest_of(rows), CollectionManifest, "collect the rows again")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
