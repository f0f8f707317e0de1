"""The driver's part in evaluating the policy while stage 2 trains: it starts the evaluator and brings it the policies.

Rank 0 leaves a policy as a file (`training/policy_evaluations.py`). The driver looks for one between two looks at
everything else, has the evaluator take it, records what it finds as metrics of the step that the policy had made, and
removes the file. Nothing here is waited for while the ranks train, and no failure of it ends the run:

| what happens | then |
|---|---|
| the evaluator dies, or an evaluation fails | a warning; Ray starts it again, and it goes on with the same policy |
| `MOST_FAILURES` times without one that succeeds | a warning; no policy of this start is evaluated any more |
| the ranks start again | a policy that was not taken yet is gone; they hand over another |
| training is over | what was handed over is waited for, at most `deadlines.evaluation_s`, then dropped with a warning |
| the run is stopped | what was handed over is dropped; a run that continues hands over what it trains |
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.policy_evaluator import PolicyEvaluator
from wmtp_ray.artifacts.snapshots import version_of_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan
from wmtp_ray.evaluation.during.step_scores import StepScores, due_steps
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.run_folder import EVALUATION_STAGE
from wmtp_ray.tracking.decisions import EvaluatedSteps, note_evaluated_steps
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.training.policy_evaluations import close_evaluations

_LOG = logging.getLogger(__name__)
MOST_FAILURES = 3
_LOOKED_S = 0.2
_SHOWN = 5  # steps in a message


@dataclass(frozen=True)
class _Evaluating:
    """A policy that the evaluator has."""

    step: int
    snapshot: Path
    answer: Any


class StepEvaluations:
    """The evaluations of one start of stage 2; without a `plan` there are none, and every call does nothing.

    `evaluator_class` is the class behind the actor.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: StepEvaluationPlan | None,
        metrics: Any,
        evaluator_class: type[PolicyEvaluator] = PolicyEvaluator,
    ) -> None:
        self._config = config
        self._plan = plan
        self._metrics = metrics
        self._root = config.folder.evaluated_snapshots
        self._running: _Evaluating | None = None
        self._num_failures = 0
        self._coming: Any = None  # the answer of an evaluator that starts again
        self._actor: Any = None
        if plan is None:
            return
        shutil.rmtree(self._root, ignore_errors=True)  # of an earlier start
        cluster = config.cluster
        remote: Any = ray.remote(evaluator_class).options(
            num_cpus=cluster.cpus_per_evaluator, num_gpus=cluster.gpus_per_evaluator, max_restarts=-1
        )
        self._actor = remote.remote(config, plan)

    @property
    def scores(self) -> StepScores | None:
        """What has been found so far, None where nothing is evaluated."""
        return None if self._plan is None else StepScores(self._plan.home(self._config.folder.step_evaluations))

    def look(self) -> None:
        """Record an evaluation that is done, and have the next policy evaluated; waits for neither."""
        if self._actor is None or not self._has_come():
            return
        if self._running is not None:
            if not ray.wait([self._running.answer], timeout=0)[0]:
                return
            self._take(self._running)
        if self._coming is None and (snapshot := self._waiting()) is not None:
            step = version_of_file(snapshot)
            self._running = _Evaluating(step, snapshot, self._actor.evaluate.remote(step, str(snapshot)))

    def finish(self, num_steps: int, is_stopped: Callable[[], bool]) -> None:
        """Wait for what was handed over, within `deadlines.evaluation_s`; record which steps were evaluated."""
        scores = self.scores
        if scores is None or self._plan is None:
            return
        self._wait(is_stopped)
        self._record_lost(scores)
        if is_stopped():
            return
        steps = scores.steps()
        left_out = tuple(step for step in due_steps(self._plan.interval, num_steps) if step not in steps)
        best = scores.best_step()
        found = None if best is None else scores.pass_at_1(best)
        note_evaluated_steps(
            self._config.run_dir, EvaluatedSteps(self._plan.key, self._plan.dataset.name, best, found, left_out)
        )
        _LOG.info("Evaluated after %s steps; the highest Pass@1 after %s", _listed(steps), best)
        if left_out:
            num_due = len(steps) + len(left_out)
            _LOG.warning(
                "%d of %d evaluations while the policy trained were left out: after %s steps (metrics.jsonl: "
                "eval/skipped)",
                len(left_out),
                num_due,
                _listed(left_out),
            )

    def close(self) -> None:
        """End the evaluator, and remove what was handed over."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None
            shutil.rmtree(self._root, ignore_errors=True)

    def _has_come(self) -> bool:
        """Whether the evaluator answers; one that starts again would refuse what it is asked."""
        if self._coming is None:
            return True
        if not ray.wait([self._coming], timeout=0)[0]:
            return False
        answer, self._coming = self._coming, None
        try:
            ray.get(answer)
        except RayError as error:
            self._count_failure(f"The evaluator does not start again: {_last_line(error)}")
            return False
        return True

    def _waiting(self) -> Path | None:
        """Return the oldest policy that was handed over and waits."""
        return min(self._root.glob("*/version_*.safetensors"), key=version_of_file, default=None)

    def _take(self, done: _Evaluating) -> None:
        self._running = None
        try:
            results: EvaluationResults = ray.get(done.answer)
        except RayError as error:
            self._note_failure(done, error)
            return
        self._num_failures = 0
        self._metrics.log.remote(_report_of(done.step, results))
        _LOG.info("The policy of step %d: %s", done.step, _words(results))
        done.snapshot.unlink(missing_ok=True)

    def _note_failure(self, failed: _Evaluating, error: RayError) -> None:
        if not failed.snapshot.exists():
            _LOG.info("The evaluation of step %d ended with the ranks that had handed it over", failed.step)
            return
        reason = _last_line(error.cause) if isinstance(error, RayTaskError) else "its process died"
        self._count_failure(f"The evaluation of step {failed.step} failed: {reason}")

    def _count_failure(self, what: str) -> None:
        """Warn, and have the evaluator tell when it is there again; the last failure ends all evaluations."""
        self._num_failures += 1
        if self._num_failures < MOST_FAILURES:
            _LOG.warning("%s. It is tried again; training goes on", what)
            self._coming = self._actor.ready.options(max_task_retries=-1).remote()
            return
        _LOG.warning(
            "%s. After %d failures in a row the policy is not evaluated any more in this start of the run; training "
            "goes on",
            what,
            self._num_failures,
        )
        close_evaluations(self._root)
        for snapshot in self._root.glob("*/version_*.safetensors"):
            snapshot.unlink(missing_ok=True)

    def _wait(self, is_stopped: Callable[[], bool]) -> None:
        deadline_s = self._config.deadlines.evaluation_s
        give_up = time.monotonic() + deadline_s
        self.look()
        while self._running is not None or self._waiting() is not None:
            if is_stopped():
                return
            if time.monotonic() > give_up:
                _LOG.warning(
                    "Policies that wait for their evaluation are dropped: it was not done %.0f s after the last step "
                    "(deadlines.evaluation_s)",
                    deadline_s,
                )
                return
            time.sleep(_LOOKED_S)
            self.look()

    def _record_lost(self, scores: StepScores) -> None:
        """Record evaluations that metrics.jsonl lacks: a driver or a metrics actor died with them."""
        recorded = {each.step for each in read_reports(self._config.run_dir) if each.stage == EVALUATION_STAGE}
        for step in scores.steps():
            results = scores.results_of(step) if step not in recorded else None
            if results is not None:
                self._metrics.log.remote(_report_of(step, results))


def _report_of(step: int, results: EvaluationResults) -> StepReport:
    return StepReport(EVALUATION_STAGE, step, results.metrics() | {"eval/seconds": results.seconds})


def _words(results: EvaluationResults) -> str:
    found = (f"Pass@{k} {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for k, each in results.pass_at_k.items())
    return f"{', '.join(found)} on {results.num_problems} problems, in {results.seconds:.1f} s"


def _listed(steps: Sequence[int]) -> str:
    more = f" and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    return ", ".join(map(str, steps[:_SHOWN])) + more


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
