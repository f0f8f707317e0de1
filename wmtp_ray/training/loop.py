"""The training loop of one rank: a stage, step after step. Read `StageLoop.run` from top to bottom.

    scored batches -> seed -> optimizer step -> (evaluate?) -> report -> publish -> (stop?) -> checkpoint

`step.py` has what happens inside a step. The loop uses everything else through its ports: small objects with one or two
methods. A run connects them to Ray, to files and to other processes (`actors/policy_worker.py`); a test connects them
to lists in memory. Every rank runs this loop over its own part of each global batch. Ports may gather over the ranks,
so all ranks call the same ports in the same order. No Ray, no files.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np
import torch

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch
from wmtp_ray.plan.horizon_schedule import horizons_at
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.contract import MicroBatch, Scorer, to_micro_batch
from wmtp_ray.tracking.run_log import log_step
from wmtp_ray.training.optim import learning_rate_at
from wmtp_ray.training.step import TrainingStep

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredStep:
    """This rank's scored micro-batches of one step, and how long the rank waited for their rows."""

    batches: Sequence[ScoredBatch]
    data_wait_s: float


@dataclass(frozen=True)
class StepOutcome:
    """One step that is done. `metrics` are the same on every rank; the batches and the times are this rank's."""

    step: int
    scored: ScoredStep
    metrics: dict[str, float]
    step_s: float


class ScoredSteps(Protocol):
    """Supplies batches and their scores."""

    def next(self, step: int) -> ScoredStep:
        """Return this rank's part of `step`; steps are asked for in order."""
        ...


class Reports(Protocol):
    """Receives the metrics."""

    def report(self, outcome: StepOutcome) -> None: ...


class Versions(Protocol):
    """Publishes the critic's versions for the scorers."""

    def publish(self, done: int) -> None:
        """Publish the critic after `done` steps, where the schedule asks for it."""
        ...


class Checkpoints(Protocol):
    """Saves the state that a run continues from."""

    def save(self, done: int, mean_loss: float) -> None:
        """Save the state after `done` steps; `mean_loss` is that of the steps since the checkpoint before."""
        ...


class Stop(Protocol):
    """Reports a request to end the run early."""

    def is_asked(self) -> bool:
        """Return whether a stop was requested; the answer is the same on every rank."""
        ...


class Life(Protocol):
    """Receives this rank's heartbeat."""

    def show(self) -> None: ...


class Drift(Protocol):
    """Measures the policy between steps."""

    def metrics_after(self, done: int, num_steps: int) -> dict[str, float]:
        """Return the metrics that are due after `done` of `num_steps` steps."""
        ...


class Evaluations(Protocol):
    """Has the policy evaluated elsewhere while it trains."""

    def hand_over(self, done: int, num_steps: int) -> dict[str, float]:
        """Hand the policy after `done` of `num_steps` steps over where it is due; return the metrics of that."""
        ...


class EarlyEnd(Protocol):
    """Ends the stage before its last step."""

    def is_over(self) -> bool:
        """Return whether no further step is made; the answer is the same on every rank."""
        ...


@dataclass(frozen=True)
class Ports:
    """All ports of the loop."""

    batches: ScoredSteps
    reports: Reports
    versions: Versions
    checkpoints: Checkpoints
    stop: Stop
    life: Life
    drift: Drift | None
    early_end: EarlyEnd | None = None
    evaluations: Evaluations | None = None


@dataclass(frozen=True)
class Finish:
    """The steps from `start_step` on are weighed by `scorer`, which keeps nothing from step to step."""

    start_step: int
    scorer: Scorer


class StageLoop:
    """Trains the steps `steps` of a plan whose number of steps is `steps.stop`; `horizon_starts` as in the plan."""

    def __init__(
        self,
        training: TrainingStep,
        config: RunConfig,
        ports: Ports,
        ranks: Ranks,
        *,
        steps: range,
        peak_learning_rate: float,
        finish: Finish | None = None,
        horizon_starts: tuple[int, ...] = (),
    ) -> None:
        self._training = training
        self._config = config
        self._ports = ports
        self._ranks = ranks
        self._steps = steps
        self._peak_learning_rate = peak_learning_rate
        self._finish = finish
        self._horizon_starts = horizon_starts
        self.done = steps.start
        self._device = next(training.policy.parameters()).device

    def run(self) -> bool:
        """Train to the end of the stage or until a stop is asked for; return whether the end was reached.

        `done` steps are then done, counted from the stage's first.
        """
        ports, num_steps = self._ports, self._steps.stop
        losses: list[float] = []  # since the last checkpoint
        if self._steps.start == 0:
            ports.versions.publish(0)
        self._hand_over(self._steps.start)
        for step in self._steps:
            if self._is_over():
                break
            log_step(step)
            started = time.perf_counter()
            scored = ports.batches.next(step)
            seed_step(self._config.seed, step, self._ranks.rank)
            metrics = self._training.run(
                self._micro_batches(step, scored),
                self._learning_rate(step),
                scorer=self._scorer_of(step),
                num_horizons=horizons_at(self._horizon_starts, step) if self._horizon_starts else None,
            )
            step_s = time.perf_counter() - started
            losses.append(metrics["loss/total"])
            done = step + 1
            if ports.drift is not None:
                metrics |= ports.drift.metrics_after(done, num_steps)
            metrics |= self._hand_over(done)
            ports.reports.report(StepOutcome(step, scored, metrics, step_s))
            ports.life.show()
            ports.versions.publish(done)
            is_stopping = ports.stop.is_asked()
            if is_stopping or self._is_over() or done % self._config.train.checkpoint_every == 0 or done == num_steps:
                ports.checkpoints.save(done, fmean(losses))
                losses.clear()
                ports.life.show()
            if is_stopping:
                _LOG.info("A stop was asked for; %d of %d steps are done", done, num_steps)
                return False
            self.done = done
        log_step(None)
        return True

    def _is_over(self) -> bool:
        return self._ports.early_end is not None and self._ports.early_end.is_over()

    def _hand_over(self, done: int) -> dict[str, float]:
        evaluations = self._ports.evaluations
        return {} if evaluations is None else evaluations.hand_over(done, self._steps.stop)

    def _micro_batches(self, step: int, scored: ScoredStep) -> list[MicroBatch]:
        return [to_micro_batch(each, step, self._config.seed, self._device) for each in scored.batches]

    def _scorer_of(self, step: int) -> Scorer | None:
        """Return who weighs a step; None: the stage's own scorer."""
        return self._finish.scorer if self._finish is not None and step >= self._finish.start_step else None

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(
            step,
            self._steps.stop,
            peak=self._peak_learning_rate,
            warmup_frac=self._config.train.warmup_frac,
            min_frac=self._config.train.min_learning_rate_frac,
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Key what a forward draws (the adapters' dropout) by run, step and rank, whatever was drawn before."""
    words = np.random.SeedSequence([seed & (2**63 - 1), step, rank])
    torch.manual_seed(int(words.generate_state(1)[0]))
