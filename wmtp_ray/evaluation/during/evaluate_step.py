"""One policy of a training run evaluated on the planned problems: answers, verdicts and results in its step's folder.

What the folder holds of this very policy is not done again, whoever began it: an evaluator that died, or a run that was
killed and trains these steps anew. What it holds of another policy is removed.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import Decoded, DecodingSettings
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.evaluation.evaluation_port import Findings, Workers
from wmtp_ray.evaluation.identity import (
    EvaluationIdentity,
    Execution,
    ModelHashes,
    claim_directory,
    decoding_identity,
    identify,
    key_in,
)
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.results import Answer, EvaluationResults, Sources, summarise, write_results
from wmtp_ray.training.block_limit import Limit, no_limit


class StepEvaluation:
    """The planned problems with who decodes and judges; `evaluate` takes one policy after the other.

    `params_sha256` names the shape of the policy. `limit` bounds the wait for each answer or verdict.
    """

    def __init__(
        self,
        plan: StepEvaluationPlan,
        config: RunConfig,
        tokenizer: CodeTokenizer,
        params_sha256: str,
        workers: Workers,
        limit: Limit = no_limit,
    ) -> None:
        self._plan = plan
        self._config = config
        self._tokenizer = tokenizer
        self._params_sha256 = params_sha256
        self._workers = workers
        self._limit = limit
        self._scores = StepScores(plan.home(config.folder.step_evaluations))

    def evaluate(self, step: int, weights_sha256: str, load: Callable[[], None]) -> EvaluationResults:
        """Evaluate the policy after `step` steps, and write results.json; `load` puts it in place if it is needed."""
        identity = self._identity(weights_sha256)
        directory = self._scores.folder_of(step)
        if key_in(directory) == identity.key and (known := self._scores.results_of(step)) is not None:
            return known
        if key_in(directory) not in (None, identity.key):
            shutil.rmtree(directory)
        claim_directory(directory, identity)
        load()
        return self._evaluated(directory, identity)

    def _evaluated(self, directory: Path, identity: EvaluationIdentity) -> EvaluationResults:
        started, settings, dataset = time.perf_counter(), self._plan.settings, self._plan.dataset
        ledger = Ledger(directory, dataset.problems.kind)
        answers = DecodedAnswers(dataset.problems, settings.limit, dataset.prompt_format, settings.num_samples)
        self._decode_and_judge(ledger, answers)
        task_ids = [problem.task_id for problem in dataset.problems.first(settings.limit)]
        ledger.close(task_ids)
        given = {place: Answer(each.answer, each.is_empty) for place, each in ledger.samples.items()}
        seconds = time.perf_counter() - started
        results = summarise(
            identity, self._sources(directory), task_ids, ledger.samples, ledger.judgements, given, settings.k, seconds
        )
        write_results(directory, results)
        return results

    def _decode_and_judge(self, ledger: Ledger, answers: DecodedAnswers) -> None:
        """Do what the ledger lacks, and record it as it comes."""

        def task_of(decoded: Decoded) -> JudgeTask:
            return answers.task_of(answers.sample_of(decoded))

        requests = answers.requests(ledger, self._tokenizer, self._config.seed)
        settings = DecodingSettings.of(self._plan.settings, self._plan.dataset.prompt_format.stop)
        tasks = ledger.unjudged(map(answers.task_of, ledger.samples.values()))
        coming = iter(self._workers.work(requests, settings, tasks, task_of))
        what, deadline_s = "The next answer or verdict (deadlines.evaluation_s)", self._config.deadlines.evaluation_s
        while True:
            with self._limit(what, deadline_s):
                found: Findings | None = next(coming, None)
            if found is None:
                return
            ledger.add_samples([answers.sample_of(each) for each in found.decoded])
            ledger.add_judgements(found.judgements)

    def _identity(self, weights_sha256: str) -> EvaluationIdentity:
        config, plan = self._config, self._plan
        hashes = ModelHashes(weights_sha256, self._params_sha256, self._tokenizer.sha256)
        execution = Execution(config.seed, config.train.device, config.train.dtype, config.cluster.threads_per_worker)
        answered = decoding_identity(hashes, plan.dataset.prompt_format, plan.settings, execution)
        return identify(plan.dataset.problems, answered, plan.settings, plan.isolation_level)

    def _sources(self, directory: Path) -> Sources:
        dataset = self._plan.dataset
        return Sources(
            dataset=dataset.name,
            dataset_path=str(dataset.problems.path),
            left_out=dataset.problems.left_out,
            answers_path=f"the policy of {directory.name} of {self._config.run_dir}",
            tokenizer_path=str(self._config.tokenizer.path),
            num_problems=dataset.problems.size,
            format_reason=dataset.format_reason,
        )
