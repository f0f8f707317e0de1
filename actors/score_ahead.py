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

Ray restarts a scorer that dies, with its pending calls. Ray does not notice one that hangs: past the deadline this rank
kills it and waits for the restarted one. The scores are the same bit by bit.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import ray
from ray.exceptions import GetTimeoutError

from actors.stalls import ScorerWatch, report_stall
from wmtp_ray.contracts import ScoredBatch, Scores, TokenBatch
from wmtp_ray.errors import TrainingError
from wmtp_ray.plan.versions import VersionSchedule
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.processes import RunProcess

_SCORERS_TRIED = 3  # for one batch, each for a deadline
_LOOK_S = 0.5  # how often a late scorer is looked at

StepBatches = list[TokenBatch]


class ScoreStream(Protocol):
    """What the training loop asks for."""

    def next(self, step: int) -> list[ScoredBatch]:
        """Return the scored micro-batches of `step`; steps are asked for in order."""
        ...


class Unscored:
    """Batches without scores: for weightings that need none."""

    def __init__(self, steps: Iterator[StepBatches]) -> None:
        self._steps = steps

    def next(self, step: int) -> list[ScoredBatch]:
        return _unscored(_checked(next(self._steps), step))


@dataclass(frozen=True)
class _Pending:
    """A step that is with the pool."""

    step: int
    version: int
    batches: StepBatches
    scores: "ray.ObjectRef[list[Scores]]"
    scorer: int


@dataclass(frozen=True)
class _Plain:
    """A step whose scores are not read."""

    step: int
    batches: StepBatches


class ScoreAhead:
    """Submits this rank's steps to the pool in order and hands them back scored.

    `deadline_s` bounds the wait for a scorer that is ready, `start_s` the wait until it is.
    """

    def __init__(
        self,
        steps: Iterator[StepBatches],
        pool: ScorerWatch,
        schedule: VersionSchedule,
        *,
        directory: str,
        first_step: int,
        rank: int,
        lookahead_steps: int,
        mode: Literal["async", "sync"],
        deadline_s: float,
        start_s: float,
    ) -> None:
        self._steps = steps
        self._pool = pool
        self._schedule = schedule
        self._directory = directory
        self._rank = rank
        self._ahead = lookahead_steps if mode == "async" else 0
        self._deadline_s = deadline_s
        self._start_s = start_s
        self._next_to_submit = first_step
        self._pending: deque[_Pending | _Plain] = deque()
        self._exhausted = False

    def next(self, step: int) -> list[ScoredBatch]:
        """Return the scored batches of `step`, after which `lookahead_steps` further steps are with the pool."""
        self._submit_until(step)
        pending = self._pending.popleft()
        assert pending.step == step, f"step {step} was asked for, {pending.step} is next"
        if isinstance(pending, _Plain):
            return _unscored(pending.batches)
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
        if not self._schedule.scores(step):
            self._pending.append(_Plain(step, batches))
            return
        version = self._schedule.version_of(step)
        scorer = (step + self._rank) % len(self._pool.actors)
        scores = self._pool.actors[scorer].score.remote(batches, self._directory, version)
        self._pending.append(_Pending(step, version, batches, scores, scorer))

    def _wait_for(self, pending: _Pending) -> tuple[list[Scores], float]:
        start = time.perf_counter()
        scores = self._scores_within(pending, _LOOK_S) or self._scores_of_late_scorer(pending)
        return scores, time.perf_counter() - start

    def _scores_of_late_scorer(self, pending: _Pending) -> list[Scores]:
        """Give each late scorer in turn its deadline; any of them returns the same scores."""
        hung: RunProcess | None = None
        for tried in range(1, _SCORERS_TRIED + 1):
            scorer = self._ready_scorer(pending, hung)
            scores = self._scores_within(pending, self._deadline_s) if scorer else None
            if scores is not None:
                return scores
            what = self._what_is_late(pending, scorer, tried)
            hung = scorer or hung
            if tried < _SCORERS_TRIED:
                self._pool.replace(pending.scorer, scorer, what)
        report_stall(self._pool.run_dir, what)
        raise TrainingError(
            f"{what}, and no other is tried; stacks: {RunFolder(self._pool.run_dir).stacks}. If it is slow and "
            "does not hang, raise deadlines.score_s or critic.pool_size; --resume continues from the last checkpoint"
        )

    def _ready_scorer(self, pending: _Pending, hung: RunProcess | None) -> RunProcess | None:
        """Wait for a process of the scorer other than `hung` that has loaded its model; None when it takes too long."""
        give_up = time.monotonic() + self._start_s
        while time.monotonic() < give_up:
            scorer = self._pool.process(pending.scorer)
            if scorer is not None and scorer.is_ready and (hung is None or scorer.pid != hung.pid):
                return scorer
            time.sleep(_LOOK_S)
        return None

    def _scores_within(self, pending: _Pending, seconds: float) -> list[Scores] | None:
        try:
            scores: list[Scores] = ray.get(pending.scores, timeout=seconds)
        except GetTimeoutError:
            return None
        return scores

    def _what_is_late(self, pending: _Pending, scorer: RunProcess | None, tried: int) -> str:
        role = self._pool.roles[pending.scorer]
        late = (
            f"did not answer within {self._deadline_s:.0f} s (deadlines.score_s)"
            if scorer
            else f"was not ready within {self._start_s:.0f} s (deadlines.start_s)"
        )
        return (
            f"{role} {late}: rank {self._rank} waited for the scores of step {pending.step}, version "
            f"{pending.version}, from process {tried} of {_SCORERS_TRIED}"
        )


def _unscored(batches: StepBatches) -> list[ScoredBatch]:
    return [ScoredBatch(batch, None, 0, 0.0) for batch in batches]


def _checked(batches: StepBatches, step: int) -> StepBatches:
    assert all(batch.step == step for batch in batches), f"the stream is out of step: {batches[0].step} for {step}"
    return batches
