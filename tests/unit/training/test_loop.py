"""The loop over plain ports, without Ray: the order of a step, and a run that is stopped and continued."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.snapshots import SnapshotDirectory, version_of_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import IN_FINISH, ScoredBatch, StepReport
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.plan.versions import PublishedVersions
from wmtp_ray.ranks import OneRank
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.log_lines import LogTail
from wmtp_ray.tracking.run_log import log_stage, opened_log
from wmtp_ray.training.block_limit import no_limit
from wmtp_ray.training.checkpoint import latest_checkpoint, read_state, step_of
from wmtp_ray.training.loop import Ports, StageLoop, seed_step
from wmtp_ray.training.publishing import PublishedPolicy, open_snapshots
from wmtp_ray.training.stage_checkpoints import StageCheckpoints
from wmtp_ray.training.stage_run import finish_of
from wmtp_ray.training.stage_start import RankStage, build_training, restore_training
from wmtp_ray.training.stages import policy_stage
from wmtp_ray.training.step_reports import StepReports

from .plain_ports import CountedLife, GivenSteps, ReportList, StopAfter, plain_ports

CPU = torch.device("cpu")
NUM_STEPS, STOPPED_AFTER = 7, 4
WORDS = ("train.checkpoint_every=3", "weighting.advantage_norm=ema", "critic.ema_decay=0.5", "critic.publish_every=2")


@dataclass
class RecordedReports:
    """A sink that records what it is sent."""

    reports: list[StepReport] = field(default_factory=list)
    num_flushed: int = 0

    def start_from(self, stage: int, step: int) -> None:
        self.reports = [each for each in self.reports if (each.stage, each.step) < (stage, step)]

    def send(self, report: StepReport) -> None:
        self.reports.append(report)

    def recorded(self) -> list[StepReport]:
        return self.reports

    def flush(self) -> None:
        self.num_flushed = len(self.reports)


@dataclass
class Attempt:
    """One start of a stage in a folder, from the newest checkpoint there."""

    stage: RankStage
    policy: Policy
    snapshots: SnapshotDirectory
    ended: bool


def steps_of(nano, unscored_from: int | None = None) -> list[list[ScoredBatch]]:
    """Two micro-batches a step."""
    rows = [nano.rows(6, seed=step) for step in range(NUM_STEPS)]
    steps = [
        [nano.scored_batch(each, step=step) for each in (rows[step][:2], rows[step][2:])] for step in range(NUM_STEPS)
    ]
    first = NUM_STEPS if unscored_from is None else unscored_from
    return steps[:first] + [[replace(each, scores=None) for each in step] for step in steps[first:]]


def attempt(
    nano,
    config: RunConfig,
    directory: Path,
    sink: RecordedReports,
    *,
    stop_after: int | None = None,
    finish_step: int | None = None,
    horizon_starts: tuple[int, ...] = (),
    unscored_from: int | None = None,
) -> Attempt:
    """Train on a policy of its own, as `stage_run.py` does, but for rows and weights that are generated."""
    checkpoint, ranks = latest_checkpoint(StageFolder(directory).checkpoints), OneRank()
    first_step = step_of(checkpoint) if checkpoint is not None else 0
    stage = RankStage(
        config,
        policy_stage(config),
        directory,
        ranks,
        CPU,
        NUM_STEPS,
        "ab12",
        checkpoint,
        first_step,
        finish_step,
        horizon_starts,
    )
    policy = nano.policy(config)
    training = build_training(stage.recipe, policy, config, ranks, CPU)
    carried = restore_training(training, stage)
    snapshots = open_snapshots(directory / "snapshots", carried, ranks)
    versions = PublishedPolicy(policy, snapshots, PublishedVersions(2, 2, unscored_from), config, ranks, no_limit)
    reports = StepReports(stage, ModelSpec.of(nano.args), sink, peak_flops=1e9)
    reports.start()
    checkpoints = StageCheckpoints(stage, training, versions, reports, no_limit)
    ports = Ports(
        GivenSteps(steps_of(nano, unscored_from)),
        reports,
        versions,
        checkpoints,
        StopAfter(stop_after),
        CountedLife(),
        drift=None,
    )
    steps = range(stage.first_step, NUM_STEPS)
    finish = finish_of(stage, training)
    loop = StageLoop(
        training,
        config,
        ports,
        ranks,
        steps=steps,
        peak_learning_rate=1e-2,
        finish=finish,
        horizon_starts=stage.horizon_starts,
    )
    return Attempt(stage, policy, snapshots, loop.run())


def sha256_of_versions(snapshots: SnapshotDirectory) -> dict[int, str]:
    return {
        version_of_file(path): tensors_sha256(snapshots.get(version_of_file(path), 1.0)) for path in snapshots.files()
    }


class TestStopped:
    """A run that is stopped between two checkpoints and continued, beside one that is not."""

    @pytest.fixture
    def config(self, nano, tmp_path) -> RunConfig:
        return nano.load(*WORDS).model_copy(update={"storage_root": tmp_path})

    @pytest.fixture
    def whole(self, nano, config, tmp_path) -> tuple[Attempt, RecordedReports]:
        sink = RecordedReports()
        return attempt(nano, config, tmp_path / "whole", sink, stop_after=None), sink

    def test_a_stopped_run_continues_to_the_same_bits(self, nano, config, whole, tmp_path):
        sink = RecordedReports()
        first = attempt(nano, config, tmp_path / "cut", sink, stop_after=STOPPED_AFTER)
        assert not first.ended
        assert [report.step for report in sink.reports] == list(range(STOPPED_AFTER))
        second = attempt(nano, config, tmp_path / "cut", sink, stop_after=None)
        expected = whole[0]
        assert (second.stage.first_step, second.ended, expected.ended) == (STOPPED_AFTER, True, True)
        assert tensors_sha256(second.policy.state_dict()) == tensors_sha256(expected.policy.state_dict())
        assert tensors_sha256(first.policy.state_dict()) != tensors_sha256(expected.policy.state_dict())
        assert sha256_of_versions(second.snapshots) == sha256_of_versions(expected.snapshots)
        for found, wanted in zip(sink.reports, whole[1].reports, strict=True):
            assert {n: v for n, v in found.metrics.items() if not n.startswith("perf/")} == {
                n: v for n, v in wanted.metrics.items() if not n.startswith("perf/")
            }

    def test_checkpoints_come_when_due_at_a_stop_and_at_the_end(self, nano, config, whole, tmp_path):
        def saved(attempt: Attempt) -> list[tuple[int, float]]:
            states = [read_state(path) for path in sorted((StageFolder(attempt.stage.directory).checkpoints).iterdir())]
            return [(state.step, state.mean_loss) for state in states]

        losses = [report.metrics["loss/total"] for report in whole[1].reports]
        assert saved(whole[0]) == [
            (3, pytest.approx(sum(losses[:3]) / 3)),
            (6, pytest.approx(sum(losses[3:6]) / 3)),
            (7, pytest.approx(losses[6])),
        ]
        cut = attempt(nano, config, tmp_path / "cut", RecordedReports(), stop_after=STOPPED_AFTER)
        assert [step for step, _ in saved(cut)] == [3, STOPPED_AFTER]

    def test_reports_that_died_with_their_sink_are_sent_again(self, nano, config, tmp_path):
        """The last report is lost; the file beside the checkpoint that came after it still holds it."""
        sink = RecordedReports()
        attempt(nano, config, tmp_path / "cut", sink, stop_after=STOPPED_AFTER)
        lost = sink.reports.pop()
        sink.reports.append(replace(lost, step=NUM_STEPS))  # of a step that the next start makes again
        attempt(nano, config, tmp_path / "cut", sink, stop_after=1)
        assert [report.step for report in sink.reports] == [0, 1, 2, lost.step, STOPPED_AFTER]
        assert sink.reports[lost.step] == lost


class TestFinish:
    """Steps from 3 on weigh every token alike, whatever the arm."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path

    def config(self, nano, folder: Path, *words: str) -> RunConfig:
        return nano.load(*WORDS, *words).model_copy(update={"storage_root": folder})

    @pytest.mark.parametrize("value_coef", [0.0, 0.5])
    def test_a_run_stopped_in_its_finish_continues_to_the_same_bits(self, nano, folder, value_coef):
        """Without a value loss nobody reads the scores of the finish, so its batches have none."""
        config = self.config(nano, folder, f"train.value_coef={value_coef}")
        parts = {"finish_step": 3, "unscored_from": None if value_coef else 3}
        whole, sink = RecordedReports(), RecordedReports()
        expected = attempt(nano, config, folder / "whole", whole, **parts)
        attempt(nano, config, folder / "cut", sink, stop_after=STOPPED_AFTER, **parts)
        second = attempt(nano, config, folder / "cut", sink, **parts)
        assert (second.stage.first_step, second.ended) == (STOPPED_AFTER, True)
        assert tensors_sha256(second.policy.state_dict()) == tensors_sha256(expected.policy.state_dict())
        assert sha256_of_versions(second.snapshots).items() <= sha256_of_versions(expected.snapshots).items()
        for reports in (whole.reports, sink.reports):
            assert [IN_FINISH in report.metrics for report in reports] == [False] * 3 + [True] * 4
            assert all(report.metrics["weight/std"] > 0.05 for report in reports[:3])
            assert all((r.metrics["weight/mean"], r.metrics["weight/std"]) == (1.0, 0.0) for r in reports[3:])
            assert all(("loss/value" in report.metrics) == bool(value_coef) for report in reports)

    def test_versions_that_no_step_would_read_are_not_published(self, nano, folder):
        config = self.config(nano, folder, "train.value_coef=0")
        found = attempt(nano, config, folder / "run", RecordedReports(), finish_step=5, unscored_from=5)
        assert [version_of_file(path) for path in found.snapshots.files()][-1] == 2  # step 4 is the last that is scored

    def test_a_run_that_is_all_finish_is_the_uniform_arm(self, nano, folder):
        finished = self.config(nano, folder, "weighting.type=td", "train.value_coef=0")
        uniform = self.config(nano, folder, "weighting.type=uniform", "train.value_coef=0")
        policies = [
            attempt(nano, finished, folder / "td", RecordedReports(), finish_step=0, unscored_from=0).policy,
            attempt(nano, uniform, folder / "uniform", RecordedReports()).policy,
            attempt(nano, finished, folder / "arm", RecordedReports()).policy,
        ]
        hashes = [tensors_sha256(policy.state_dict()) for policy in policies]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_the_pass_that_only_looks_is_left_out(self, nano, folder):
        config = self.config(nano, folder, "weighting.type=surprisal", "train.value_coef=0")
        sink = RecordedReports()
        found = attempt(nano, config, folder / "run", sink, finish_step=0, unscored_from=0)
        uniform = self.config(nano, folder, "weighting.type=uniform", "train.value_coef=0")
        expected = attempt(nano, uniform, folder / "uniform", RecordedReports())
        assert tensors_sha256(found.policy.state_dict()) == tensors_sha256(expected.policy.state_dict())


def test_horizons_come_in_with_their_steps_also_after_a_stop(nano, tmp_path):
    config = nano.load(*WORDS).model_copy(update={"storage_root": tmp_path})
    starts, whole, sink = (0, 2, 5), RecordedReports(), RecordedReports()
    expected = attempt(nano, config, tmp_path / "whole", whole, horizon_starts=starts)
    attempt(nano, config, tmp_path / "cut", sink, stop_after=STOPPED_AFTER, horizon_starts=starts)
    second = attempt(nano, config, tmp_path / "cut", sink, horizon_starts=starts)
    assert tensors_sha256(second.policy.state_dict()) == tensors_sha256(expected.policy.state_dict())
    for reports in (whole.reports, sink.reports):
        assert [report.metrics["train/horizons"] for report in reports] == [1, 1, 2, 2, 2, 3, 3]
    at_once = attempt(nano, config, tmp_path / "at_once", RecordedReports())
    assert tensors_sha256(at_once.policy.state_dict()) != tensors_sha256(expected.policy.state_dict())


def test_the_log_has_the_step_of_every_event_and_no_line_for_a_step(nano, tmp_path):
    config = nano.load(*WORDS).model_copy(update={"storage_root": tmp_path})
    with opened_log(tmp_path, "rank_0"):
        log_stage(2)
        attempt(nano, config, tmp_path / "run", RecordedReports(), stop_after=STOPPED_AFTER)
    said = [line.text.partition("rank_0 ")[2].partition(" written in ")[0] for line in LogTail(tmp_path).new()]
    assert said == [
        "stage=2 Version 0 of the critic published",
        "stage=2 step=1 Version 2 of the critic published",
        "stage=2 step=2 Checkpoint of 3 steps",
        "stage=2 step=3 Version 4 of the critic published",
        "stage=2 step=3 Checkpoint of 4 steps",
        "stage=2 step=3 A stop was asked for; 4 of 7 steps are done",
    ]


class TestOrder:
    def test_a_step_talks_to_its_ports_in_this_order(self, nano):
        """Versions come before the checkpoint, which carries them; the stop is heard before it, so that it is saved."""
        said: list[str] = []

        class Noting:
            def __init__(self, name: str, answer: object = None) -> None:
                self._name, self._answer = name, answer

            def __getattr__(self, call: str):
                def note(*arguments: object) -> object:
                    numbers = [f" {each}" for each in arguments if isinstance(each, int)]
                    said.append(f"{self._name}.{call}{''.join(numbers)}")
                    return self._answer

                return note

        config = nano.load("train.checkpoint_every=2")
        batches = [[nano.scored_batch(nano.rows(4), step=step)] for step in range(2)]
        ports = plain_ports(batches, ReportList())
        noted = {name: Noting(name) for name in ("versions", "checkpoints", "life", "reports")}
        ports = replace(ports, **noted, stop=Noting("stop", answer=False), drift=Noting("drift", answer={}))
        training = build_training(policy_stage(config), nano.policy(config), config, OneRank(), CPU)
        assert StageLoop(training, config, ports, OneRank(), steps=range(2), peak_learning_rate=1e-3).run()
        of_step = ["reports.report", "life.show", "versions.publish {}", "stop.is_asked"]
        assert said == [
            "versions.publish 0",
            *(each.format(1) for each in ["drift.metrics_after 1 2", *of_step]),
            *(each.format(2) for each in ["drift.metrics_after 2 2", *of_step]),
            "checkpoints.save 2",
            "life.show",
        ]


class TestPublishing:
    def test_a_version_is_the_average_of_the_one_before_and_the_policy(self, nano, tmp_path):
        config = nano.load("critic.ema_decay=0.75")
        policy = nano.policy(config)
        versions = PublishedPolicy(
            policy, SnapshotDirectory(tmp_path), PublishedVersions(4, 2), config, OneRank(), no_limit
        )
        expected: dict[str, Tensor] = {}
        for done in range(5):
            with torch.no_grad():
                policy.value_head.output.bias.add_(1.0)
            versions.publish(done)
            if done % 2 == 0:
                now = {name: tensor.clone() for name, tensor in value_path_state(policy).items()}
                expected = {n: 0.75 * expected[n] + 0.25 * now[n] for n in now} if expected else now
        found = SnapshotDirectory(tmp_path)
        assert [version_of_file(path) for path in found.files()] == [0, 2, 4]
        assert tensors_sha256(found.get(4, 1.0)) == tensors_sha256(expected)

    def test_versions_that_no_step_needs_go_and_the_others_travel(self, nano, tmp_path):
        config = nano.load("critic.ema_decay=0")
        versions = PublishedPolicy(
            nano.policy(config), SnapshotDirectory(tmp_path), PublishedVersions(3, 2), config, OneRank(), no_limit
        )
        for done in range(9):
            versions.publish(done)
        assert [version_of_file(path) for path in versions.needed_after(8)] == [4, 6, 8]
        assert [version_of_file(path) for path in versions.needed_after(11)] == [8]


def test_what_a_forward_draws_depends_on_run_step_and_rank_alone():
    def drawn(*key: int) -> float:
        torch.rand(3)
        seed_step(*key)
        return float(torch.rand(1))

    keys = [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert [drawn(*key) for key in keys] == [drawn(*key) for key in keys]
