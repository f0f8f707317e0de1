"""Scoring ahead: at most K steps of this rank are with the pool while the policy trains.

What each side produces, waits for, and what unblocks it:

| who    | produces                  | waits for                  | unblocked by                     |
|--------|---------------------------|----------------------------|----------------------------------|
| stream | token batches of step s   | room in its queue          | `ScoreAhead.next` taking a step  |
| rank   | submits steps s+1 .. s+K  | the scores of step s       | the pool                         |
| critic | scores of step s          | version v(s) as a file     | rank 0 publishing, K steps ahead |
| rank 0 | version p after p steps   | nothing                    |                                  |

v(s) <= s - K was published before step s was submitted, so a critic waits for a version only for as long as rank 0 is
behind this rank. The pinned version makes the scores independent of timing; the bound on staleness is asserted on
every batch.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
from ray.exceptions import GetTimeoutError

from wmtp_ray.contracts import ScoredBatch, Scores, TokenBatch
from wmtp_ray.errors import TrainingError
from wmtp_ray.plan.versions import VersionSchedule

StepBatches = list[TokenBatch]


class ScoreStream(Protocol):
    """What the training loop asks for."""

    def next(self, step: int) -> list[ScoredBatch]:
        """Return the scored micro-batches of `step`; steps are asked for in order."""
        ...


class Unscored:
    """Batches as they come: for weightings that need no other model's opinion."""

    def __init__(self, steps: Iterator[StepBatches]) -> None:
        self._steps = steps

    def next(self, step: int) -> list[ScoredBatch]:
        return [ScoredBatch(batch, None, 0, 0.0) for batch in _checked(next(self._steps), step)]


@dataclass(frozen=True)
class _Pending:
    step: int
    version: int
    batches: StepBatches
    scores: "ray.ObjectRef[list[Scores]]"
    actor: int


class ScoreAhead:
    """Submits this rank's steps to the pool in order and hands them back scored."""

    def __init__(
        self,
        steps: Iterator[StepBatches],
        pool: Sequence[Any],
        schedule: VersionSchedule,
        *,
        directory: str,
        first_step: int,
        rank: int,
        lookahead_steps: int,
        mode: Literal["async", "sync"],
        deadline_s: float,
    ) -> None:
        self._steps = steps
        self._pool = pool
        self._schedule = schedule
        self._directory = directory
        self._rank = rank
        self._ahead = lookahead_steps if mode == "async" else 0
        self._deadline_s = deadline_s
        self._next_to_submit = first_step
        self._pending: deque[_Pending] = deque()
        self._exhausted = False

    def next(self, step: int) -> list[ScoredBatch]:
        """Return the scored batches of `step`, after which `lookahead_steps` further steps are with the pool."""
        self._submit_until(step)
        pending = self._pending.popleft()
        assert pending.step == step, f"step {step} was asked for, {pending.step} is next"
        scores, wait_s = self._wait_for(pending)
        self._submit_until(step + self._ahead)
        staleness = self._schedule.staleness(step)
        assert all(each.version == pending.version for each in scores), "the pool scored with another version"
        assert staleness <= self._schedule.staleness_bound, f"step {step}: staleness {staleness} exceeds the bound"
        return [ScoredBatch(b, s, staleness, wait_s) for b, s in zip(pending.batches, scores, strict=True)]

    def _submit_until(self, last_step: int) -> None:
        while self._next_to_submit <= last_step and not self._exhausted:
            batches = next(self._steps, None)
            if batches is None:
                self._exhausted = True
                return
            self._submit(self._next_to_submit, _checked(batches, self._next_to_submit))
            self._next_to_submit += 1

    def _submit(self, step: int, batches: StepBatches) -> None:
        version = self._schedule.version_of(step)
        actor = (step + self._rank) % len(self._pool)
        scores = self._pool[actor].score.remote(batches, self._directory, version)
        self._pending.append(_Pending(step, version, batches, scores, actor))

    def _wait_for(self, pending: _Pending) -> tuple[list[Scores], float]:
        start = time.perf_counter()
        try:
            scores: list[Scores] = ray.get(pending.scores, timeout=self._deadline_s)
        except GetTimeoutError as error:
            raise TrainingError(
                f"Rank {self._rank} waited {self._deadline_s:.0f} s for the scores of step {pending.step} (version "
                f"{pending.version}, scorer {pending.actor} of {len(self._pool)}). Is the scorer alive and fast "
                "enough? Raise deadlines.score_s or critic.pool_size; its log is in Ray's session folder."
            ) from error
        return scores, time.perf_counter() - start


def _checked(batches: StepBatches, step: int) -> StepBatches:
    assert all(batch.step == step for batch in batches), f"the stream is out of step: {batches[0].step} for {step}"
    return batches
