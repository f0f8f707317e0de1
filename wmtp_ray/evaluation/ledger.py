"""What one evaluation has decoded and judged so far, on the disk as soon as it is known. Decodes and judges nothing.

A ledger that is opened again goes on where it was killed. Verdicts `error` are forgotten on opening: the judge failed,
so those answers are judged once more.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, request_seed
from wmtp_ray.evaluation.judging import INFRASTRUCTURE, Judgement, JudgeTask
from wmtp_ray.evaluation.problems import Problem, ProblemSet
from wmtp_ray.evaluation.prompts import PromptFormat, goal_of, program_of, sanitise
from wmtp_ray.evaluation.samples import (
    SAMPLES,
    VERDICTS,
    JsonLines,
    Place,
    Sample,
    judgement_of,
    judgement_record,
    sample_of,
    sample_record,
    write_records,
)


class Ledger:
    """Answers and verdicts by (task_id, sample), each appended to its file before the next is waited for."""

    def __init__(self, directory: Path, kind: ProblemKind) -> None:
        self._kind = kind
        self._samples_file = JsonLines(directory / SAMPLES)
        self._verdicts_file = JsonLines(directory / VERDICTS)
        self.samples: dict[Place, Sample] = {}
        for number, record in enumerate(self._samples_file.records, start=1):
            sample = sample_of(record, kind, f"{self._samples_file.path}:{number}")
            self.samples[sample.place] = sample
        self.judgements: dict[Place, Judgement] = {}
        for number, record in enumerate(self._verdicts_file.records, start=1):
            judgement = judgement_of(record, f"{self._verdicts_file.path}:{number}")
            if judgement.status != INFRASTRUCTURE:
                self.judgements[judgement.task_id, judgement.sample] = judgement

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Record answers."""
        if samples:
            self._samples_file.append(sample_record(sample, self._kind) for sample in samples)
        self.samples |= {sample.place: sample for sample in samples}

    def add_judgements(self, judgements: Sequence[Judgement]) -> None:
        """Record verdicts."""
        if judgements:
            self._verdicts_file.append(map(judgement_record, judgements))
        self.judgements |= {(each.task_id, each.sample): each for each in judgements}

    def unjudged(self, tasks: Iterable[JudgeTask]) -> list[JudgeTask]:
        """Return the tasks that have no verdict yet."""
        return [task for task in tasks if (task.task_id, task.sample) not in self.judgements]

    def close(self, task_ids: Sequence[str]) -> None:
        """Write both files anew in the order of the problems and samples, whatever order they came in."""
        self._samples_file.close()
        self._verdicts_file.close()
        order = {task_id: number for number, task_id in enumerate(task_ids)}

        def rank(place: Place) -> tuple[int, int]:
            return order[place[0]], place[1]

        samples = [sample_record(self.samples[place], self._kind) for place in sorted(self.samples, key=rank)]
        if samples:
            write_records(self._samples_file.path, samples)
        else:
            self._samples_file.path.unlink()
        judgements = [judgement_record(self.judgements[place]) for place in sorted(self.judgements, key=rank)]
        write_records(self._verdicts_file.path, judgements)


class DecodedAnswers:
    """The answers of one policy to one set of problems: what to request, and which part of an answer is judged."""

    def __init__(self, problems: ProblemSet, limit: int | None, prompt_format: PromptFormat, num_samples: int) -> None:
        self._set = problems
        self._problems = {problem.task_id: problem for problem in problems.first(limit)}
        self._format = prompt_format
        self._num_samples = num_samples

    def requests(self, ledger: Ledger, tokenizer: CodeTokenizer, seed: int) -> list[DecodingRequest]:
        """Return the requests without an answer, those of one problem together."""
        return self.requests_of(self._missing(ledger), tokenizer, seed)

    def requests_of(self, places: Sequence[Place], tokenizer: CodeTokenizer, seed: int) -> list[DecodingRequest]:
        """Return the requests of some answers; one depends on problem, number and `seed` alone."""
        prompts = {
            task_id: self._format.prompt_ids(self._problems[task_id], self._set, tokenizer)
            for task_id in dict.fromkeys(task_id for task_id, _ in places)
        }
        return [
            DecodingRequest(
                _key(task_id, sample),
                prompts[task_id],
                request_seed(seed, task_id, sample),
                self._format.end_of(self._problems[task_id]),
            )
            for task_id, sample in places
        ]

    def text_requests(self, ledger: Ledger, seed: int) -> list[DecodingRequest]:
        """Return the same requests for a server: prompts as text, which it tokenises itself."""
        return self.text_requests_of(self._missing(ledger), seed)

    def text_requests_of(self, places: Sequence[Place], seed: int) -> list[DecodingRequest]:
        """Return the requests of some answers for a server."""
        return [
            DecodingRequest(
                _key(task_id, sample),
                (),
                request_seed(seed, task_id, sample),
                self._format.end_of(self._problems[task_id]),
                self._format.text(self._problems[task_id], self._set),
            )
            for task_id, sample in places
        ]

    def _missing(self, ledger: Ledger) -> list[Place]:
        places = ((task_id, sample) for task_id in self._problems for sample in range(self._num_samples))
        return [place for place in places if place not in ledger.samples]

    def sample_of(self, decoded: Decoded) -> Sample:
        """Read what a decoder gave back."""
        task_id, sample = _place(decoded.key)
        problem = self._problems[task_id]
        answer = sanitise(decoded.text, self._format.sanitiser, goal_of(problem))
        return Sample(
            task_id=task_id,
            sample=sample,
            answer=self._program_of(problem, answer)[self._prompt_chars(problem) :],
            raw_completion=decoded.raw_text,
            finish=decoded.finish,
            num_tokens=decoded.num_tokens,
            num_forwards=decoded.num_forwards,
            drafted=decoded.drafted_H,
            accepted=decoded.accepted_H,
            served=decoded.served,
        )

    def task_of(self, sample: Sample) -> JudgeTask:
        """Return an answer as a program with its tests."""
        problem = self._problems[sample.task_id]
        program = self._program_of(problem, sample.answer)
        return JudgeTask(sample.task_id, sample.sample, program, problem.tests, sample.is_empty)

    def _program_of(self, problem: Problem, answer: str) -> str:
        return program_of(problem, self._set.kind, answer)

    def _prompt_chars(self, problem: Problem) -> int:
        """Characters of a program that are the prompt's own, which an answer does not repeat."""
        return len(problem.prompt) if self._set.kind == "humaneval" else 0


def _key(task_id: str, sample: int) -> str:
    return f"{task_id}#{sample}"


def _place(key: str) -> Place:
    task_id, _, sample = key.rpartition("#")
    return task_id, int(sample)
