"""Stage 1 keeps its best version by the held-out loss, ends early, and goes on exactly after a kill at any point."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.snapshots import SnapshotDirectory, version_of_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch
from wmtp_ray.data.collate import documents_of
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.ranks import OneRank
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.kept_critic import HeldOutReading, KeptCritic, best_of, no_better_since
from wmtp_ray.training.best_version import BestVersion
from wmtp_ray.training.block_limit import no_limit
from wmtp_ray.training.checkpoint import latest_checkpoint, read_state, step_of
from wmtp_ray.training.loop import Ports, StageLoop, StepOutcome
from wmtp_ray.training.publishing import open_snapshots
from wmtp_ray.training.stage_checkpoints import StageCheckpoints
from wmtp_ray.training.stage_start import RankStage, build_training, restore_training
from wmtp_ray.training.stages import critic_stage, freeze_for_critic

from .plain_ports import CountedLife, GivenSteps, ReportList, StopAfter, plain_ports

CPU = torch.device("cpu")
NUM_STEPS = 24
WORDS = (
    "critic.source=frozen",
    "critic.train_trunk=true",
    "critic_stage.eval_every=2",
    "critic_stage.patience=3",
    "critic_stage.learning_rate=3e-2",
    "train.checkpoint_every=3",
    "train.warmup_frac=0",
)


class Killed(Exception):
    """The process ends here."""


@dataclass
class KilledReports(ReportList):
    """Kills the process at the report of a step: after its optimizer step, before anything of it is saved."""

    at: int | None = None

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at = at

    def report(self, outcome: StepOutcome) -> None:
        super().report(outcome)
        if outcome.step == self.at:
            raise Killed

    def keep(self) -> None:
        """Reports are not what is tested here."""


@dataclass
class Attempt:
    """One start of stage 1, and what it kept, None where it did not end."""

    kept: KeptCritic | None
    weights: str
    reports: ReportList
    first_step: int


def batches_of(nano, num_steps: int = NUM_STEPS) -> list[list[ScoredBatch]]:
    """The same few rows again and again: the critic learns them by heart."""
    return [[nano.scored_batch(nano.rows(6, seed=step % 2), step=step)] for step in range(num_steps)]


def attempt(
    nano, config: RunConfig, directory: Path, *, killed_at: int | None = None, stop_after: int | None = None
) -> Attempt:
    """Train as `stage_run.py` does, from the newest checkpoint, but for rows and weights that are generated."""
    checkpoint, ranks = latest_checkpoint(StageFolder(directory).checkpoints), OneRank()
    first_step = step_of(checkpoint) if checkpoint is not None else 0
    stage = RankStage(config, critic_stage(config), directory, ranks, CPU, NUM_STEPS, "ab12", checkpoint, first_step)
    policy = nano.policy(config)
    freeze_for_critic(policy, config)
    training = build_training(stage.recipe, policy, config, ranks, CPU)
    snapshots = open_snapshots(directory / "snapshots", restore_training(training, stage), ranks)
    readings = read_state(checkpoint).held_out if checkpoint is not None else ()
    held_out = [nano.scored_batch(rows).batch for rows in (nano.rows(4, seed=91), nano.rows(6, seed=92))]
    best = BestVersion(training, held_out, snapshots, config, ranks, no_limit, readings)
    reports = KilledReports(killed_at)
    checkpoints = StageCheckpoints(stage, training, best, reports, no_limit, best)
    stop = StopAfter(stop_after)
    ports = Ports(GivenSteps(batches_of(nano)), reports, best, checkpoints, stop, CountedLife(), best, best)
    steps = range(first_step, NUM_STEPS)
    loop = StageLoop(training, config, ports, ranks, steps=steps, peak_learning_rate=stage.recipe.peak_learning_rate)
    kept = None
    try:
        if loop.run():
            kept = best.restore(loop.done, NUM_STEPS)
    except Killed:
        pass
    return Attempt(kept, tensors_sha256(policy.state_dict()), reports, first_step)


@pytest.fixture(scope="module")
def config(nano) -> RunConfig:
    return nano.load(*WORDS)


@pytest.fixture(scope="module")
def whole(nano, config, tmp_path_factory) -> Attempt:
    return attempt(nano, config, tmp_path_factory.mktemp("whole"))


def test_a_critic_that_overfits_is_stopped_and_its_best_version_published(nano, config, whole, tmp_path):
    kept = whole.kept
    assert kept is not None
    losses = [reading.loss for reading in kept.readings]
    assert kept.loss == min(losses) < losses[-1]
    assert (kept.step, kept.steps) == (kept.readings[-1 - 3].step, kept.step + 3 * 2)
    assert kept.steps < kept.planned_steps == NUM_STEPS
    assert [reading.step for reading in kept.readings] == list(range(2, kept.steps + 1, 2))
    stopped_there = attempt(nano, config, tmp_path, stop_after=kept.step)
    assert whole.weights == stopped_there.weights, "the weights are those that the best step left"
    assert whole.weights != attempt(nano, config, tmp_path / "last", stop_after=kept.steps).weights


def test_every_reading_is_reported_with_the_step_that_is_kept_so_far(whole):
    told = {
        outcome.step + 1: (outcome.metrics["held_out/critic_loss"], outcome.metrics["held_out/critic_best_step"])
        for outcome in whole.reports.outcomes
        if "held_out/critic_loss" in outcome.metrics
    }
    readings = list(whole.kept.readings)
    assert {reading.step: reading.loss for reading in readings} == {step: loss for step, (loss, _) in told.items()}
    for place, reading in enumerate(readings):
        assert told[reading.step][1] == best_of(readings[: place + 1]).step


@pytest.mark.parametrize("killed_at", [0, 3, 5, 6, 7, 9, 11])
def test_a_run_killed_anywhere_keeps_the_same_version(nano, config, whole, tmp_path, killed_at):
    """Killed before the first checkpoint, at a reading, between reading and checkpoint, in the last steps."""
    assert killed_at < whole.kept.steps
    first = attempt(nano, config, tmp_path, killed_at=killed_at)
    assert first.kept is None
    second = attempt(nano, config, tmp_path)
    assert second.first_step <= killed_at
    assert (second.kept, second.weights) == (whole.kept, whole.weights)


def test_a_run_killed_after_its_early_end_makes_no_further_step(nano, config, whole, tmp_path):
    """The checkpoint of the early end is there, the result is not."""
    attempt(nano, config, tmp_path)
    again = attempt(nano, config, tmp_path)
    assert again.first_step == whole.kept.steps
    assert again.reports.outcomes == []
    assert (again.kept, again.weights) == (whole.kept, whole.weights)


def test_a_checkpoint_carries_the_best_version_alone(nano, config, whole, tmp_path):
    attempt(nano, config, tmp_path)
    checkpoint = latest_checkpoint(StageFolder(tmp_path).checkpoints)
    assert read_state(checkpoint).held_out == whole.kept.readings
    files = sorted((checkpoint / "snapshots").iterdir())
    assert [version_of_file(path) for path in files] == [whole.kept.step]
    (attempt_folder,) = (tmp_path / "snapshots").iterdir()
    assert len(SnapshotDirectory(attempt_folder).files()) == 1


def test_without_patience_the_stage_goes_to_its_end_and_still_keeps_the_best(nano, whole, tmp_path):
    found = attempt(nano, nano.load(*WORDS, "critic_stage.patience=null"), tmp_path)
    assert found.kept.steps == NUM_STEPS
    assert found.kept.loss <= whole.kept.loss
    assert found.kept.readings[: len(whole.kept.readings)] == whole.kept.readings


def test_readings_change_nothing_of_the_training(nano, config, whole):
    plain = nano.policy(config)
    freeze_for_critic(plain, config)
    training = build_training(critic_stage(config), plain, config, OneRank(), CPU)
    reports = ReportList()
    steps = range(NUM_STEPS)
    ports = plain_ports(batches_of(nano), reports)
    StageLoop(training, config, ports, OneRank(), steps=steps, peak_learning_rate=3e-2).run()
    length = len(whole.reports.outcomes)
    assert whole.reports.metric("loss/total") == reports.metric("loss/total")[:length]


@pytest.mark.parametrize("error", ["squared", "bce"])
def test_a_reading_is_the_mean_error_over_all_states_against_the_reward(nano, tmp_path, error):
    """Whatever stage 1 learns towards: lambda-returns here, by a loop over documents and states."""
    config = nano.load(*WORDS, "critic.value_target=lambda", "critic.value_lambda=0.3", f"critic.value_error={error}")
    policy = nano.policy(config)
    freeze_for_critic(policy, config)
    training = build_training(critic_stage(config), policy, config, OneRank(), CPU)
    batches = [nano.scored_batch(rows).batch for rows in (nano.rows(4, seed=91), nano.rows(6, seed=92))]
    best = BestVersion(training, batches, SnapshotDirectory(tmp_path), config, OneRank(), no_limit)
    errors = []
    for batch in batches:
        values_T = training.loss.value_scores(BatchTensors.from_batch(batch, CPU)).values_BT[0].double()
        for number, document in enumerate(documents_of(batch)):
            reward = float(batch.rewards_M[number])
            for t in range(document.start, document.stop - 1):
                if batch.supervised_mask_BT[0, t + 1]:
                    value = float(values_T[t])
                    squared = error == "squared"
                    errors.append((value - reward) ** 2 if squared else -math.log(value if reward else 1 - value))
    assert best.metrics_after(2, 9)["held_out/critic_loss"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "best", "since"),
    [([], None, 0), ([0.5], 0, 0), ([0.5, 0.4, 0.6], 1, 1), ([0.4, 0.4, 0.5], 0, 2), ([float("nan"), 0.3], 1, 0)],
)
def test_equal_losses_keep_the_first_and_a_loss_that_is_no_number_is_never_kept(losses, best, since):
    readings = [HeldOutReading(step, loss) for step, loss in enumerate(losses)]
    assert best_of(readings) == (None if best is None else readings[best])
    assert no_better_since(readings) == since


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_patience_counts_the_readings_behind_the_best(losses):
    readings = [HeldOutReading(5 * step, loss) for step, loss in enumerate(losses)]
    assert no_better_since(readings) == len(losses) - 1 - losses.index(min(losses))


def test_what_was_kept_is_said_in_words():
    readings = (HeldOutReading(10, 0.25),)
    assert KeptCritic(10, 0.25, 40, 100, readings).words == (
        "kept after 10 of 100 steps, held-out loss 0.2500; the stage ended after 40"
    )
    assert KeptCritic(10, 0.25, 100, 100, readings).words == "kept after 10 of 100 steps, held-out loss 0.2500"


@pytest.mark.parametrize("trunk", ["critic.train_trunk=false", "critic.train_trunk=true"])
@pytest.mark.parametrize("killed_at", [1, 4])
def test_an_ensemble_goes_on_exactly_after_a_kill(nano, tmp_path, trunk, killed_at):
    """Its checkpoint holds all members and their moments, its best version all that learns."""
    config = nano.load(*WORDS, trunk, "critic.ensemble=3", "critic.head=mlp", *nano.indexed(tmp_path))
    whole = attempt(nano, config, tmp_path / "whole")
    assert whole.kept is not None
    attempt(nano, config, tmp_path / "killed", killed_at=killed_at)
    resumed = attempt(nano, config, tmp_path / "killed")
    assert (resumed.kept, resumed.weights) == (whole.kept, whole.weights)


@pytest.mark.parametrize("error", ["squared", "bce"])
def test_a_reading_of_an_ensemble_is_the_error_of_its_mean_v(nano, tmp_path, error):
    words = ("critic.ensemble=2", "critic.head=mlp", f"critic.value_error={error}", *nano.indexed(tmp_path))
    config = nano.load(*WORDS, *words)
    policy = nano.policy(config)
    freeze_for_critic(policy, config)
    training = build_training(critic_stage(config), policy, config, OneRank(), CPU)
    batch = nano.scored_batch(nano.rows(6, seed=92)).batch
    best = BestVersion(training, [batch], SnapshotDirectory(tmp_path), config, OneRank(), no_limit)
    tensors = BatchTensors.from_batch(batch, CPU)
    members = [member.outputs(tensors)[0, :, 0].detach() for member in policy.value_head.models]
    values = [member.sigmoid() if error == "bce" else member for member in members]
    values_T = torch.stack(values).mean(dim=0).double()
    errors = []
    for number, document in enumerate(documents_of(batch)):
        reward = float(batch.rewards_M[number])
        for t in range(document.start, document.stop - 1):
            if batch.supervised_mask_BT[0, t + 1]:
                value = float(values_T[t])
                errors.append((value - reward) ** 2 if error == "squared" else -math.log(abs(1 - reward - value)))
    assert best.metrics_after(2, 9)["held_out/critic_loss"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
