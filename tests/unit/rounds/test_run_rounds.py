"""The loop of rounds over ports that compute nothing: who trains on what, and what a kill at any point leaves."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.rounds.test_mixed_rows import file_of, row
from wmtp_ray.config.load import load_config, load_resolved, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ArtifactError, PlanError
from wmtp_ray.evaluation.collecting.collection_manifest import CollectionCounts, CollectionManifest
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.rounds.rounds_record import read_rounds
from wmtp_ray.rounds.run_rounds import Ports, run_rounds, seed_of_round
from wmtp_ray.run_folder import RoundsFolder
from wmtp_ray.tracking.result import RunResult, write_result

POLICY = "policy"  # the one file of a policy that nothing computes with
STEPS = 7


class Killed(Exception):
    """In the place of a SIGKILL: nothing behind it runs."""


def weights(model: Path) -> str:
    return (model / POLICY).read_text()


def configured(root: Path, *words: str, recipe: str = "online") -> RunConfig:
    if not (root / "base").is_dir():
        (root / "base").mkdir(parents=True)
        (root / "base" / POLICY).write_text("base")
        file_of(root / "train.jsonl", 6, 14)
        (root / "problems.jsonl").write_text('{"task_id": "list_1"}\n')
    given = [f"recipe={recipe}", "run_name=mine", f"storage_root={root}", f"model.path={root}/base"]
    given += [f"data.train_file={root}/train.jsonl", f"rounds.problems={root}/problems.jsonl", *words]
    config = load_config(parse_arguments(given), now=datetime(2026, 1, 1))
    claim_run_directory(config)
    return config


class World:
    """Ports whose rows follow from policy and seed, whose policies from policy and rows; they end at the n-th event."""

    def __init__(self, ends_at: int | None = None) -> None:
        self.events: list[str] = []
        self.collected: list[Path] = []
        self.trained: list[Path] = []
        self._ends_at = ends_at

    @property
    def ports(self) -> Ports:
        return Ports(self.collect, self.train)

    def collect(self, config: RunConfig, policy: Path, out: Path, seed: int) -> CollectionManifest:
        self._event(f"before collecting {out.stem}")
        self.collected.append(policy)
        name = hashlib.sha256(f"{weights(policy)} {seed}".encode()).hexdigest()
        rows = [row(f"y = {name!r}, {n}", n < 2, origin=f"{name[:12]}-{n}") for n in range(5)]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"".join(rows))
        self._event(f"collected {out.stem}")
        return manifest(out)

    def train(self, config: RunConfig) -> RunResult:
        self._event(f"before training {config.run_dir.name}")
        self.trained.append(config.run_dir)
        claim_run_directory(config)
        made = hashlib.sha256(weights(config.model.path).encode() + config.data.train_file.read_bytes()).hexdigest()
        config.folder.final.mkdir(parents=True, exist_ok=True)
        (config.folder.final / POLICY).write_text(made)
        self._event(f"policy of {config.run_dir.name}")
        result = RunResult("FINISHED", STEPS, {}, made, {}, ())
        write_result(config.run_dir, result)
        self._event(f"trained {config.run_dir.name}")
        return result

    def _event(self, name: str) -> None:
        self.events.append(name)
        if len(self.events) - 1 == self._ends_at:
            raise Killed(name)


def manifest(rows: Path) -> CollectionManifest:
    """That of 20 answers to 4 problems, 2 of which passed."""
    verdicts, left_out = {"fail": 18, "pass": 2}, {"duplicate": 12, "over the cap": 3}
    counts = CollectionCounts(4, 1, 1, 20, 200, 2, 3, verdicts, left_out, {5: 4})
    settings, sha256 = CollectionSettings(num_samples=5), hashlib.sha256(rows.read_bytes()).hexdigest()
    return CollectionManifest(sha256, "0", "", None, "", (), "instruct", "", settings, counts, {})


def mixed(config: RunConfig, number: int) -> list[dict[str, object]]:
    lines = RoundsFolder(config.run_dir).train_file(number).read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def test_each_round_collects_with_the_policy_of_the_round_before_and_trains_it_further(tmp_path):
    config, world = configured(tmp_path, "rounds=3"), World()
    run_rounds(config, world.ports)
    folder = RoundsFolder(config.run_dir)
    policies = [tmp_path / "base", folder.run(0).final, folder.run(1).final]
    assert world.collected == policies
    runs = [load_resolved(folder.run(number).config) for number in range(3)]
    assert [run.model.path for run in runs] == policies
    assert [run.data.train_file for run in runs] == [folder.train_file(number) for number in range(3)]
    assert [(run.run_name, run.rounds.count, run.tags) for run in runs] == [
        (f"mine/round_{number}", None, {"rounds": "mine", "round": str(number)}) for number in range(3)
    ]
    assert {run.weighting.type for run in runs} == {"td"}


def test_the_record_says_what_each_round_collected_trained_and_made(tmp_path):
    config = configured(tmp_path, "rounds=2")
    record = run_rounds(config, World().ports)
    assert read_rounds(RoundsFolder(config.run_dir)) == record
    assert (record.steps, record.judged) == (2 * STEPS, 2 * 20)
    for number, each in enumerate(record.rounds):
        assert each.collected is not None
        assert each.mixed is not None
        assert (each.run, each.steps) == (f"round_{number}", STEPS)
        collected = each.collected
        assert (collected.problems, collected.judged, collected.correct) == (4, 20, 2)
        assert collected.different_programs == 2 + 3 + 3, "a program over the cap is one that was written"
        assert each.mixed.from_file == each.mixed.collected
        assert each.policy_sha256 == weights(RoundsFolder(config.run_dir).run(number).final)


@pytest.mark.parametrize(("keep", "num_collected"), [("all", [5, 10, 15]), ("last", [5, 5, 5]), ("2", [5, 10, 10])])
def test_rows_of_earlier_rounds_are_kept_as_asked(tmp_path, keep, num_collected):
    config = configured(tmp_path, "rounds=3", f"rounds.keep={keep}", "rounds.share_collected=null")
    record = run_rounds(config, World().ports)
    assert [each.mixed.collected for each in record.rounds if each.mixed is not None] == num_collected
    assert [each.mixed.from_file for each in record.rounds if each.mixed is not None] == [20, 20, 20]
    for number, expected in enumerate(num_collected):
        assert len(mixed(config, number)) == 20 + expected


def test_rejection_sampling_trains_on_correct_rows_alone(tmp_path):
    config = configured(tmp_path, "rounds=2", recipe="online_rejection")
    run_rounds(config, World().ports)
    for number, num_rows in ((0, 2 + 2), (1, 4 + 4)):
        rows = mixed(config, number)
        assert len(rows) == num_rows
        assert {each["is_correct"] for each in rows} == {True}


def test_where_nothing_is_collected_every_round_trains_on_the_file(tmp_path):
    config, world = configured(tmp_path, "rounds=2", "rounds.share_collected=0"), World()
    record = run_rounds(config, world.ports)
    assert world.collected == []
    assert (record.judged, record.steps) == (0, 2 * STEPS)
    runs = [load_resolved(RoundsFolder(config.run_dir).run(number).config) for number in range(2)]
    assert {run.data.train_file for run in runs} == {tmp_path / "train.jsonl"}
    assert not RoundsFolder(config.run_dir).collected.exists()
    assert not RoundsFolder(config.run_dir).mixed.exists()


def test_the_rounds_of_a_run_and_runs_of_other_seeds_draw_with_different_seeds():
    seeds = {seed_of_round(seed, number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)


NUM_EVENTS = 2 * 5


@pytest.mark.parametrize("ends_at", range(NUM_EVENTS))
def test_a_run_killed_at_any_point_ends_with_the_same_policies_and_repeats_no_round(tmp_path, ends_at):
    whole = World()
    undisturbed = run_rounds(configured(tmp_path / "whole", "rounds=2"), whole.ports)
    assert len(whole.events) == NUM_EVENTS
    config, killed = configured(tmp_path / "killed", "rounds=2"), World(ends_at)
    with pytest.raises(Killed):
        run_rounds(config, killed.ports)
    done = read_rounds(RoundsFolder(config.run_dir)).rounds
    resumed = World()
    assert run_rounds(config, resumed.ports) == undisturbed
    assert all(f"round_{number}" not in " ".join(resumed.events) for number in range(len(done)))
    again = World()
    assert run_rounds(config, again.ports) == undisturbed
    assert again.events == []


def test_a_policy_that_is_not_the_recorded_one_is_refused(tmp_path):
    config = configured(tmp_path, "rounds=2")
    with pytest.raises(Killed):
        run_rounds(config, World(6).ports)
    run = RoundsFolder(config.run_dir).run(0)
    write_result(run.path, RunResult("FINISHED", STEPS, {}, "another", {}, ()))
    with pytest.raises(ArtifactError, match=r"found the policy another, expected .* of round 0; restore the folder"):
        run_rounds(config, World().ports)


FIRST_ROUND = 5  # events of a round


@pytest.mark.parametrize("name", ["train.jsonl", "problems.jsonl"])
def test_files_that_changed_between_the_rounds_are_refused(tmp_path, name):
    config = configured(tmp_path, "rounds=2")
    with pytest.raises(Killed):
        run_rounds(config, World(FIRST_ROUND).ports)
    with (tmp_path / name).open("ab") as file:
        file.write(row("z = 1", True))
    with pytest.raises(PlanError, match=rf"the content of .*{name} has changed .* Restore it"):
        run_rounds(config, World().ports)


@pytest.mark.parametrize("is_removed", [True, False])
def test_rows_of_an_earlier_round_that_are_kept_must_be_those_that_it_collected(tmp_path, is_removed):
    config, world = configured(tmp_path, "rounds=2"), World()
    with pytest.raises(Killed):
        run_rounds(config, World(FIRST_ROUND).ports)
    rows = RoundsFolder(config.run_dir).rows(0)
    rows.unlink() if is_removed else rows.write_bytes(row("z = 1", True))
    with pytest.raises(ArtifactError, match=r"round_0.jsonl: found .*, expected those that round_0 collected"):
        run_rounds(config, world.ports)
    assert world.trained == []


def test_rows_of_an_earlier_round_that_are_not_kept_may_be_gone(tmp_path):
    config = configured(tmp_path, "rounds=2", "rounds.keep=last")
    with pytest.raises(Killed):
        run_rounds(config, World(FIRST_ROUND).ports)
    RoundsFolder(config.run_dir).rows(0).unlink()
    assert len(run_rounds(config, World().ports).rounds) == 2
