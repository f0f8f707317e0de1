"""What was decided while a run ran is on record: written at the time, kept by later starts, repeated to MLflow."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import torch

from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.tracking.decisions import (
    Decisions,
    EvaluatedAs,
    GateDecision,
    Place,
    note_critic,
    note_evaluation,
    note_gate,
    note_place,
    note_start,
    note_weighting,
    read_decisions,
)
from wmtp_ray.tracking.kept_critic import HeldOutReading, KeptCritic
from wmtp_ray.tracking.mlflow_run import default_uri
from wmtp_ray.tracking.result import RunResult, read_result, write_result
from wmtp_ray.tracking.tracker import mlflow_target, open_tracker

FELL_BACK = GateDecision("fell back", "/runs/a/critic/final", ("AUC at the end 0.5 is below 0.52",))


def load(storage: Path, *words: str) -> RunConfig:
    return load_config(
        parse_arguments(["recipe=verifiable", "run_name=run", f"storage_root={storage}", *words]),
        now=datetime(2026, 1, 1),
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run that was started: config.yaml says with what."""
    config = load(tmp_path)
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(dump_config(config))
    return config


def test_before_anything_is_decided_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert read_decisions(tmp_path) == Decisions()
    assert Decisions().tags() == {}


def test_the_version_of_the_critic_that_was_kept_is_on_record(config: RunConfig) -> None:
    kept = KeptCritic(20, 0.2, 30, 120, (HeldOutReading(10, 0.25), HeldOutReading(20, 0.2), HeldOutReading(30, 0.3)))
    note_weighting(config.run_dir, "td")
    note_critic(config.run_dir, kept)
    note_critic(config.run_dir, kept)  # of a start that finds stage 1 done
    decided = read_decisions(config.run_dir)
    assert (decided.critic, decided.weighting) == (kept, "td")
    assert decided.tags()["ran.critic"] == (
        "kept after 20 of 120 steps, held-out loss 0.2000; the stage ended after 30"
    )


def test_every_decision_is_kept_beside_the_others(config: RunConfig) -> None:
    note_start(config, ())
    note_gate(config.run_dir, FELL_BACK)
    note_weighting(config.run_dir, "uniform")
    note_place(config.run_dir, Place("ranks", "cpu", "float32", stage=2, step=0, num_ranks=2))
    asked = {"mbpp": EvaluatedAs("mbpp-3shot", "a base model", "landlock")}
    note_evaluation(config.run_dir, asked, ("humaneval",))
    decided = read_decisions(config.run_dir)
    assert (decided.gate, decided.weighting, decided.evaluation) == (FELL_BACK, "uniform", asked)
    assert [place.device for place in decided.places] == ["cpu"]
    (start,) = decided.starts
    assert start.host == socket.gethostname()
    assert start.versions["torch"] == torch.__version__
    tags = decided.tags()
    assert f"torch={torch.__version__}" in tags.pop("ran.versions")
    assert tags == {
        "ran.hosts": start.host,
        "ran.weighting": "uniform",
        "ran.gate": "fell back; AUC at the end 0.5 is below 0.52",
        "ran.device": "cpu",
        "ran.dtype": "float32",
        "ran.num_ranks": "2",
        "ran.formats": "mbpp=mbpp-3shot",
        "ran.isolation": "landlock",
        "ran.not_evaluated": "humaneval",
    }


def test_a_start_says_what_config_yaml_does_not_say_of_it(config: RunConfig, tmp_path: Path) -> None:
    note_start(config, ())
    note_start(load(tmp_path, "train.num_workers=2", "train.device=cpu", "evaluation.limit=5"), (1,))
    first, second = read_decisions(config.run_dir).starts
    assert (first.changed, first.done_before) == ({}, ())
    assert second.changed == {"train.num_workers": 2, "train.device": "cpu", "evaluation.limit": 5}
    assert second.done_before == (1,)
    tags = read_decisions(config.run_dir).tags()
    assert tags["ran.starts"] == "2"
    assert tags["ran.changed"].split() == ["train.num_workers=2", "train.device=cpu", "evaluation.limit=5"]


def test_a_run_that_went_on_elsewhere_names_each_device_and_number_of_ranks_in_turn(tmp_path: Path) -> None:
    for device, step, num_ranks in (("cuda:0", 0, 2), ("cuda:0", 4, 2), ("cpu", 8, 1), ("cuda:0", 9, 1)):
        note_place(tmp_path, Place("ranks", device, "float32", stage=2, step=step, num_ranks=num_ranks))
    note_place(tmp_path, Place("critic_0", "mps", "float32"))
    tags = read_decisions(tmp_path).tags()
    assert (tags["ran.device"], tags["ran.num_ranks"]) == ("cuda:0, cpu, cuda:0", "2, 1")
    assert [place.step for place in read_decisions(tmp_path).places] == [0, 4, 8, 9, None]


def test_many_processes_may_tell_their_places_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: note_place(tmp_path, Place(f"critic_{n}", "cpu", "float32")), range(64)))
    assert {place.role for place in read_decisions(tmp_path).places} == {f"critic_{n}" for n in range(64)}


def test_a_line_that_a_full_disk_has_cut_costs_itself_alone(tmp_path: Path) -> None:
    note_place(tmp_path, Place("critic_0", "cpu", "float32"))
    with (tmp_path / "places.jsonl").open("ab") as file:
        file.write(b'{"role": "critic_1", "dev')
    assert [place.role for place in read_decisions(tmp_path).places] == ["critic_0"]


@pytest.mark.parametrize("content", ["{", '{"weighting": 3}', '{"gate": {"outcome": "perhaps", "critic": "x"}}'])
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "decisions.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"decisions\.json.*(damaged|found).*restore the file, or remove it"):
        read_decisions(tmp_path)


def test_result_json_repeats_them(tmp_path: Path) -> None:
    note_gate(tmp_path, FELL_BACK)
    note_place(tmp_path, Place("ranks", "cpu", "float32", stage=2, step=0, num_ranks=1))
    decided = read_decisions(tmp_path)
    write_result(tmp_path, RunResult("FINISHED", 1, {}, None, {}, (), weighting="uniform", decisions=decided))
    assert read_result(tmp_path).decisions == decided


def test_mlflow_is_told_and_a_search_finds_the_run_by_what_it_ran_with(
    config: RunConfig, prepare_mlflow: Callable[[Path], None]
) -> None:
    from mlflow import MlflowClient

    prepare_mlflow(config.storage_root)
    tracker = open_tracker(config, mlflow_run_id=None)
    tracker.set_tags({"ran.weighting": "td", "ran.starts": "1"})
    tracker.set_tags({"ran.weighting": "uniform"})
    assert tracker.close("FINISHED", 60.0) == []
    client = MlflowClient(tracking_uri=default_uri(config.storage_root))
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`ran.weighting` = 'uniform'")
    assert found.data.params["weighting.type"] == "td", "what was asked for stays"
    assert found.data.tags["ran.starts"] == "1"


def test_a_metrics_actor_that_is_started_anew_knows_them(config: RunConfig) -> None:
    note_weighting(config.run_dir, "uniform")
    assert mlflow_target(config, None).tags["ran.weighting"] == "uniform"


def test_a_server_that_never_answers_lacks_the_tags_too(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = config.tracking.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    tracker = open_tracker(config.model_copy(update={"tracking": tracking}), mlflow_run_id=None)
    tracker.set_tags({"ran.weighting": "uniform"})
    (problem,) = tracker.close("FINISHED", 60.0)
    assert "2 tags" in problem, "recipe and ran.weighting"


def test_a_tag_of_ones_own_cannot_pass_for_a_decision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found the tag ran\.weighting; names that begin with ran\."):
        load(tmp_path, "--tags", "ran.weighting=td")
