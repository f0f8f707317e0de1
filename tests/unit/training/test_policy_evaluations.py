"""The policy is handed over at the due steps, or the step skips its turn and says so; training does not notice."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.evaluation.results import FILE_NAME
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import OneRank, Ranks
from wmtp_ray.training.evaluated_policy import evaluated_state
from wmtp_ray.training.loop import StageLoop
from wmtp_ray.training.optim import build_optimizer
from wmtp_ray.training.policy_evaluations import MOST_DELAY, PolicyEvaluations, close_evaluations

from .plain_ports import ReportList, plain_ports

NUM_STEPS, INTERVAL = 10, 4
HANDED_OVER, SKIPPED = 0.0, 1.0


class Clock:
    """Shows what it is set to; every look at it takes `look_s`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.look_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s


@dataclass
class Rig:
    """A policy that is handed over, and the folder where an evaluator would take it."""

    policy: Policy
    evaluations: PolicyEvaluations
    snapshots: SnapshotDirectory
    scores: StepScores
    clock: Clock

    def hand_over(self, done: int) -> float | None:
        """What `eval/skipped` says of a step, None where it says nothing; the file is on the disk then."""
        metrics = self.evaluations.hand_over(done, NUM_STEPS)
        self.evaluations.finish(10.0)
        self.clock.now_s += 100.0
        return metrics.get("eval/skipped")

    def take(self, step: int) -> str:
        """Do what an evaluator does at its end; return the hash of what was handed over."""
        path = self.snapshots.file_of(step)
        found = tensors_sha256(load_file(path))
        path.unlink()
        return found

    def note_result(self, step: int) -> None:
        self.scores.folder_of(step).mkdir(parents=True)
        (self.scores.folder_of(step) / FILE_NAME).touch()

    @property
    def waiting(self) -> list[str]:
        return [path.name for path in self.snapshots.files()]


def rig_of(nano, folder: Path, ranks: Ranks | None = None) -> Rig:
    config = nano.load("evaluation.every_steps=4")
    policy, clock = nano.policy(config), Clock()
    snapshots, scores = SnapshotDirectory(folder / "evaluated" / "attempt"), StepScores(folder / "scores")
    snapshots.path.mkdir(parents=True, exist_ok=True)
    evaluations = PolicyEvaluations(policy, snapshots, scores, INTERVAL, ranks or OneRank(), clock=clock)
    return Rig(policy, evaluations, snapshots, scores, clock)


@pytest.fixture
def rig(nano, tmp_path) -> Rig:
    return rig_of(nano, tmp_path)


def change(policy: Policy) -> None:
    """An optimizer step, as far as the weights are concerned."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.125)


def test_what_is_due_is_handed_over_where_the_evaluator_keeps_up(rig):
    found = {}
    for done in range(NUM_STEPS + 1):
        found[done] = rig.hand_over(done)
        if rig.waiting:
            rig.take(done)
    assert {done for done, told in found.items() if told == HANDED_OVER} == {0, 4, 8, 10}
    assert {done for done, told in found.items() if told is None} == {1, 2, 3, 5, 6, 7, 9}


def test_what_is_handed_over_is_the_policy_of_its_step_whatever_follows(rig):
    expected = {}
    for done in (0, 4):
        expected[done] = tensors_sha256(evaluated_state(rig.policy))
        assert rig.evaluations.hand_over(done, NUM_STEPS)["eval/handover_seconds"] >= 0.0
        change(rig.policy)  # at once, while the copy is written
        rig.evaluations.finish(10.0)
        rig.clock.now_s += 1.0
        assert rig.take(done) == expected[done]
    assert expected[0] != expected[4]


def test_a_slow_evaluation_skips_turns_and_says_so_once(rig, caplog):
    caplog.set_level(logging.INFO)
    assert rig.hand_over(0) == HANDED_OVER
    assert [rig.hand_over(done) for done in (4, 8)] == [SKIPPED, SKIPPED]
    assert rig.waiting == ["version_00000000.safetensors"]
    assert rig.evaluations.pending() == {0}
    levels = [record.levelname for record in caplog.records if "not evaluated" in record.message]
    assert levels == ["WARNING", "INFO"]
    assert "evaluation.during_limit" in caplog.text
    rig.take(0)
    assert rig.evaluations.pending() == set()


def test_the_last_policy_is_handed_over_whoever_is_busy(rig):
    rig.hand_over(8)
    assert rig.hand_over(NUM_STEPS) == HANDED_OVER
    assert rig.evaluations.pending() == {8, NUM_STEPS}


def test_a_handover_that_takes_too_much_of_the_steps_skips_its_turn(rig):
    rig.clock.look_s = 1.0
    assert rig.evaluations.hand_over(0, NUM_STEPS)["eval/handover_seconds"] == 2.0
    rig.evaluations.finish(10.0)
    rig.take(0)
    rig.clock.now_s += 2.0 / MOST_DELAY - 10.0
    assert rig.evaluations.hand_over(4, NUM_STEPS) == {"eval/skipped": SKIPPED}
    rig.clock.now_s += 20.0
    assert rig.evaluations.hand_over(8, NUM_STEPS)["eval/skipped"] == HANDED_OVER, "the time since it was done counts"


def test_what_was_evaluated_is_not_handed_over_again_where_a_run_continues(rig):
    rig.note_result(4)
    assert rig.hand_over(4) is None
    assert rig.waiting == []
    assert rig.hand_over(8) == HANDED_OVER


def test_steps_that_are_trained_again_are_handed_over_again(rig):
    """Only who has the policy's hash knows that it is the same one."""
    rig.note_result(8)
    assert rig.hand_over(4) == HANDED_OVER
    rig.take(4)
    assert rig.hand_over(8) == HANDED_OVER


def test_nothing_is_handed_over_where_nobody_evaluates_any_more(rig):
    close_evaluations(rig.snapshots.path.parent)
    assert [rig.hand_over(done) for done in (0, 4, NUM_STEPS)] == [SKIPPED] * 3
    assert rig.waiting == []


def test_a_full_disk_costs_an_evaluation_and_nothing_else(rig, caplog):
    rig.snapshots.path.rmdir()
    rig.snapshots.path.parent.joinpath("attempt").write_text("no folder")
    assert rig.hand_over(0) == HANDED_OVER
    assert "Training goes on" in caplog.text
    assert rig.evaluations.pending() == set()


@pytest.mark.parametrize("waits", [False, True])
def test_all_ranks_hear_rank_0(nano, tmp_path, waits):
    def decisions(ranks: Ranks) -> list[float | None]:
        rig = rig_of(nano, tmp_path / f"rank_{ranks.rank}", ranks)
        for path in rig.snapshots.files():
            path.unlink()  # of the round before: simulated ranks begin again and again
        if waits and ranks.rank == 0:
            rig.snapshots.file_of(0).touch()
        return [rig.hand_over(4), rig.hand_over(5)]

    told = SKIPPED if waits else HANDED_OVER
    assert nano.on_ranks(3, decisions) == [[told, None]] * 3


def test_training_is_the_same_bit_by_bit_with_and_without(nano, tmp_path):
    config = nano.load("weighting.advantage_norm=ema", "critic.ema_decay=0.5", "evaluation.every_steps=4")
    steps = [[nano.scored_batch(nano.rows(6, seed=step), step=step)] for step in range(NUM_STEPS)]

    def trained(folder: Path | None) -> tuple[str, ReportList, list[str]]:
        policy, reports = nano.policy(config), ReportList()
        training = nano.training(config, policy, build_optimizer(policy, config.train, 1e-2))
        ports = plain_ports(steps, reports)
        handed: list[str] = []
        if folder is not None:
            rig = rig_of(nano, folder)
            evaluations = PolicyEvaluations(policy, rig.snapshots, rig.scores, INTERVAL, OneRank())
            ports = plain_ports(steps, reports, evaluations=evaluations)
        loop = StageLoop(training, config, ports, OneRank(), steps=range(NUM_STEPS), peak_learning_rate=1e-2)
        torch.manual_seed(5)
        assert loop.run()
        if folder is not None:
            evaluations.finish(10.0)
            handed = rig.waiting
        return tensors_sha256(policy.state_dict()), reports, handed

    without, _, _ = trained(None)
    with_evaluations, reports, handed = trained(tmp_path)
    assert with_evaluations == without
    assert handed == ["version_00000000.safetensors", "version_00000010.safetensors"], "step 0 is among them"
    told = [outcome.step for outcome in reports.outcomes if "eval/skipped" in outcome.metrics]
    assert told == [3, 7, 9], "of the step after which the policy was due"
