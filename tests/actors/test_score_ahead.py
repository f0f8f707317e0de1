"""Scoring ahead without a cluster: which steps are sent to the pool, and what comes back for the others."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors import score_ahead
from actors.score_ahead import ScoreAhead
from actors.stalls import ScorerWatch
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.plan.versions import OneVersion, PublishedVersions, VersionSchedule

NUM_STEPS = 9


@dataclass
class Scorer:
    """Answers at once, and notes what it was asked for. `scorer.score.remote` is how an actor is called."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def score(self) -> "Scorer":
        return self

    def remote(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        self.asked.append((batches[0].step, version))
        return [Scores(version, values_BT=np.full((1, 2), float(version), np.float32)) for _ in batches]


def steps() -> Iterator[list[TokenBatch]]:
    for step in range(NUM_STEPS):
        row = np.zeros((1, 2))
        rows = np.array([step], np.int64)
        lengths, rewards = np.array([2], np.int32), np.ones(1, np.float32)
        ints = row.astype(np.int32)
        yield [TokenBatch(step, 0, row.astype(np.int64), ints, ints, row.astype(np.bool_), lengths, rewards, rows)]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster an object's reference is the object."""

    def get(found: Any, timeout: float) -> Any:
        return found

    monkeypatch.setattr(score_ahead.ray, "get", get)


def ahead(scorer: Scorer, schedule: VersionSchedule) -> ScoreAhead:
    return ScoreAhead(
        steps(),
        ScorerWatch(Path(), (scorer,), ("critic_0",)),
        schedule,
        directory="",
        first_step=0,
        rank=0,
        lookahead_steps=3,
        mode="async",
        deadline_s=1.0,
        start_s=1.0,
    )


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize("schedule", [PublishedVersions(3, 2, unscored_from=6), OneVersion(unscored_from=6)])
def test_no_scorer_is_asked_for_steps_whose_scores_nobody_reads(schedule: VersionSchedule) -> None:
    scorer = Scorer()
    scores = ahead(scorer, schedule)
    found = [scores.next(step) for step in range(NUM_STEPS)]
    assert scorer.asked == [(step, schedule.version_of(step)) for step in range(6)]
    assert [batch.batch.step for (batch,) in found] == list(range(NUM_STEPS))
    assert [batch.scores is not None for (batch,) in found] == [True] * 6 + [False] * 3
    assert [batch.staleness_steps for (batch,) in found] == [schedule.staleness(step) for step in range(6)] + [0] * 3


@pytest.mark.usefixtures("answers")
def test_as_many_steps_as_asked_for_are_with_the_pool() -> None:
    scorer = Scorer()
    scores = ahead(scorer, PublishedVersions(3, 2))
    scores.next(0)
    assert [step for step, _ in scorer.asked] == [0, 1, 2, 3]
    scores.next(1)
    assert [step for step, _ in scorer.asked] == [0, 1, 2, 3, 4]
