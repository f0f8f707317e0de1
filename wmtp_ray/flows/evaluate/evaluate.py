"""Evaluate a policy, or a file of samples, on sets of problems: decode, judge meanwhile, estimate; resume after a kill.

The sandbox is tried before this (`evaluation/evaluation_plan.py`); `evaluate_command.py` is the verb, and
`evaluate_run.py` stage 3 of a run.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from wmtp_ray import interrupts
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.evaluation.answerers import Answerer, LoadedPolicy, PolicyFiles, ServedPolicy
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.engine import find_served_model
from wmtp_ray.evaluation.evaluation_plan import EvaluationPlan, PlannedDataset
from wmtp_ray.evaluation.evaluation_progress import EvaluationProgress
from wmtp_ray.evaluation.identity import (
    EvaluationIdentity,
    GivenSamples,
    ServedIdentity,
    claim_directory,
    identify,
)
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.results import Answer, EvaluationResults, Sources, summarise, write_results
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.evaluation.served_warnings import nothing_was_asked
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.evaluate.evaluation_workers import EvaluationWorkers, started_workers
from wmtp_ray.preflight.needed_resources import evaluation_resources
from wmtp_ray.preflight.start_checks import check_resources
from wmtp_ray.tracking.run_log import DRIVER
from wmtp_ray.tracking.run_warnings import RunWarnings, show_warnings

Place = Callable[[PlannedDataset, EvaluationIdentity], Path]


@dataclass(frozen=True)
class OtherSettings:
    """A second evaluation of the same policy and data sets: other answers, in other folders."""

    settings: EvaluationConfig
    place: Place


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is done, and the folder that holds it."""

    directory: Path
    results: EvaluationResults


@dataclass(frozen=True)
class Work:
    """One evaluation as the workers see it: what is left to decode and to judge, and where the results go."""

    dataset: PlannedDataset
    identity: EvaluationIdentity
    sources: Sources
    directory: Path
    ledger: Ledger
    requests: list[DecodingRequest]
    settings: DecodingSettings | None
    tasks: list[JudgeTask]
    answers: DecodedAnswers | None
    given: dict[tuple[str, int], Answer]
    num_answers: int
    ks: Sequence[int]


def evaluate_policy(
    config: RunConfig,
    plan: EvaluationPlan,
    policy: PolicyFiles | None,
    place: Place,
    process_dir: Path,
    also: Sequence[OtherSettings] = (),
) -> list[Evaluated]:
    """Evaluate a policy on every planned data set, each in the folder that `place` says; write results.json there.

    Actors record their processes in `process_dir`. What a folder holds already is not decoded or judged again. The same
    actors do `also`, other settings in other folders; what is found of them comes behind. Raises ConfigError where a
    folder holds another evaluation.

    With `evaluation.engine=openai` the server of `engine.url` answers; `policy` is then what it is said to serve, None
    where nothing is said. ConfigError where no server answers there.
    """
    served = find_served_model(config.engine) if config.evaluation.engine == "openai" else None
    answerer: Answerer
    if served is not None:
        answerer = ServedPolicy(served, policy)
    else:
        assert policy is not None, "a decoder loads a policy"
        answerer = LoadedPolicy(policy)
    asked = [
        (config, place),
        *((config.model_copy(update={"evaluation": each.settings}), each.place) for each in also),
    ]
    works = [
        _policy_work(settings, plan, dataset, answerer, folder)
        for settings, folder in asked
        for dataset in plan.datasets
    ]
    return _do_all(config, plan, works, served or policy, process_dir)


def judge_samples(
    config: RunConfig, plan: EvaluationPlan, samples: Path, tasks: list[JudgeTask], place: Place, process_dir: Path
) -> Evaluated:
    """Judge `tasks`, read from the file `samples`, as answers to the one planned data set."""
    (dataset,) = plan.datasets
    identity = identify(dataset.problems, GivenSamples(file_sha256(samples)), config.evaluation, plan.isolation_level)
    directory = place(dataset, identity)
    claim_directory(directory, identity)
    ledger = Ledger(directory, dataset.problems.kind)
    work = Work(
        dataset=dataset,
        identity=identity,
        sources=_sources(dataset, str(samples), None),
        directory=directory,
        ledger=ledger,
        requests=[],
        settings=None,
        tasks=ledger.unjudged(tasks),
        answers=None,
        given={(task.task_id, task.sample): Answer(task.program, task.is_empty) for task in tasks},
        num_answers=len(tasks),
        ks=config.evaluation.k,
    )
    return _do_all(config, plan, [work], None, process_dir)[0]


def _policy_work(
    config: RunConfig,
    plan: EvaluationPlan,
    dataset: PlannedDataset,
    answerer: Answerer,
    place: Place,
) -> Work:
    settings = config.evaluation
    answered = answerer.identity(config, dataset.prompt_format)
    identity = identify(dataset.problems, answered, settings, plan.isolation_level)
    directory = place(dataset, identity)
    claim_directory(directory, identity)
    ledger = Ledger(directory, dataset.problems.kind)
    answers = DecodedAnswers(dataset.problems, settings.limit, dataset.prompt_format, settings.num_samples)
    return Work(
        dataset=dataset,
        identity=identity,
        sources=_sources(dataset, answerer.path, answerer),
        directory=directory,
        ledger=ledger,
        requests=answerer.requests(answers, ledger, config.seed),
        settings=DecodingSettings.of(settings, dataset.prompt_format.stop),
        tasks=ledger.unjudged(map(answers.task_of, ledger.samples.values())),
        answers=answers,
        given={},
        num_answers=settings.num_samples * len(dataset.problems.first(settings.limit)),
        ks=settings.k,
    )


def _do_all(
    config: RunConfig,
    plan: EvaluationPlan,
    works: Sequence[Work],
    policy: PolicyFiles | ServedModel | None,
    process_dir: Path,
) -> list[Evaluated]:
    """Do what is left of every evaluation, on actors that start only if anything is left."""
    console = Console(quiet=not config.tracking.progress)
    has_requests = any(work.requests for work in works)
    with ExitStack() as stack:
        warned = stack.enter_context(RunWarnings(process_dir, DRIVER))
        stack.callback(lambda: show_warnings(process_dir, warned.new()))  # once the workers have ended
        workers: EvaluationWorkers | None = None
        if has_requests or any(work.tasks for work in works):
            needed = evaluation_resources(config, with_decoders=has_requests)
            check_resources(config, [needed])  # before the seconds that Ray takes to start
            stack.enter_context(joined(config.cluster.num_cpus))
            stack.enter_context(interrupts.raised())  # so that decoders and judges clear up
            loaded = policy if has_requests else None
            workers = stack.enter_context(started_workers(config, loaded, plan.isolation_level, process_dir))
        return [_do(work, workers, console) for work in works]


def _do(work: Work, workers: EvaluationWorkers | None, console: Console) -> Evaluated:
    started, ledger = time.perf_counter(), work.ledger
    verdicts = [each.status for each in ledger.judgements.values()]
    progress = EvaluationProgress(
        console, work.dataset.name, total=work.num_answers, num_decoded=len(ledger.samples), verdicts=verdicts
    )
    if workers is not None and (work.requests or work.tasks):
        with progress:
            for found in workers.work(work.requests, work.settings, work.tasks, _task_of(work)):
                ledger.add_samples([_answers(work).sample_of(each) for each in found.decoded])
                ledger.add_judgements(found.judgements)
                progress.advance(len(found.decoded), [each.status for each in found.judgements])
    task_ids = [problem.task_id for problem in work.dataset.problems.problems[: work.identity.dataset.num_problems]]
    ledger.close(task_ids)
    seconds = time.perf_counter() - started
    answers = work.given or {place: Answer(each.answer, each.is_empty) for place, each in ledger.samples.items()}
    results = summarise(
        work.identity, work.sources, task_ids, ledger.samples, ledger.judgements, answers, work.ks, seconds
    )
    if isinstance(work.identity.answers, ServedIdentity) and not work.requests:
        note = nothing_was_asked(work.identity.answers.server.words)
        results = replace(results, warnings=(*results.warnings, note))
    write_results(work.directory, results)
    return Evaluated(work.directory, results)


def _task_of(work: Work) -> Callable[[Decoded], JudgeTask]:
    return lambda decoded: _answers(work).task_of(_answers(work).sample_of(decoded))


def _answers(work: Work) -> DecodedAnswers:
    assert work.answers is not None, "given samples are not decoded"
    return work.answers


def _sources(dataset: PlannedDataset, answers_path: str, answerer: Answerer | None) -> Sources:
    return Sources(
        dataset=dataset.name,
        dataset_path=str(dataset.problems.path),
        left_out=dataset.problems.left_out,
        answers_path=answers_path,
        tokenizer_path=None if answerer is None else answerer.tokenizer_path,
        training=None if answerer is None else answerer.training,
        num_problems=dataset.problems.size,
        format_reason="" if answerer is None else dataset.format_reason,
    )
