"""results.json: the results of an evaluation, with all that is needed to repeat it.

A verdict `error` is the judge's failure: the sample is left out and named, never counted as wrong. A problem that has
fewer than K judged samples for that reason is left out of Pass@K and named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wmtp_ray.errors import ArtifactError
from wmtp_ray.evaluation.identity import EvaluationIdentity
from wmtp_ray.evaluation.judging import INFRASTRUCTURE, Judgement
from wmtp_ray.evaluation.pass_at_k import Counts, Estimate, estimate_pass_at_k
from wmtp_ray.evaluation.samples import Place, Sample
from wmtp_ray.evaluation.served_warnings import about_served
from wmtp_ray.saved_records import read_record, write_record
from wmtp_ray.tracking.training_record import TrainingRecord

FILE_NAME = "results.json"
EMPTY_FRAC_WARNED = 0.1
_NAMED = 3  # of the problems that a warning is about
_EXAMPLES_PER_STATUS = 2
_EXAMPLE_CHARS = 1200


@dataclass(frozen=True)
class Answer:
    """The part of one answer that is judged."""

    text: str
    is_empty: bool


@dataclass(frozen=True)
class Sources:
    """Where everything came from, for people: paths, what was left out of the data set, how the policy was trained.

    `training` is None where that is not known: a model directory that no run has left, or samples from a file.
    `num_problems` is how many problems the data set has, of which an evaluation may take some. `format_reason` says
    why the policy was asked in its format. Both are unknown in results of earlier versions.
    """

    dataset: str
    dataset_path: str
    left_out: tuple[str, ...]
    answers_path: str
    tokenizer_path: str | None
    training: TrainingRecord | None = None
    num_problems: int | None = None
    format_reason: str = ""


@dataclass(frozen=True)
class ExampleAnswer:
    """An answer as it was judged, to be looked at; long ones are cut."""

    task_id: str
    sample: int
    status: str
    detail: str
    text: str


@dataclass(frozen=True)
class AnswerCounts:
    """How many answers there are, and how many of them hold nothing but blanks; a few to look at."""

    num_answers: int
    num_empty: int
    examples: tuple[ExampleAnswer, ...]


@dataclass(frozen=True)
class ProblemResult:
    """One problem: n judged samples, c correct, every verdict in the order of the samples.

    `passed_frac` is the mean share of tests passed where each test is a run of its own, else None.
    """

    task_id: str
    num_samples: int
    num_correct: int
    verdicts: tuple[str, ...]
    passed_frac: float | None


@dataclass(frozen=True)
class DecodingSpeed:
    """What decoding took; `accepted_frac` of the drafts of each head from horizon 2 on, empty without drafts.

    A server says nothing of its forwards: 0 of them, and None tokens a forward.
    """

    num_tokens: int
    num_forwards: int
    tokens_per_forward: float | None
    accepted_frac: tuple[float, ...]


@dataclass(frozen=True)
class EvaluationResults:
    """results.json. `seconds` is the wall time of the start that finished it: nothing else depends on when or where.

    `answers` is None in results of earlier versions. `answered_by` counts the answers of each model of each server, and
    is None for decoders of ours.
    """

    key: str
    identity: dict[str, Any]
    sources: Sources
    pass_at_k: dict[str, Estimate]
    verdicts: dict[str, int]
    problems: tuple[ProblemResult, ...]
    decoding: DecodingSpeed | None
    excluded: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    answers: AnswerCounts | None = None
    answered_by: dict[str, int] | None = None

    @property
    def num_problems(self) -> str:
        """How many problems were evaluated: "3 of 6" where the data set has more."""
        number, whole = len(self.problems), self.sources.num_problems
        return f"{number}" if whole in (None, number) else f"{number} of {whole}"

    def metrics(self) -> dict[str, float]:
        """Return what a run records: `eval/<dataset>/pass@1` with its interval, and how the answers came."""
        name = f"eval/{self.sources.dataset}"
        found: dict[str, float] = {}
        for k, estimate in self.pass_at_k.items():
            found[f"{name}/pass@{k}"] = estimate.value
            found[f"{name}/pass@{k}/ci_low"] = estimate.low
            found[f"{name}/pass@{k}/ci_high"] = estimate.high
        if self.decoding is not None and self.decoding.tokens_per_forward is not None:
            found[f"{name}/tokens_per_forward"] = self.decoding.tokens_per_forward
        if self.answers is not None:
            found[f"{name}/empty_frac"] = self.answers.num_empty / max(self.answers.num_answers, 1)
        return found


def summarise(
    identity: EvaluationIdentity,
    sources: Sources,
    task_ids: Sequence[str],
    samples: Mapping[Place, Sample],
    judgements: Mapping[Place, Judgement],
    answers: Mapping[Place, Answer],
    ks: Sequence[int],
    seconds: float,
) -> EvaluationResults:
    """Count and estimate; `samples` is empty for answers from a file, `answers` are the texts judged."""
    problems = _problem_results(task_ids, judgements)
    estimates, warnings = _estimates(problems, ks)
    counts = _counts(answers, judgements)
    warnings += _about_empty(counts)
    answered_by = dict(sorted(Counter(each.served.words for each in samples.values() if each.served).items()))
    warnings += about_served(samples, answered_by)
    errors = {place: each for place, each in judgements.items() if each.status == INFRASTRUCTURE}
    if errors:
        warnings.append(f"{len(errors)} answers could not be judged and do not count (`excluded` names them)")
    return EvaluationResults(
        key=identity.key,
        identity=identity.content,
        sources=sources,
        pass_at_k=estimates,
        verdicts=dict(sorted(Counter(each.status for each in judgements.values()).items())),
        problems=problems,
        decoding=_speed(list(samples.values())),
        excluded=tuple(f"{task} sample {number}: {each.detail}" for (task, number), each in sorted(errors.items())),
        warnings=tuple(warnings),
        seconds=seconds,
        answers=counts,
        answered_by=answered_by or None,
    )


def write_results(directory: Path, results: EvaluationResults) -> Path:
    """Write `directory/results.json`, replacing an earlier one at once."""
    path = directory / FILE_NAME
    write_record(path, results)
    return path


def read_results(directory: Path) -> EvaluationResults:
    """Read what `write_results` wrote, given the folder or the file; ArtifactError where there is none.

    Pass@K is counted anew from the problems, so that results of earlier versions have the bounds of today's rule too.
    """
    path = directory if directory.is_file() else directory / FILE_NAME
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected the folder of an evaluation that is done")
    results = read_record(path, EvaluationResults, "evaluate again")
    return replace(results, pass_at_k=_estimates(results.problems, [int(k) for k in results.pass_at_k])[0])


def _problem_results(task_ids: Sequence[str], judgements: Mapping[Place, Judgement]) -> tuple[ProblemResult, ...]:
    of_problem: dict[str, list[Judgement]] = {task_id: [] for task_id in task_ids}
    for place in sorted(judgements):
        of_problem[place[0]].append(judgements[place])
    return tuple(_problem_result(task_id, found) for task_id, found in of_problem.items())


def _problem_result(task_id: str, found: list[Judgement]) -> ProblemResult:
    counted = [each for each in found if each.status != INFRASTRUCTURE]
    parts = [each.passed_frac for each in counted if each.passed_frac is not None]
    return ProblemResult(
        task_id=task_id,
        num_samples=len(counted),
        num_correct=sum(each.status == "pass" for each in counted),
        verdicts=tuple(each.status for each in found),
        passed_frac=sum(parts) / len(parts) if parts else None,
    )


def _estimates(problems: Sequence[ProblemResult], ks: Sequence[int]) -> tuple[dict[str, Estimate], list[str]]:
    """Pass@K by K, as text for JSON, and what had to be left out."""
    estimates, warnings = {}, []
    for k in ks:
        enough = [Counts(each.num_samples, each.num_correct) for each in problems if each.num_samples >= k]
        few = [each.task_id for each in problems if each.num_samples < k]
        if few:
            named = ", ".join(few[:_NAMED]) + (", .." if len(few) > _NAMED else "")
            warnings.append(f"Pass@{k} leaves out {len(few)} problems with fewer than {k} judged answers: {named}")
        if enough:
            estimates[str(k)] = estimate_pass_at_k(enough, k)
    return estimates, warnings


def _counts(answers: Mapping[Place, Answer], judgements: Mapping[Place, Judgement]) -> AnswerCounts:
    """Count, and show the first answers of every kind of verdict."""
    shown: Counter[str] = Counter()
    examples: list[ExampleAnswer] = []
    for place, answer in sorted(answers.items()):
        judgement = judgements.get(place)
        if judgement is not None and shown[judgement.status] < _EXAMPLES_PER_STATUS:
            shown[judgement.status] += 1
            text = answer.text[:_EXAMPLE_CHARS] + (" .." if len(answer.text) > _EXAMPLE_CHARS else "")
            examples.append(ExampleAnswer(*place, judgement.status, judgement.detail[:_EXAMPLE_CHARS], text))
    return AnswerCounts(len(answers), sum(each.is_empty for each in answers.values()), tuple(examples))


def _about_empty(counts: AnswerCounts) -> list[str]:
    if counts.num_empty <= EMPTY_FRAC_WARNED * counts.num_answers:
        return []
    return [
        f"{counts.num_empty} of {counts.num_answers} answers are empty: Pass@K says little about the policy; look at "
        "raw_completion in samples.jsonl, and try another --format (docs/evaluation.md has a table)"
    ]


def _speed(samples: Sequence[Sample]) -> DecodingSpeed | None:
    if not samples:
        return None
    num_tokens, num_forwards = sum(each.num_tokens for each in samples), sum(each.num_forwards for each in samples)
    drafted = [sum(counts) for counts in zip(*(each.drafted for each in samples), strict=True)]
    accepted = [sum(counts) for counts in zip(*(each.accepted for each in samples), strict=True)]
    return DecodingSpeed(
        num_tokens=num_tokens,
        num_forwards=num_forwards,
        tokens_per_forward=num_tokens / num_forwards if num_forwards else None,
        accepted_frac=tuple(part / max(whole, 1) for part, whole in zip(accepted, drafted, strict=True)),
    )
