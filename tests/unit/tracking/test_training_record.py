"""A policy knows how it was trained: steps, tokens, start; a folder that no run has left knows nothing."""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.tracking.trained_runs import write_trained_run
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.errors import ArtifactError
from wmtp_ray.tracking.training_record import (
    condition_of,
    read_settings,
    record_of_run,
    settings_of,
    training_of,
    write_start,
    write_training,
)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A model that no run has left."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"start")
    return model


def test_steps_tokens_and_seed_are_those_of_the_run(tmp_path: Path, start: Path) -> None:
    final = write_trained_run(tmp_path / "runs" / "a", start)
    found = training_of(final, sha256_of(b"weights"))
    assert found is not None
    assert (found.steps, found.supervised_tokens, found.weighting) == (4, 400, "uniform")
    assert found.settings["seed"] == 1
    assert "run_name" not in found.settings
    assert found.policy_sha256 == "a" * 4


def test_a_run_that_was_cut_short_and_an_earlier_checkpoint_count_what_they_trained(
    tmp_path: Path, start: Path
) -> None:
    run = tmp_path / "runs" / "b"
    write_trained_run(run, start, steps=6, planned=10)
    cut = record_of_run(run)
    assert (cut.steps, cut.supervised_tokens) == (6, 600), "not the plan's 10 steps and 1,000 tokens"
    earlier = training_of(run / "exported" / "step_2", None)
    assert earlier is not None
    assert (earlier.steps, earlier.supervised_tokens) == (2, 200)
    assert earlier.policy_sha256 is None, "the hash that the run left is that of its end"


def test_tokens_of_steps_without_a_report_are_not_known(tmp_path: Path, start: Path) -> None:
    run = tmp_path / "runs" / "c"
    write_trained_run(run, start, steps=6, planned=10)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    assert record_of_run(run).supervised_tokens is None


def test_the_start_is_recorded_by_hash_with_all_that_is_known_of_its_own_training(tmp_path: Path, start: Path) -> None:
    base = write_trained_run(tmp_path / "storage" / "runs" / "base", start, steps=3)
    words = ["recipe=baseline", f"storage_root={tmp_path / 'storage'}", f"model.path={base}", "run_name=more"]
    config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
    write_trained_run(config.run_dir, base, steps=5)
    write_start(config)
    (base / "model.safetensors").write_bytes(b"overwritten later")
    write_start(config)  # as a resumed run does
    found = record_of_run(config.run_dir)
    assert found.start.weights_sha256 == sha256_of(b"weights")
    assert found.start.training is not None
    assert (found.start.training.steps, found.start.training.start.training) == (3, None)


def test_a_copied_policy_keeps_its_training_until_its_weights_are_replaced(tmp_path: Path, start: Path) -> None:
    run = tmp_path / "runs" / "d"
    final = write_trained_run(run, start)
    write_training(final, record_of_run(run))
    copy = tmp_path / "elsewhere"
    shutil.copytree(final, copy)
    assert training_of(copy, sha256_of(b"weights")) == record_of_run(run)
    (copy / "model.safetensors").write_bytes(b"others")
    assert training_of(copy, sha256_of(b"others")) is None


def test_of_a_plain_model_directory_nothing_is_known(start: Path) -> None:
    assert training_of(start, sha256_of(b"start")) is None


@pytest.mark.parametrize("place", ["final", "exported/step_2", "exported/mine"])
def test_a_model_beside_a_foreign_config_yaml_is_a_plain_one(tmp_path: Path, place: str) -> None:
    model = tmp_path / place
    model.mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("- not\n- a run\n")
    assert training_of(model, None) is None


def test_the_weighting_is_the_one_that_stage_2_ran_with(tmp_path: Path, start: Path) -> None:
    """critic.gate=uniform falls back to uniform weights; config.yaml still says td."""
    run = tmp_path / "runs" / "e"
    write_trained_run(run, start, config={"weighting": {"type": "td"}})
    assert record_of_run(run).weighting == "td"
    begun = {"weighting": "uniform", "start": {"path": str(start), "weights_sha256": "s", "training": None}}
    (run / "start.json").write_text(json.dumps(begun))
    assert record_of_run(run).weighting == "uniform"


def test_a_critic_of_another_run_counts_the_steps_it_was_trained_for(tmp_path: Path, start: Path) -> None:
    critic = tmp_path / "runs" / "f" / "critic"
    critic.mkdir(parents=True)
    (critic / "stage_result.json").write_text(json.dumps({"steps": 7, "policy_sha256": "x", "health": None}))
    run = tmp_path / "runs" / "g"
    write_trained_run(run, start, config={"critic": {"path": str(critic / "final")}})
    assert record_of_run(run).critic_steps == 7


def test_a_damaged_record_is_refused_by_name(tmp_path: Path, start: Path) -> None:
    run = tmp_path / "runs" / "h"
    write_trained_run(run, start)
    (run / "start.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"start\.json: the field weighting is missing; restore"):
        record_of_run(run)


def test_a_policy_is_asked_as_its_record_says_and_without_one_as_configured(tmp_path: Path, start: Path) -> None:
    plain, told = (
        load_config(parse_arguments(["recipe=baseline", *words]), now=datetime(2026, 1, 1))
        for words in ((), ("data.condition=label",))
    )
    final = write_trained_run(tmp_path / "runs" / "a", start)
    written = tmp_path / "copied"
    shutil.copytree(final, written)
    record = training_of(final, None)
    assert record is not None
    write_training(written, replace(record, settings={**record.settings, "data.condition": "label"}))
    assert condition_of(plain, written) == "label"
    assert condition_of(told, final) == "none"  # its record knows that it was told nothing
    assert (condition_of(plain, start), condition_of(told, start)) == ("none", "label")


def test_what_a_run_tells_its_policy_is_in_its_record(tmp_path: Path, start: Path) -> None:
    config = load_config(parse_arguments(["recipe=baseline", "data.condition=label"]), now=datetime(2026, 1, 1))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert settings_of(read_settings(path))["data.condition"] == "label"
