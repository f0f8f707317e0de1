from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.files import check_files
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError


def load(storage: Path, *words: str) -> RunConfig:
    argv = ["recipe=verifiable", f"storage_root={storage}", *words]
    return load_config(parse_arguments(argv), now=datetime(2025, 1, 1))


def missing(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    return str(caught.value)


def write_model(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "params.json").touch()
    (directory / "consolidated.pth").touch()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Everything that the verifiable recipe needs."""
    model = tmp_path / "models_v2" / "meta-llama-mtp"
    for name in ("configs/params.json", "safetensors/model.safetensors", "tokenizer/tokenizer.model"):
        (model / name).parent.mkdir(parents=True)
        (model / name).touch()
    (tmp_path / "datasets_v2" / "codecontests" / "processed").mkdir(parents=True)
    (tmp_path / "datasets_v2" / "codecontests" / "processed" / "train.jsonl").touch()
    return tmp_path


def test_complete_storage_passes(storage):
    check_files(load(storage))


def test_all_missing_paths_are_in_one_message(tmp_path):
    message = missing(load(tmp_path))
    assert all(f"{key}: {tmp_path}" in message for key in ("model.path", "tokenizer.path", "data.train_file"))
    assert "set data.train_file=FILE.jsonl" in message


@pytest.mark.parametrize("name", ["configs/params.json", "safetensors/model.safetensors"])
def test_incomplete_model_directory_names_the_file(storage, name):
    (storage / "models_v2" / "meta-llama-mtp" / name).unlink()
    message = missing(load(storage))
    assert f"model.path: {storage}/models_v2/meta-llama-mtp/{name} does not exist" in message


@pytest.mark.parametrize("name", ["params.json", "consolidated.pth"])
def test_an_incomplete_flat_directory_names_the_file(storage, name):
    write_model(storage / "flat")
    (storage / "flat" / name).unlink()
    message = missing(load(storage, f"model.path={storage}/flat"))
    assert name in message
    assert "model.path" in message


def test_a_file_of_nearly_that_name_is_pointed_out(storage):
    assert "(train.jsonl lies beside it)" in missing(
        load(storage, f"data.train_file={storage}/datasets_v2/codecontests/processed/trian.jsonl")
    )


def test_valid_file_is_needed_only_when_set(storage):
    assert "data.valid_file" in missing(load(storage, f"data.valid_file={storage}/valid.jsonl"))


def test_evaluation_alone_needs_no_rows(storage):
    (storage / "datasets_v2" / "codecontests" / "processed" / "train.jsonl").unlink()
    check_files(load(storage, "stages=[3]"))


def test_only_rho1_needs_its_reference(storage):
    words = ["reference.path=" + str(storage / "reference"), "reference.tokenizer_path=" + str(storage / "other.model")]
    check_files(load(storage, *words))
    message = missing(load(storage, "recipe=rho1_weighted", *words))
    assert "reference.path" in message
    assert "reference.tokenizer_path" in message
    write_model(storage / "reference")
    (storage / "other.model").touch()
    check_files(load(storage, "recipe=rho1_weighted", *words))


def test_only_a_run_that_reads_a_critic_needs_its_bundle(storage):
    words = ["critic.source=frozen", f"critic.path={storage}/bundle"]
    assert "critic.path" in missing(load(storage, "stages=[0,2]", *words))
    check_files(load(storage, "recipe=baseline", *words))
    (storage / "bundle").mkdir()
    check_files(load(storage, "stages=[0,2]", *words))
