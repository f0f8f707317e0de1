"""The evaluator as a Ray actor: a policy that was handed over while it trains, decoded and judged in one process.

It owns a model, a judge and a device. Its priority is the lowest that the system has, so that on a machine whose cores
are all busy training goes first; the judge's programs come before its own decoding, since their time is limited. It
chooses nothing and remembers nothing: what it has done is in the folder of the step, where a restarted one goes on.
"""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from actors.stalls import enter_run, limited
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.evaluation.collecting.local_workers import LocalWorkers
from wmtp_ray.evaluation.decoding import decode
from wmtp_ray.evaluation.during.evaluate_step import StepEvaluation
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.run_folder import EVALUATION_STAGE
from wmtp_ray.tracking.decisions import Place, note_place
from wmtp_ray.tracking.run_log import log_stage, log_step
from wmtp_ray.training.evaluated_policy import EvaluatedPolicy
from wmtp_ray.training.parallel import choose_device, device_words

ROLE = "evaluator"
_JUDGE_NICENESS, _MORE_NICENESS = 10, 9  # of the judge; what decoding has beyond it


class PolicyEvaluator:
    """Evaluates one policy at a time; a wait past `deadlines.evaluation_s` ends its process, and Ray starts another."""

    def __init__(self, config: RunConfig, plan: StepEvaluationPlan) -> None:
        enter_run(config.run_dir, ROLE)
        log_stage(EVALUATION_STAGE)
        torch.set_num_threads(config.cluster.threads_per_worker)
        _be_nicer(_JUDGE_NICENESS)
        settings = plan.settings
        memory_bytes = int(settings.memory_limit_mb * (1 << 20))
        judge = Judge(plan.isolation_level, settings.timeout_s, num_workers=1, memory_limit_bytes=memory_bytes)
        _be_nicer(_MORE_NICENESS)
        device = choose_device(config.train.device if config.cluster.gpus_per_evaluator > 0 else "cpu", local_rank=0)
        is_half = device.type == "cuda" and config.train.dtype == "bfloat16"
        dtype = torch.bfloat16 if is_half else torch.float32
        self._policy = EvaluatedPolicy(config.model, device, dtype)
        tokenizer = run_tokenizer(config)
        decoded = partial(decode, self._policy.transformer, tokenizer, batch_size=settings.batch_size)
        self._evaluation = StepEvaluation(
            plan,
            config,
            tokenizer,
            file_sha256(ModelFolder(config.model.path).params),
            LocalWorkers(decoded, judge, num_judges=1),
            partial(limited, config.run_dir),
        )
        note_place(config.run_dir, Place(ROLE, device_words(device), str(dtype).removeprefix("torch.")))
        enter_run(config.run_dir, ROLE, is_ready=True)

    def ready(self) -> bool:
        """Return once the model is loaded, also where it is loaded anew."""
        return True

    def evaluate(self, step: int, snapshot: str) -> EvaluationResults:
        """Evaluate the policy after `step` steps, whose weights are in the file `snapshot`."""
        log_step(step)
        path = Path(snapshot)
        return self._evaluation.evaluate(step, file_sha256(path), lambda: self._policy.load(path))


def _be_nicer(more: int) -> None:
    with suppress(OSError, AttributeError):  # where the system knows no priorities, all are alike
        os.nice(more)
