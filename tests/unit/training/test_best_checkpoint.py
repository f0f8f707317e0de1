"""The best checkpoint by Pass@1: it stays, also where its evaluation is done late, or the run was killed meanwhile."""

from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.during.saved_steps import save_step
from tests.unit.training.test_checkpoint import new_optimizer, new_policy, run_step, state_of
from wmtp_ray.config.load import dump_config
from wmtp_ray.errors import ArtifactError
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import OneRank
from wmtp_ray.training.best_checkpoint import PassRanking, best_checkpoint, wanted_checkpoint
from wmtp_ray.training.checkpoint import list_checkpoints, save_checkpoint, step_of


class Saved:
    """A run's checkpoints, saved one after the other, with the Pass@1 of their policies."""

    def __init__(self, folder: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        self.root = folder / "checkpoints"
        self.scores = StepScores(folder / "scores")
        self.pending: set[int] = set()
        self._policy, self._optimizer = policy, optimizer

    def evaluate(self, step: int, num_correct: int) -> None:
        self.pending.discard(step)
        save_step(self.scores, step, num_correct)

    def save(self, step: int, mean_loss: float = 1.0) -> list[int]:
        ranking = PassRanking(self.scores, lambda: self.pending)
        state = state_of(step, mean_loss=mean_loss)
        save_checkpoint(
            self.root,
            state,
            self._policy,
            self._optimizer,
            [],
            OneRank(),
            keep=1,
            keep_best=1,
            ranking=ranking,
        )
        return [step_of(path) for path in list_checkpoints(self.root)]

    @property
    def best(self) -> int:
        return step_of(best_checkpoint(self.root, self.scores))


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    policy = new_policy()
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    return Saved(tmp_path, policy, optimizer)


def test_the_highest_pass_at_1_is_kept_whatever_the_loss(saved):
    kept = []
    for step, num_correct, loss in [(1, 1, 0.1), (2, 3, 0.9), (3, 2, 0.5), (4, 2, 0.2)]:
        saved.evaluate(step, num_correct)
        kept.append(saved.save(step, loss))
    assert kept == [[1], [1, 2], [2, 3], [2, 4]]
    assert saved.best == 2
    assert step_of(best_checkpoint(saved.root, None)) == 4, "by loss"


def test_of_equal_ones_the_later_is_kept(saved):
    for step in (1, 2, 3):
        saved.evaluate(step, 2)
        kept = saved.save(step)
    assert kept == [2, 3]
    assert saved.best == 3


def test_one_that_was_not_evaluated_comes_after_all_that_were(saved):
    saved.evaluate(1, 0)
    saved.save(1, 0.9)
    saved.save(2, 0.1)
    assert saved.save(3, 0.2) == [1, 3]
    assert saved.best == 1


def test_without_any_evaluation_the_loss_decides(saved):
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.3), (4, 0.4)):
        kept = saved.save(step, loss)
    assert kept == [2, 4]


def test_one_whose_evaluation_is_late_stays_until_it_is_done(saved):
    saved.evaluate(1, 2)
    saved.save(1)
    saved.pending.add(2)
    saved.save(2)
    assert saved.save(3) == [1, 2, 3]
    saved.evaluate(2, 3)
    assert saved.save(4) == [2, 4], "it turned out to be the best"
    saved.pending.add(4)
    saved.save(5)
    saved.evaluate(4, 0)
    assert saved.save(6) == [2, 6], "and this one did not"


def test_a_run_that_continues_knows_the_best_from_its_folder(saved):
    saved.evaluate(2, 3)
    saved.save(2)
    saved.save(4)
    after_a_kill = Saved(saved.root.parent, saved._policy, saved._optimizer)
    after_a_kill.evaluate(6, 1)
    assert after_a_kill.save(6) == [2, 6]
    assert after_a_kill.best == 2


def test_without_a_checkpoint_there_is_no_best(tmp_path):
    with pytest.raises(ArtifactError, match="no whole checkpoint"):
        best_checkpoint(tmp_path, None)


@pytest.mark.parametrize(("by", "expected"), [("loss", 6), ("pass@1", 4)])
def test_the_best_of_a_run_is_what_its_configuration_says(nano, tmp_path, by, expected):
    words = (f"train.keep_best_by={by}", "train.checkpoint_every=2", "evaluation.every_steps=2", "run_name=r")
    config = nano.load(*words, f"storage_root={tmp_path}")
    config.run_dir.mkdir(parents=True)
    config.folder.config.write_text(dump_config(config))
    policy = new_policy()
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    scores = StepScores(config.folder.step_evaluations / "ab")
    for step, num_correct in ((2, 1), (4, 3), (6, 2), (8, 0)):
        save_step(scores, step, num_correct)
        state = state_of(step, mean_loss=abs(6.0 - step))
        save_checkpoint(config.folder.checkpoints, state, policy, optimizer, [], OneRank(), keep=9, keep_best=0)
    assert step_of(wanted_checkpoint(config.run_dir, "best")) == expected
    assert step_of(wanted_checkpoint(config.run_dir, 2)) == 2
    assert step_of(wanted_checkpoint(config.run_dir, None)) == 8
    with pytest.raises(ArtifactError, match=r"no checkpoint of step 3; there are those of the steps \[2, 4, 6, 8\]"):
        wanted_checkpoint(config.run_dir, 3)
