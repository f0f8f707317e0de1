"""The policy is handed over at the due steps, or the step skips its turn and says so; training does not notice."""

import copy
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.evaluation.results import FILE_NAME
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import OneRank, Ranks, current_ranks
from wmtp_ray.training.evaluated_policy import evaluated_state
from wmtp_ray.training.loop import StageLoop
from wmtp_ray.training.optim import build_optimizer
from wmtp_ray.training.parallel import distribute
from wmtp_ray.training.policy_evaluations import MOST_DELAY, PolicyEvaluations, close_evaluations
from wmtp_ray.training.stages import policy_stage

from .plain_ports import CheckpointAt, ReportList, plain_ports

REPOSITORY = Path(__file__).parents[3]
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


def _sharded_rank(rank: int, folder: str) -> None:
    """One of two ranks that share a policy out (FSDP2); it hands the policy over, skips a turn, hands it over again."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ranks = current_ranks()
    config, policy = torch.load(f"{folder}/job", weights_only=False)
    recipe = policy_stage(config)
    distribute(recipe.build_loss(policy, config), config.train, ranks, torch.device("cpu"))
    snapshots = SnapshotDirectory(Path(folder) / "evaluated" / "attempt")
    evaluations = PolicyEvaluations(policy, snapshots, StepScores(Path(folder)), INTERVAL, ranks)
    told = [evaluations.hand_over(done, NUM_STEPS).get("eval/skipped") for done in (0, 4, NUM_STEPS)]
    evaluations.finish(10.0)
    torch.save(told, f"{folder}/told.{rank}")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_a_policy_that_ranks_share_out_is_handed_over_whole(nano, tmp_path):
    config = nano.load("train.parallel=fsdp2", "train.num_workers=2", "evaluation.every_steps=4")
    policy = nano.policy(config)
    (tmp_path / "evaluated" / "attempt").mkdir(parents=True)
    torch.save((config, policy), tmp_path / "job")
    path_before = list(sys.path)
    sys.path.insert(0, str(REPOSITORY))  # the child processes import this module by its name
    try:
        mp.spawn(_sharded_rank, (str(tmp_path),), nprocs=2)
    finally:
        sys.path[:] = path_before
    for rank in (0, 1):
        assert torch.load(tmp_path / f"told.{rank}") == [HANDED_OVER, SKIPPED, HANDED_OVER]
    files = sorted((tmp_path / "evaluated" / "attempt").iterdir())
    assert [path.name for path in files] == ["version_00000000.safetensors", "version_00000010.safetensors"]
    assert {tensors_sha256(load_file(path)) for path in files} == {tensors_sha256(evaluated_state(policy))}


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


def test_a_run_that_was_killed_hands_over_the_same_policies_and_none_that_it_knows(nano, tmp_path):
    """Killed after step 8, it continues from step 4: that policy is known, and that of step 8 has the hash it had."""
    config = nano.load("evaluation.every_steps=4", "train.checkpoint_every=4")
    steps = [[nano.scored_batch(nano.rows(6, seed=step), step=step)] for step in range(NUM_STEPS)]
    saved: dict[str, object] = {}

    def trained(folder: Path, first_step: int, stop_after: int | None) -> Rig:
        rig = rig_of(nano, folder)
        training = nano.training(config, rig.policy, build_optimizer(rig.policy, config.train, 1e-2))
        if first_step:
            rig.policy.load_state_dict(saved["policy"])
            training.optimizer.load_state_dict(saved["optimizer"])
            rig.note_result(first_step)

        def save(mean_loss: float) -> None:
            saved["policy"] = copy.deepcopy(rig.policy.state_dict())
            saved["optimizer"] = copy.deepcopy(training.optimizer.state_dict())

        class Taken(PolicyEvaluations):
            """Each evaluation is done before the next step."""

            def hand_over(self, done: int, num_steps: int) -> dict[str, float]:
                found = super().hand_over(done, num_steps)
                self.finish(10.0)
                if found:
                    hashes.setdefault(done, []).append(rig.take(done))
                return found

        evaluations = Taken(rig.policy, rig.snapshots, rig.scores, INTERVAL, OneRank(), clock=Clock())
        checkpoints = CheckpointAt(4, save) if not first_step else None
        ports = plain_ports(
            steps, ReportList(), stop_after=stop_after, evaluations=evaluations, checkpoints=checkpoints
        )
        StageLoop(training, config, ports, OneRank(), steps=range(first_step, NUM_STEPS), peak_learning_rate=1e-2).run()
        return rig

    hashes: dict[int, list[str]] = {}
    trained(tmp_path / "killed", 0, stop_after=8)
    trained(tmp_path / "continued", 4, stop_after=None)
    assert {done: len(found) for done, found in hashes.items()} == {0: 1, 4: 1, 8: 2, NUM_STEPS: 1}
    assert len(set(hashes[8])) == 1, "who evaluates knows it by that"
    assert len({found[0] for found in hashes.values()}) == 4
