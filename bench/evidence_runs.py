"""Stages of a run in this one process, without Ray: the project's own plans, losses, critic, decoder and judge.

`train` is `training/stage_run.py::run_stage` over batches that are read and scored here; `evaluate` decodes and judges
what `flows/evaluate` would. So an experiment costs its arithmetic alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from wmtp_ray.artifacts.meta_checkpoint import load_transformer, load_value_path
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch, Scores, StepReport, TokenBatch
from wmtp_ray.data.collate import collate
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.evaluation.decoding import DecodingSettings, decode
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import JudgeTask, judge_answer
from wmtp_ray.evaluation.ledger import DecodedAnswers
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_ensemble import ValueEnsemble
from wmtp_ray.model.value_model import ValueModel
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.run_plan import PlannedBatch, RunPlan, rank_batches
from wmtp_ray.ranks import OneRank
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE
from wmtp_ray.scoring.contract import critic_scores
from wmtp_ray.training.block_limit import no_limit
from wmtp_ray.training.loop import ScoredStep
from wmtp_ray.training.measure_critic import HealthFindings
from wmtp_ray.training.references import References
from wmtp_ray.training.stage_run import Outside, run_stage
from wmtp_ray.training.stage_start import RankStage
from wmtp_ray.training.stages import (
    critic_bundle,
    critic_stage,
    policy_stage,
    read_stage_result,
    stage_directory,
)

Score = Callable[[TokenBatch], Scores]


@dataclass(frozen=True)
class Trained:
    """A stage that is done: where its policy lies, what it cost, what it found out about the critic.

    `cpu_s` and `reports` are those of the process that trained it: None and empty where an earlier one has.
    """

    directory: Path
    steps: int
    cpu_s: float | None
    reports: tuple[StepReport, ...]
    health: HealthFindings | None


def train(config: RunConfig, stage: int) -> Trained:
    """Run stage 1 or 2 of a configuration to its end; a stage that is done already is not repeated."""
    directory = stage_directory(config, stage)
    plan = prepare(config).plans[stage]
    done = read_stage_result(directory)
    if done is not None:
        return Trained(config.folder.stage(stage).final, done.steps, None, (), done.health)
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    recipe = critic_stage(config) if stage == CRITIC_STAGE else policy_stage(config)
    rank = RankStage(
        config,
        recipe,
        directory,
        OneRank(),
        torch.device("cpu"),
        plan.num_steps,
        plan.digest,
        checkpoint=None,
        first_step=0,
        finish_step=None if plan.finish is None else plan.finish.start_step,
        horizon_starts=plan.horizon_starts,
    )
    sink = _ReportList()
    batches = _Batches(config, plan, _score(config) if stage == TRAIN_STAGE else None)
    started = time.process_time()
    run_stage(rank, Outside(lambda _: batches, follows=None, sink=sink, limit=no_limit))
    cpu_s = time.process_time() - started
    result = read_stage_result(directory)
    assert result is not None, "no stop was asked for"
    return Trained(config.folder.stage(stage).final, result.steps, cpu_s, tuple(sink.reports), result.health)


def evaluate(config: RunConfig, model: Path, *, num_samples: int, temperature: float) -> dict[str, list[bool]]:
    """Decode `num_samples` answers to every problem of the configuration and judge them: verdicts by problem."""
    prepared = prepare(config)
    assert prepared.evaluation is not None, "stage 3 is in stages"
    (dataset,) = prepared.evaluation.datasets
    settings, tokenizer = config.evaluation, CodeTokenizer(config.tokenizer.path)
    answers = DecodedAnswers(dataset.problems, settings.limit, dataset.prompt_format, num_samples)
    decoding = replace(DecodingSettings.of(settings, dataset.prompt_format.stop), temperature=temperature)
    places = [(each.task_id, n) for each in dataset.problems.first(settings.limit) for n in range(num_samples)]
    requests = answers.requests_of(places, tokenizer, config.seed)
    policy = load_transformer(model).eval().requires_grad_(False)
    tasks = [
        answers.task_of(answers.sample_of(each))
        for each in decode(policy, tokenizer, requests, decoding, batch_size=settings.batch_size)
    ]
    return _judged(tasks, config)


def _judged(tasks: list[JudgeTask], config: RunConfig) -> dict[str, list[bool]]:
    """Verdicts by problem, in the order of the samples; equal programs are judged once."""
    verdicts: dict[tuple[str, str], bool] = {}
    with Judge(config.evaluation.isolation, config.evaluation.timeout_s, num_workers=1) as judge:
        for task in tasks:
            place = task.task_id, task.program
            if place not in verdicts:
                judgement = judge_answer(judge, task)
                assert judgement.status != "error", judgement.detail
                verdicts[place] = judgement.status == "pass"
    passed: dict[str, list[bool]] = {}
    for task in sorted(tasks, key=lambda each: (each.task_id, each.sample)):
        passed.setdefault(task.task_id, []).append(verdicts[task.task_id, task.program])
    return passed


class _Batches:
    """The steps of a plan, read, tokenised and scored when they are asked for."""

    def __init__(self, config: RunConfig, plan: RunPlan, score: Score | None) -> None:
        self._score, self._tokenizer = score, CodeTokenizer(config.tokenizer.path)
        self._rows = TrainedRows.of_stage(config, plan.stage)
        budget = config.train.micro_batch_tokens
        planned = rank_batches(plan, self._rows.index, rank=0, num_ranks=1, start_step=0, micro_batch_tokens=budget)
        self._steps = groupby(planned, key=lambda each: each.step)

    def next(self, step: int) -> ScoredStep:
        found, planned = next(self._steps)
        assert found == step, "steps are asked for in order"
        batches = [self._read(each) for each in planned]
        scores = [None if self._score is None else self._score(each) for each in batches]
        scored = [ScoredBatch(batch, of_batch, 0, 0.0) for batch, of_batch in zip(batches, scores, strict=True)]
        return ScoredStep(scored, data_wait_s=0.0)

    def _read(self, planned: PlannedBatch) -> TokenBatch:
        examples = self._rows.read(planned.row_ids_N, self._tokenizer)
        return collate(examples, step=planned.step, micro_step=planned.micro_step)


def _score(config: RunConfig) -> Score | None:
    """What scores the batches of a run, in the place of its actors: its frozen critic, its references, or nothing."""
    if config.references:
        return References([each.path for each in config.references], torch.device("cpu"), "float32").scores
    if not config.uses_critic:
        return None
    bundle = critic_bundle(config)
    assert bundle is not None, "stage 1 has run, or critic.path is given"
    assert config.critic.source == "frozen", "without Ray no critic follows the policy"
    return partial(_values, load_value_path(bundle, ValueSpec.of(config)).eval().requires_grad_(False))


@torch.no_grad()
def _values(critic: ValueModel | ValueEnsemble, batch: TokenBatch) -> Scores:
    return critic_scores(critic.scores(BatchTensors.from_batch(batch, torch.device("cpu"))), version=0)


class _ReportList:
    """Keeps the reports of a stage in memory."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def start_from(self, stage: int, step: int) -> None:
        self.reports.clear()

    def send(self, report: StepReport) -> None:
        self.reports.append(report)

    def recorded(self) -> list[StepReport]:
        return self.reports

    def flush(self) -> None:
        pass
