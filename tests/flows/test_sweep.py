"""Sweeps: what is refused before anything starts, where points come from, and one that is killed and goes on."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.world import NUM_STEPS, command_line, configured, kill_family, metrics_of, run, start_driver
from wmtp_ray.cli import main
from wmtp_ray.cli.ends import DONE, REFUSED
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.config.sweep import SweepSpec, load_sweep
from wmtp_ray.config.sweep_points import Point, Trial
from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.sweep.sweep_outcome import read_points
from wmtp_ray.flows.sweep.sweep_plan import (
    SweepPlan,
    claim_sweep_directory,
    own_part,
    plan_sweep,
    release_sweep_directory,
)
from wmtp_ray.preflight.needed_resources import SHARED_DATA_CPUS, Resources, trial_resources, trials_at_once
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.tracking.result import read_result
from wmtp_ray.tracking.sweep_result import TrialRecord, read_trial

NOW = datetime(2026, 1, 1)
SHARP, FLAT = 0.001, 0.9  # weighting.beta: the weights of the first stand at the clips, which costs effective samples
SWEEP = f"""
search: grid
space: {{weighting.beta: [{FLAT}, {SHARP}]}}
seeds: [1, 2]
stop_when:
  critic_collapse: null
  weight_collapse: {{metric: weight/ess_frac, below: 0.75, for_steps: 3}}
"""
STAGE_1 = ("stages=[0,1,2]", "critic_stage.max_steps=4", "critic_stage.batch_rows=16")
PATIENCE_S = 900.0  # a sweep starts dozens of processes


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.small.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


def planned(world: Path, sweep_file: Path, *words: str, name: str = "planned") -> SweepPlan:
    argv = [*_without_beta(command_line(world, name, *STAGE_1)), f"sweep={sweep_file}", *words]
    return plan_sweep(parse_arguments(argv), NOW)


class TestPlan:
    def test_a_trial_is_what_was_asked_for_with_stage_1_taken_out(self, world: Path, sweep_file: Path) -> None:
        plan = planned(world, sweep_file)
        assert [each.trial.name for each in plan.trials] == [
            f"point_{point:03d}-seed_{seed}" for point in (0, 1) for seed in (1, 2)
        ]
        assert [each.config.run_dir for each in plan.trials] == [
            plan.directory / each.trial.name for each in plan.trials
        ]
        for each in plan.trials:
            seed = each.trial.seed
            assert each.asked.weighting.beta == each.config.weighting.beta == each.trial.point.values["weighting.beta"]
            assert {each.config.seed, each.config.train.sampling.seed, each.config.critic_stage.sampling.seed} == {seed}
            assert (each.asked.stages, each.config.stages) == ((0, 1, 2), (0, 2))
            assert each.config.critic.path == plan.directory / f"critic-seed_{seed}" / "critic" / "final"
        assert len(plan.prepared) == 2, "one plan a seed"
        part = own_part(plan.prepared[plan.trials[0].plan_key], plan.trials[0].config)
        assert list(part.plans) == [2]

    def test_each_critic_is_trained_once_and_judged_by_the_trials(self, world: Path, sweep_file: Path) -> None:
        critics = planned(world, sweep_file, "critic.gate=stop").critics
        assert list(critics) == ["planned/critic-seed_1", "planned/critic-seed_2"]
        assert {(each.stages, each.critic.gate) for each in critics.values()} == {((0, 1), "warn")}

    def test_a_swept_key_that_stage_1_reads_needs_more_critics(self, world: Path, sweep_file: Path) -> None:
        plan = planned(world, sweep_file, "sweep.space={weighting.gamma: [0.9, 1.0]}")
        assert len(plan.critics) == 4
        assert any("stage 1 reads weighting.gamma" in line for line in plan.shared())
        by_gamma = {each.critic.weighting.gamma for each in plan.trials if each.critic is not None}
        assert by_gamma == {0.9, 1.0}

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["sweep.space={weighting.bta: [1]}"], "weighting.bta: there is no such key; did you mean weighting.beta?"),
            (["sweep.space={weighting.clip_min: [0.1, 9]}"], "4 of 8 trials of the sweep cannot run"),
            (["sweep.space={train.sampling.n_samples: [4]}"], "train.batch_rows=8 but only 4"),
            (["weighting.beta=0.5"], "the sweep varies what the command line sets"),
            (["stages=[0,1]"], "a sweep trains policies; add stage 2"),
            (["sweep.objective.metric=eval/humaneval/pass@1"], "comes from stage 3; add it to stages"),
            (["data.valid_file=null", "data.valid_problems_frac=0"], "needs held-out problems"),
            (["--resume"], "There is no sweep to resume"),
        ],
    )
    def test_what_cannot_run_is_refused(
        self, world: Path, sweep_file: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = [*_without_beta(command_line(world, "refused", *STAGE_1)), f"sweep={sweep_file}", *words]
        assert main(["launch", *argv], now=NOW) == REFUSED
        assert said in capsys.readouterr().err
        assert not (world / "runs" / "refused").exists()

    def test_a_sweep_goes_on_only_as_the_sweep_it_was(self, world: Path, sweep_file: Path) -> None:
        claim_sweep_directory(planned(world, sweep_file, name="begun"))
        with pytest.raises(ConfigError, match=r"The sweep begun exists in .*; add --resume"):
            planned(world, sweep_file, name="begun")
        with pytest.raises(ConfigError, match=r"sweep\.space: found .*0\.5.*, started with"):
            planned(world, sweep_file, "--resume", "sweep.space={weighting.beta: [0.5]}", name="begun")
        more = planned(world, sweep_file, "--resume", "sweep.seeds=[1,2,3]", name="begun")
        assert more.num_trials == 6

    def test_a_folder_is_given_up_until_a_run_has_begun(self, world: Path, sweep_file: Path) -> None:
        plan = planned(world, sweep_file, name="given-up")
        claim_sweep_directory(plan)
        release_sweep_directory(plan)
        assert not plan.directory.exists()
        claim_sweep_directory(plan)
        claim_run_directory(plan.trials[0].config)
        release_sweep_directory(plan)
        assert (plan.trials[0].config.run_dir / "config.yaml").exists()

    def test_a_dry_run_says_what_is_tried_and_what_is_shared(
        self, world: Path, sweep_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = [*_without_beta(command_line(world, "dry", *STAGE_1)), f"sweep={sweep_file}", "--dry-run"]
        assert main(["launch", *argv], now=NOW) == DONE
        out = capsys.readouterr().out
        assert "2 points x 2 seeds = 4 trials" in out
        assert "critics of stage 1: 2 for 4 trials (no swept key reaches stage 1)" in out
        assert "plans: 2 for 4 trials" in out
        assert not (world / "runs" / "dry").exists()


class TestSlots:
    @pytest.mark.parametrize(
        ("nodes", "cpus", "gpus", "fit"),
        [
            ([(4, 0)], 1.1, 0.0, 3),
            ([(4, 0)], 1.0, 0.0, 3),  # room for Ray Data stays free
            ([(2, 0)], 1.0, 0.0, 1),
            ([(2, 0)], 1.1, 0.0, 1),  # never none: what fits nowhere is refused before
            ([(3, 0), (3, 0)], 1.5, 0.0, 3),  # and on one node only
            ([(2, 0), (2, 0), (2, 0)], 1.9, 0.0, 2),  # no trial is split over nodes
            ([(16, 4)], 3.0, 2.0, 2),  # GPUs are what is scarce
            ([(64, 8), (8, 0)], 7.0, 1.0, 8),
        ],
    )
    def test_trials_fit_on_whole_nodes_with_room_left_for_data(
        self, nodes: list[tuple[float, float]], cpus: float, gpus: float, fit: int
    ) -> None:
        assert trials_at_once(nodes, Resources("A trial", cpus + SHARED_DATA_CPUS, gpus, "")) == fit

    def test_a_trial_holds_what_its_larger_stage_starts(self, world: Path) -> None:
        words = (
            "train.num_workers=2",
            "critic.pool_size=3",
            "cluster.cpus_per_worker=0.5",
            "cluster.cpus_per_critic=1",
        )
        assert trial_resources(configured(world, "x", *words)) == (pytest.approx(4.1), 0.0)
        decoders = (
            "stages=[2,3]",
            "evaluation.num_decoders=8",
            "evaluation.num_judges=4",
            "cluster.gpus_per_decoder=1",
        )
        assert trial_resources(configured(world, "x", *words, *decoders)) == (pytest.approx(5.1), 8.0)


class TestTpe:
    """The points that Optuna proposes; Ray Tune is imported, no Ray is started."""

    def spec(self) -> SweepSpec:
        space = "space={a: {uniform: [0.0, 1.0]}, b: [1, 2]}"
        words = ["search=optuna", "num_points=12", "startup_points=4", space, "seeds=[1,2]"]
        spec = load_sweep("beta_clip_value", words)
        kept = {key: dimension for key, dimension in spec.space.items() if key in ("a", "b")}
        return spec.model_copy(update={"space": kept})

    def tell(self, source: Any, point: Point, value: float) -> None:
        metric = self.spec().objective.metric
        records = {}
        for seed, noise in ((1, 0.01), (2, -0.01)):
            name = Trial(point, seed).name
            metrics: dict[str, float | None] = {metric: value + noise}
            records[seed] = TrialRecord(name, point.number, point.values, seed, "finished", None, 1, metrics, name, ())
        source.tell(point, records)

    def test_it_learns_and_a_restart_goes_on_where_it_was(self, tmp_path: Path) -> None:
        from wmtp_ray.flows.sweep.sweep_search import TpePoints

        def accept(point: Point) -> None:
            assert set(point.values) == {"a", "b"}

        whole = TpePoints(self.spec(), tmp_path / "whole", accept)
        (tmp_path / "whole").mkdir()
        found = []
        while (point := whole.next()) is not None:
            found.append(point)
            self.tell(whole, point, (point.values["a"] - 0.3) ** 2 + point.values["b"])
        assert [point.number for point in found] == list(range(12))
        later = found[6:]
        assert sum(point.values["b"] == 1 for point in later) >= 4, "the better choice is preferred"
        assert read_points(tmp_path / "whole" / "points.jsonl") == found
        again = TpePoints(self.spec(), tmp_path / "whole", accept)
        assert [again.next() for _ in range(12)] == found, "a restart asks for the same points"
        assert again.next() is None

    def test_a_point_that_does_not_load_is_left_out_for_another(self, tmp_path: Path) -> None:
        from wmtp_ray.flows.sweep.sweep_search import TpePoints

        def refuse_high(point: Point) -> None:
            if point.values["a"] > 0.5:
                raise ConfigError("too high")

        source = TpePoints(self.spec(), tmp_path, refuse_high)
        points = [source.next() for _ in range(5)]
        assert all(point is not None and point.values["a"] <= 0.5 for point in points)
        assert [point.number for point in points if point is not None] == list(range(5))


@dataclass(frozen=True)
class Snapshot:
    """A folder's files that a finished trial must not touch again, with their times."""

    files: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, run_dir: Path) -> "Snapshot":
        names = ("metrics.jsonl", "trial.json", "result.json", "stage_result.json")
        stats = {name: (run_dir / name).stat() for name in names}
        return cls({name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_trial(
    world: Path, cluster: ClusterConfig, sweep_file: Path
) -> None:
    """Four trials, of which a rule stops the two with sharp weights. The driver dies when the first trial is over."""
    words = [*_without_beta(command_line(world, "swept", *STAGE_1)), f"sweep={sweep_file}"]
    words = [word for word in words if word != "tracking.mlflow=false"]
    directory = world / "runs" / "swept"
    first = directory / "point_000-seed_1"
    _kill_when(words, lambda: read_trial(first) is not None and _is_under_way(directory))
    before = Snapshot.of(first)
    over_before = {path.parent.name for path in directory.glob("*/trial.json")}
    assert len(over_before) < 4, "the kill came too late to show anything"

    output = _driven([*words, "--resume"])

    sweep = json.loads((directory / "sweep.json").read_text())
    trials = {trial["name"]: trial for trial in sweep["trials"]}
    assert Snapshot.of(first) == before, "a trial that was over did not run again"
    assert {name: trial["status"] for name, trial in trials.items()} == {
        "point_000-seed_1": "finished",
        "point_000-seed_2": "finished",
        "point_001-seed_1": "stopped",
        "point_001-seed_2": "stopped",
    }
    for name, trial in trials.items():
        steps = [line["step"] for line in metrics_of(directory / name) if line["stage"] == 2]
        assert steps == list(range(len(steps))), "every step once, whatever was killed"
        assert len(steps) == NUM_STEPS if trial["status"] == "finished" else len(steps) >= 3
    assert all("weight/ess_frac below 0.75 for 3 steps" in trials[f"point_001-seed_{s}"]["stop_reason"] for s in (1, 2))
    assert "held_out/loss_correct" in trials["point_000-seed_1"]["metrics"]
    assert {"held_out/margin", "stage2/critic/auc_100"} <= trials["point_000-seed_2"]["metrics"].keys()

    best = sweep["best"]
    assert best["overrides"] == {"weighting.beta": FLAT}
    assert best["low"] < best["mean"] < best["high"]
    assert best["seeds"] == [1, 2]
    assert "there is nothing to compare it with" in sweep["verdict"]
    assert sweep["verdict"] in output
    _assert_best_recipe_is_what_was_asked_for(world, directory)
    _assert_runs_are_children_of_the_sweep(world, directory)
    assert sorted(path.name for path in directory.glob("critic-*")) == ["critic-seed_1", "critic-seed_2"]
    alone = run(configured(world, "alone", *STAGE_1, f"weighting.beta={FLAT}", *_seed_words(1)))
    assert read_result(first).policy_sha256 == alone.policy_sha256, "sharing the critic changes no bit of a trial"


def _is_under_way(directory: Path) -> bool:
    """Whether a trial that is not over has taken steps."""
    open_trials = [path for path in directory.glob("point_*") if not (path / "trial.json").exists()]
    return any(len(metrics_of(path)) >= 2 for path in open_trials)


def _kill_when(words: list[str], condition: Callable[[], bool]) -> None:
    """Start a sweep and kill its driver without warning, then what is left of its Ray."""
    driver = start_driver(words)
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < give_up, "the sweep did not come so far"
        time.sleep(0.05)
    kill_family(driver)


def _driven(words: list[str]) -> str:
    driver = start_driver(words)
    output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == DONE, output
    return str(output)


def _assert_best_recipe_is_what_was_asked_for(world: Path, directory: Path) -> None:
    recipe = directory / "recipe.best.yaml"
    assert yaml.safe_load(recipe.read_text(encoding="utf-8"))["weighting"]["beta"] == FLAT
    words = [f"recipe={recipe}", f"storage_root={world}", "run_name=again", "tracking.progress=false"]
    best = load_config(parse_arguments(words), now=NOW)
    asked = configured(world, "again", *STAGE_1, f"weighting.beta={FLAT}")
    named = {"recipe": asked.recipe, "preset": asked.preset, "tracking": asked.tracking}
    assert best.model_copy(update=named) == asked


def _assert_runs_are_children_of_the_sweep(world: Path, directory: Path) -> None:
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(tracking_uri=f"sqlite:///{world}/mlflow.db")
    parent = client.get_run((directory / "mlflow_run_id").read_text())
    assert (parent.info.run_name, parent.info.status) == ("swept", "FINISHED")
    for name in ("point_000-seed_1", "point_001-seed_2", "critic-seed_1"):
        child = client.get_run((directory / name / "mlflow_run_id").read_text())
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.run_name == f"swept/{name}"


def _seed_words(seed: int) -> list[str]:
    return [f"seed={seed}", f"train.sampling.seed={seed}", f"critic_stage.sampling.seed={seed}"]


def _without_beta(argv: list[str]) -> list[str]:
    return [word for word in argv if not word.startswith("weighting.beta=")]
