"""Storage of an earlier generation: which path is opened, and what is said about it."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.earlier_names import earlier_names_in, existing_path
from wmtp_ray.config.files import earlier_names
from wmtp_ray.config.load import load_config, parse_arguments


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("models_v2/micro/params.json", "models/micro/params.json"),
        ("datasets_v2/mbpp/train.jsonl", "datasets/mbpp/train.jsonl"),
        ("datasets_v2/mbpp/valid.jsonl", "datasets_v2/mbpp/validation.jsonl"),
        ("datasets_v2/mbpp/valid.jsonl", "datasets/mbpp/valid.jsonl"),
        ("datasets_v2/mbpp/valid.jsonl", "datasets/mbpp/validation.jsonl"),
        ("datasets_local_small/valid.jsonl", "datasets_local_small/validation.jsonl"),
        ("models_v2/meta-llama-mtp", "models_v2/7b_1t_4_mtp"),
        ("models_v2/ref-sheared-llama-2.7b", "models_v2/rho1_reference"),
        ("models_v2/micro-mtp", "models/micro_mtp"),
        ("models_v2/micro-mtp/tokenizer/tokenizer.model", "models_v2/micro-mtp/tokenizer.model"),
        ("models_v2/micro-mtp/tokenizer/tokenizer.model", "models_v2/micro_mtp/tokenizer.model"),
        ("models_v2/meta-llama-mtp/tokenizer/tokenizer.model", "models_v2/shared/tokenizer.model"),
        ("models_v2/meta-llama-mtp/tokenizer/tokenizer.model", "models_v2/7b_1t_4_mtp/tokenizer.model"),
        ("models_v2/x/tokenizer/tokenizer.model", "models_v2/x/tokenizer.model"),
        ("models_v2/x/tokenizer.model", "models_v2/x/tokenizer/tokenizer.model"),
        ("models_v2/x/tokenizer.json", "models/x/tokenizer/tokenizer.json"),
    ],
)
def test_what_only_exists_under_its_earlier_name_is_found_there(tmp_path, asked, there):
    touch(tmp_path / there)
    assert existing_path(tmp_path / asked, tmp_path) == tmp_path / there


@pytest.mark.parametrize("asked", ["models_v2/micro", "datasets_v2/mbpp/valid.jsonl", "models_v2", "runs/models/a"])
def test_this_generations_name_goes_first_and_stays_when_there_is_neither(tmp_path, asked):
    path = tmp_path / asked
    assert existing_path(path, tmp_path) == path
    touch(path)
    touch(tmp_path / asked.replace("_v2", "").replace("valid.", "validation."))
    assert existing_path(path, tmp_path) == path


def test_a_run_that_began_with_the_shared_tokenizer_goes_on_with_it(tmp_path):
    """It lay beside a flat model that had one too; a resumed run compares its settings with those of its start."""
    asked = tmp_path / "models_v2" / "meta-llama-mtp" / "tokenizer" / "tokenizer.model"
    shared = touch(tmp_path / "models_v2" / "shared" / "tokenizer.model")
    touch(tmp_path / "models_v2" / "7b_1t_4_mtp" / "tokenizer.model")
    assert existing_path(asked, tmp_path) == shared
    touch(asked)
    assert existing_path(asked, tmp_path) == asked


def test_nothing_outside_the_storage_is_looked_for(tmp_path):
    touch(tmp_path / "elsewhere" / "models" / "micro")
    path = tmp_path / "elsewhere" / "models_v2" / "micro"
    assert existing_path(path, tmp_path / "storage") == path
    assert earlier_names_in(tmp_path / "elsewhere" / "models" / "micro", tmp_path / "storage") == []


def test_earlier_names_are_said_with_those_of_now(tmp_path):
    said = earlier_names_in(tmp_path / "datasets" / "mbpp" / "validation.jsonl", tmp_path)
    assert said == ["datasets (now datasets_v2)", "validation.jsonl (now valid.jsonl)"]
    assert earlier_names_in(tmp_path / "models_v2" / "datasets" / "valid.jsonl", tmp_path) == []
    said = earlier_names_in(tmp_path / "models_v2" / "7b_1t_4_mtp" / "tokenizer.model", tmp_path)
    assert said == ["7b_1t_4_mtp (now meta-llama-mtp)"]


def test_a_configuration_says_which_of_its_paths_are_meant(tmp_path):
    touch(tmp_path / "models" / "shared" / "tokenizer.model")
    touch(tmp_path / "datasets_v2" / "mbpp" / "validation.jsonl")
    words = ["recipe=baseline", f"storage_root={tmp_path}"]
    words += [f"data.valid_file={tmp_path}/datasets_v2/mbpp/validation.jsonl"]
    said = earlier_names(load_config(parse_arguments(words), now=datetime(2026, 1, 1)))
    assert said == [
        f"tokenizer.path: {tmp_path}/models/shared/tokenizer.model, an earlier name: models (now models_v2)",
        f"data.valid_file: {tmp_path}/datasets_v2/mbpp/validation.jsonl, an earlier name: "
        "validation.jsonl (now valid.jsonl)",
    ]
