"""Collect rows: draw answers, judge them, draw on where a problem lacks a class, write rows and their manifest.

What is drawn and judged is on the disk at once, so that the same command goes on after a kill. How many answers a
problem gets follows from their verdicts alone: neither a kill nor the number of workers changes the rows.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.collecting.answer_classes import ClassifiedAnswers, JudgedAnswer, Unusable, classify
from wmtp_ray.evaluation.collecting.collected_rows import Origin, chosen_answers, row_line
from wmtp_ray.evaluation.collecting.collection_manifest import (
    CollectionManifest,
    Tally,
    answers_of,
    manifest_of,
    read_collection_manifest,
)
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.shared_verdicts import SharedVerdicts
from wmtp_ray.evaluation.collecting.training_problems import TrainingProblem, TrainingProblems
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.evaluation_port import Workers
from wmtp_ray.evaluation.evaluation_progress import EvaluationProgress
from wmtp_ray.evaluation.formats import ChosenFormat
from wmtp_ray.evaluation.identity import KEY_CHARS, EvaluationIdentity, GivenSamples, ServedIdentity, claim_directory
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.samples import Place
from wmtp_ray.saved_records import write_record

Start = Callable[[], AbstractContextManager[Workers]]


@dataclass(frozen=True)
class CollectionPlan:
    """All that a collection needs but workers.

    `identity` names what answers and verdicts depend on; the number of answers is no part of it, so that more can be
    drawn later. `tokenizer` is the policy's, None where that of a server's model is not known. `left_out` says which
    problems of the file are passed over.
    """

    training: TrainingProblems
    policy: str
    chosen: ChosenFormat
    tokenizer: CodeTokenizer | None
    decoding: DecodingSettings
    identity: EvaluationIdentity
    settings: CollectionSettings
    out: Path
    left_out: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        """Where the answers come from."""
        answers = self.identity.answers
        assert not isinstance(answers, GivenSamples), "a policy answers"
        content = self.identity.content
        drawn = orjson.dumps([content["dataset"]["sha256"], content["answers"]], option=orjson.OPT_SORT_KEYS)
        return Origin(
            origin=hashlib.sha256(drawn).hexdigest()[:KEY_CHARS],
            weights_sha256=None if isinstance(answers, ServedIdentity) else answers.model.weights_sha256,
            temperature=answers.temperature,
            top_p=answers.top_p,
            seed=answers.seed if isinstance(answers, ServedIdentity) else answers.execution.seed,
        )


def collect(plan: CollectionPlan, start: Start, console: Console) -> CollectionManifest:
    """Write the rows to `plan.out` and the manifest beside them; workers start only if anything is left to do.

    Raises ConfigError where the answers there are of another policy, file of problems, setting or version, DataError
    where `plan.out` is a file that no collection wrote, or one that was changed since.
    """
    directory = answers_of(plan.out)
    _require_rows_of_a_collection(plan.out)
    claim_directory(directory, plan.identity)
    collection = _Collection(plan, Ledger(directory, plan.training.problems.kind))
    collection.draw(start, console)
    collection.close()
    return collection.write()


def _require_rows_of_a_collection(out: Path) -> None:
    """Raise DataError where writing the rows anew would lose what the user wrote."""
    if not out.exists():
        return
    if not answers_of(out).is_dir():
        raise DataError(
            f"{out}: found a {'directory' if out.is_dir() else 'file'} without {answers_of(out).name} beside it, "
            "expected a new name or the rows of a collection; choose another --out"
        )
    if manifest_of(out).exists() and file_sha256(out) != read_collection_manifest(out).rows_sha256:
        raise DataError(
            f"{out}: found other rows than the collection wrote ({manifest_of(out).name} has their hash), expected "
            "them unchanged: they would be overwritten; move the file away, and the same command writes it anew from "
            "its answers"
        )


class _Collection:
    """The answers so far, and what follows from them."""

    def __init__(self, plan: CollectionPlan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._answers = DecodedAnswers(plan.training.problems, None, plan.chosen.format, 0)
        self._tasks = {place: self._answers.task_of(sample) for place, sample in ledger.samples.items()}
        self._unusable: dict[str, Unusable | None] = {}
        self._verdicts = SharedVerdicts()
        for place, judgement in ledger.judgements.items():
            self._verdicts.know(self._tasks[place], judgement)

    def draw(self, start: Start, console: Console) -> None:
        """Decode and judge until every problem has its answers."""
        ledger = self._ledger
        with ExitStack() as stack:
            workers: Workers | None = None
            while places := self._missing():
                undrawn = [place for place in places if place not in ledger.samples]
                tasks = self._unjudged([place for place in places if place in ledger.samples])
                if undrawn or tasks:
                    requests = self._requests(undrawn)
                    workers = workers or stack.enter_context(start())
                    self._work(requests, tasks, workers, console)

    def _requests(self, places: list[Place]) -> list[DecodingRequest]:
        """Ask for answers: a server with text, our decoders with tokens."""
        plan, seed = self._plan, self._plan.origin.seed
        if isinstance(plan.identity.answers, ServedIdentity):
            return self._answers.text_requests_of(places, seed)
        assert plan.tokenizer is not None, "a decoder has a tokenizer"
        return self._answers.requests_of(places, plan.tokenizer, seed)

    def close(self) -> None:
        """Bring the files of answers and verdicts into their order."""
        self._ledger.close([each.task_id for each in self._plan.training.problems.problems])

    def write(self) -> CollectionManifest:
        """Write rows and manifest."""
        plan, tally = self._plan, Tally()
        digest = hashlib.sha256()
        manifest_of(plan.out).unlink(missing_ok=True)  # of other rows: rows without one are not finished
        with atomic_file(plan.out) as temporary, temporary.open("wb") as file:
            for line in self._lines(tally):
                file.write(line)
                digest.update(line)
        manifest = CollectionManifest(
            rows_sha256=digest.hexdigest(),
            origin=plan.origin.origin,
            policy=plan.policy,
            tokenizer_sha256=None if plan.tokenizer is None else plan.tokenizer.sha256,
            problems=str(plan.training.problems.path),
            problems_left_out=plan.left_out,
            format=plan.chosen.format.name,
            format_reason=plan.chosen.reason,
            settings=plan.settings,
            counts=tally.counts(),
            identity=plan.identity.content,
        )
        write_record(manifest_of(plan.out), manifest)
        return manifest

    def _lines(self, tally: Tally) -> Iterator[bytes]:
        """Yield the rows by problem and sample, and count."""
        plan, ledger, origin = self._plan, self._ledger, self._plan.origin
        for described in plan.training.described:
            classes, number = self._classified(described)
            chosen = chosen_answers(classes, plan.settings)
            places = [(described.problem.task_id, sample) for sample in range(number)]
            tally.add_answers([(ledger.samples[each], ledger.judgements[each]) for each in places])
            tally.add_rows(classes, [is_correct for is_correct, _ in chosen])
            for kept in chosen:
                found = ledger.samples[places[kept[1].sample]], ledger.judgements[places[kept[1].sample]]
                yield row_line(described, plan.training.source, kept, found, origin)

    def _unjudged(self, places: list[Place]) -> list[JudgeTask]:
        """Return what is to be judged of answers without a verdict; take the verdicts that are known."""
        tasks = [task for place in places if (task := self._verdicts.ask(self._tasks[place])) is not None]
        self._ledger.add_judgements(self._verdicts.settle([]))
        return tasks

    def _work(
        self, requests: list[DecodingRequest], tasks: list[JudgeTask], workers: Workers, console: Console
    ) -> None:
        ledger, answers = self._ledger, self._answers
        verdicts = [each.status for each in ledger.judgements.values()]
        total = len(ledger.samples) + len(requests)
        with EvaluationProgress(
            console, "collect", total=total, num_decoded=len(ledger.samples), verdicts=verdicts
        ) as progress:
            for found in workers.work(requests, self._plan.decoding, tasks, self._task_of):
                ledger.add_samples([answers.sample_of(each) for each in found.decoded])
                ledger.add_judgements(judgements := self._verdicts.settle(found.judgements))
                progress.advance(len(found.decoded), [each.status for each in judgements])

    def _task_of(self, decoded: Decoded) -> JudgeTask | None:
        sample = self._answers.sample_of(decoded)
        task = self._tasks[sample.place] = self._answers.task_of(sample)
        return self._verdicts.ask(task)

    def _missing(self) -> list[Place]:
        """Return the answers that are due and not decoded, or not judged."""
        due = (
            (each.problem.task_id, sample)
            for each in self._plan.training.described
            for sample in range(self._classified(each)[1])
        )
        return [place for place in due if place not in self._ledger.judgements]

    def _classified(self, described: TrainingProblem) -> tuple[ClassifiedAnswers, int]:
        """Return a problem's answers by class, and how many answers it gets by what is known now."""
        settings, task_id = self._plan.settings, described.problem.task_id
        number = settings.num_samples
        while True:
            known = [self._judged(task_id, sample) for sample in range(number)]
            classes = classify([each for each in known if each is not None])
            is_enough = settings.until_both is None or classes.has(settings.until_both)
            if None in known or is_enough or number == settings.most_samples:
                return classes, number
            number = min(number + settings.num_samples, settings.most_samples)

    def _judged(self, task_id: str, sample: int) -> JudgedAnswer | None:
        """Return an answer with its verdict, None without one."""
        judgement = self._ledger.judgements.get((task_id, sample))
        if judgement is None:
            return None
        task = self._tasks[task_id, sample]
        return JudgedAnswer(sample, task.program, judgement.status, self._why_unusable(task))

    def _why_unusable(self, task: JudgeTask) -> Unusable | None:
        if task.is_empty or not task.program.strip():
            return "empty"
        tokenizer = self._plan.tokenizer
        if task.program not in self._unusable:
            is_changed = tokenizer is not None and _is_changed(task.program, tokenizer)
            self._unusable[task.program] = "changed" if is_changed else None
        return self._unusable[task.program]


def _is_changed(program: str, tokenizer: CodeTokenizer) -> bool:
    try:
        tokenizer.encode_with_offsets(program)
    except ChangedText:
        return True
    return False
