"""How a sweep ranks its points, and what it may say about the first."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wmtp_ray.config.sweep import Objective
from wmtp_ray.errors import ArtifactError
from wmtp_ray.run_folder import SweepFolder
from wmtp_ray.tracking.sweep_result import (
    TrialRecord,
    TrialStatus,
    rank,
    read_sweep,
    read_trial,
    write_sweep,
    write_trial,
)

METRIC = "held_out/loss_correct"
LOWEST, HIGHEST = Objective(metric=METRIC, mode="min"), Objective(metric=METRIC, mode="max")


def record(point: int, seed: int, value: float | None, status: TrialStatus = "finished") -> TrialRecord:
    name = f"point_{point:03d}-seed_{seed}"
    metrics: dict[str, float | None] = {METRIC: value}
    return TrialRecord(name, point, {"weighting.beta": point}, seed, status, None, 9, metrics, name, ("note",))


def records(**values_by_point: list[float]) -> list[TrialRecord]:
    by_point = {int(name[1:]): values for name, values in values_by_point.items()}
    return [record(point, seed, value) for point, values in by_point.items() for seed, value in enumerate(values)]


class TestRanking:
    @pytest.mark.parametrize(("objective", "order"), [(LOWEST, [1, 0, 2]), (HIGHEST, [2, 0, 1])])
    def test_points_stand_by_their_mean(self, objective: Objective, order: list[int]) -> None:
        ranking = rank(records(p0=[2.0, 3.0], p1=[1.0, 3.0], p2=[4.0, 4.1]), objective)
        assert [point.point for point in ranking.points] == order

    @pytest.mark.parametrize("objective", [LOWEST, HIGHEST])
    @pytest.mark.parametrize("status", ["stopped", "failed", "unfinished"])
    def test_a_point_that_lost_a_seed_stands_behind_those_that_did_not(
        self, objective: Objective, status: TrialStatus
    ) -> None:
        best = -9.0 if objective.mode == "min" else 9.0
        found = [*records(p0=[2.0, 3.0]), record(1, 0, best), record(1, 1, best, status), record(2, 0, None, "failed")]
        ranking = rank(found, objective)
        assert [point.point for point in ranking.points] == [0, 1, 2]
        assert ranking.points[1].values == {0: best}, "what a trial had when it was stopped is no objective"
        assert ranking.points[1].statuses == {"finished": 1, status: 1}
        assert ranking.points[2].objective is None

    def test_a_clear_first_point_is_said(self) -> None:
        verdict = rank(records(p0=[1.0, 1.01, 0.99], p1=[5.0, 5.01, 4.99]), LOWEST).verdict
        assert verdict == "Point 0 is first; its interval lies clear of that of point 1."

    def test_overlapping_intervals_are_said_and_compared_seed_by_seed(self) -> None:
        same = rank(records(p0=[1.0, 2.0, 3.0], p1=[3.0, 1.5, 2.0]), LOWEST).verdict
        assert "its interval overlaps that of point 1" in same
        assert "they cannot be told apart" in same
        paired = rank(records(p0=[1.0, 2.0, 3.0], p1=[1.5, 2.51, 3.49]), LOWEST).verdict
        assert "its interval overlaps" in paired
        assert "seed by seed they do differ" in paired

    def test_one_seed_is_said(self) -> None:
        assert "first with one seed: chance alone" in rank(records(p0=[1.0], p1=[5.0]), LOWEST).verdict

    def test_without_an_objective_there_is_no_best_point(self) -> None:
        ranking = rank([record(0, 0, None)], LOWEST)
        assert ranking.best is None
        assert "No trial finished with held_out/loss_correct" in ranking.verdict
        assert rank([], LOWEST).best is None


class TestFiles:
    def test_a_trial_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        assert read_trial(tmp_path) is None
        write_trial(tmp_path, record(1, 2, 0.5, "stopped"))
        assert read_trial(tmp_path) == record(1, 2, 0.5, "stopped")

    def test_what_is_over_need_not_run_again(self) -> None:
        settled = {status: record(0, 0, None, status).is_settled for status in _STATUSES}
        assert settled == {"finished": True, "stopped": True, "failed": False, "unfinished": False}

    def test_a_sweep_holds_space_trials_points_and_the_best(self, tmp_path: Path) -> None:
        found = [*records(p0=[2.0, 3.0], p1=[1.0, 1.5]), record(2, 0, None, "failed")]
        ranking = rank(found, LOWEST)
        spec = {"objective": LOWEST.model_dump(mode="json"), "search": "grid", "space": {"weighting.beta": [0, 1, 2]}}
        write_sweep(tmp_path, spec, found, ranking, ["the index"])
        content = json.loads((SweepFolder(tmp_path).result).read_bytes())
        assert content["space"] == {"weighting.beta": [0, 1, 2]}
        assert [trial["name"] for trial in content["trials"]] == [each.name for each in found]
        assert [point["point"] for point in content["points"]] == [1, 0, 2]
        best: dict[str, Any] = content["best"]
        assert (best["overrides"], best["mean"], best["seeds"]) == ({"weighting.beta": 1}, 1.25, [0, 1])
        assert best["low"] < 1.25 < best["high"]
        assert content["points"][2]["mean"] is None
        assert content["shared"] == ["the index"]
        assert content["verdict"] == ranking.verdict
        read = read_sweep(tmp_path)
        assert (read.objective.metric, read.objective.mode, read.search) == (METRIC, "min", "grid")
        assert [each.name for each in read.trials] == [each.name for each in found]
        assert [each.mean for each in read.points] == [1.25, 2.5, None]
        assert (read.space, read.shared, read.verdict) == (spec["space"], ("the index",), ranking.verdict)

    def test_a_folder_without_a_sweep_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="expected the folder of a sweep"):
            read_sweep(tmp_path)


_STATUSES: tuple[TrialStatus, ...] = ("finished", "stopped", "failed", "unfinished")


def test_trials_that_fell_back_to_uniform_weights_are_named_beside_the_verdict() -> None:
    found = records(p1=[1.0, 1.1], p2=[2.0, 2.1])
    assert "uniform" not in rank(found, LOWEST).verdict
    fallen = replace(found[0], name="sweep/point_001-seed_0", fell_back_to="uniform")
    verdict = rank([fallen, *found[1:]], LOWEST).verdict
    assert verdict.startswith(rank(found, LOWEST).verdict)
    assert "1 of 4 trials ran with uniform weights (critic.gate): point_001-seed_0." in verdict


def test_the_weighting_of_a_trial_is_read_back(tmp_path: Path) -> None:
    write_trial(tmp_path, replace(record(1, 1, 0.5), fell_back_to="uniform"))
    trial = read_trial(tmp_path)
    assert trial is not None
    assert trial.fell_back_to == "uniform"
