"""The evaluator as a Ray actor: a policy that was handed over while it trains, decoded and judged in one process.

It owns a model, a judge and a device. It computes where others leave a core idle: on Linux its decoding has the policy
SCHED_IDLE. Ray's own workers, the ranks among them, have a niceness of 15. Beside it 19 is still a share of 30 % of a
core that both want, SCHED_IDLE one of 8 %, and resting where it waits for a core (`give_way.py`) makes 4 % of that. The
judge's programs have the niceness alone, since their time on the wall is limited. It chooses nothing and remembers
nothing: what it has done is in the folder of the step, where a restarted one goes on.
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
from wmtp_ray.evaluation.during.give_way import GivesWay
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
_NICENESS = 19


class PolicyEvaluator:
    """Evaluates one policy at a time; a wait past `deadlines.evaluation_s` ends its process, and Ray starts another."""

    def __init__(self, config: RunConfig, plan: StepEvaluationPlan) -> None:
        enter_run(config.run_dir, ROLE)
        log_stage(EVALUATION_STAGE)
        torch.set_num_threads(config.cluster.threads_per_worker)
        _be_nice()
        settings = plan.settings
        memory_bytes = int(settings.memory_limit_mb * (1 << 20))
        judge = Judge(plan.isolation_level, settings.timeout_s, num_workers=1, memory_limit_bytes=memory_bytes)
        _compute_when_idle()
        device = choose_device(config.train.device if config.cluster.gpus_per_evaluator > 0 else "cpu", local_rank=0)
        is_half = device.type == "cuda" and config.train.dtype == "bfloat16"
        dtype = torch.bfloat16 if is_half else torch.float32
        self._policy = EvaluatedPolicy(config.model, device, dtype)
        self._gives_way = GivesWay()
        if device.type == "cpu":  # elsewhere a thread waits for its device
            self._policy.transformer.tok_embeddings.register_forward_pre_hook(self._gives_way)
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
        self._gives_way.begin()
        path = Path(snapshot)
        return self._evaluation.evaluate(step, file_sha256(path), lambda: self._policy.load(path))


def _be_nice() -> None:
    """Give this thread, and all that it starts, the lowest ordinary priority."""
    with suppress(OSError, AttributeError):  # where the system knows no priorities, all are alike
        os.nice(_NICENESS)


def _compute_when_idle() -> None:
    """Give this thread, and all that it starts from now on, what others leave of the cores (Linux)."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
