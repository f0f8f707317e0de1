"""Small versions of data files: which file is read for which, and what is said where there is none."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.dataset_suffix import with_suffix
from wmtp_ray.config.load import check_files, dump_config, load_config, load_resolved, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError


def load(storage: Path, *words: str) -> RunConfig:
    return load_config(
        parse_arguments(["recipe=verifiable", f"storage_root={storage}", *words]), now=datetime(2026, 1, 1)
    )


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("train.jsonl", [], "train_small.jsonl"),
        ("train_small.jsonl", ["train_small.jsonl"], "train_small.jsonl"),
        ("valid.jsonl", [], "validation_small.jsonl"),
        ("validation.jsonl", [], "validation_small.jsonl"),
        ("valid.jsonl", ["valid_small.jsonl"], "valid_small.jsonl"),
        ("validation.jsonl", ["valid_small.jsonl"], "valid_small.jsonl"),
        ("valid.jsonl", ["valid_small.jsonl", "validation_small.jsonl"], "validation_small.jsonl"),
        ("rows.v2.jsonl", [], "rows.v2_small.jsonl"),
    ],
)
def test_the_small_sibling_of_a_file(tmp_path, asked, there, found):
    for name in there:
        touch(tmp_path / name)
    assert with_suffix(tmp_path / asked, "small", tmp_path / "storage") == tmp_path / found


@pytest.mark.parametrize("words", [["data.suffix=small"], ["--dataset-suffix", "small"], ["--dataset-suffix=small"]])
def test_every_data_file_key_reads_its_small_sibling(tmp_path, words):
    touch(tmp_path / "datasets" / "x" / "valid_small.jsonl")
    keys = [f"data.train_file={tmp_path}/train.jsonl", f"data.valid_file={tmp_path}/datasets_v2/x/valid.jsonl"]
    config = load(tmp_path, *keys, *words)
    assert config.data.suffix == "small"
    assert config.data.train_file == tmp_path / "train_small.jsonl"
    assert config.data.valid_file == tmp_path / "datasets" / "x" / "valid_small.jsonl", "of the earlier generation"
    assert load(tmp_path, *words).data.valid_file is None


def test_a_saved_configuration_reads_the_same_files_again(tmp_path):
    config = load(tmp_path, f"data.train_file={tmp_path}/train.jsonl", "data.suffix=small")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_resolved(tmp_path / "config.yaml") == config


def test_a_run_that_was_saved_before_there_was_the_key_is_still_read(tmp_path):
    config = load(tmp_path)
    saved = "".join(line for line in dump_config(config).splitlines(keepends=True) if "suffix:" not in line)
    (tmp_path / "config.yaml").write_text(saved)
    assert load_resolved(tmp_path / "config.yaml") == config


def test_a_missing_small_file_is_refused_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"train_small\.jsonl does not exist.*setup_datasets\.py.*data\.suffix=null"):
        check_files(load(tmp_path, "data.suffix=small"))


@pytest.mark.parametrize("word", ["data.suffix=../x", "data.suffix=", "data.suffix=a b", "data.suffix=[a]"])
def test_a_suffix_that_is_no_name_is_refused(tmp_path, word):
    if word == "data.suffix=":  # YAML's null
        assert load(tmp_path, word).data.suffix is None
        return
    with pytest.raises(ConfigError, match=r"data\.suffix: found .*letters, digits and dashes"):
        load(tmp_path, word)


def test_the_micro_model_is_policy_tokenizer_and_reference(tmp_path):
    config = load(tmp_path, "--use-micro-model")
    models = tmp_path / "models_v2"
    assert config.model.path == models / "micro-mtp"
    assert config.tokenizer.path == models / "micro-mtp" / "tokenizer" / "tokenizer.model"
    rho1 = load_config(
        parse_arguments(["recipe=rho1_weighted", f"storage_root={tmp_path}", "--use-micro-model"]),
        now=datetime(2026, 1, 1),
    )
    assert (rho1.reference.path, rho1.reference.tokenizer_path) == (models / "micro-ref", None)


def test_a_key_wins_over_the_flag(tmp_path):
    assert load(tmp_path, "--use-micro-model", f"model.path={tmp_path}/other").model.path == tmp_path / "other"


def test_a_micro_model_of_the_earlier_name_is_found_whole(tmp_path):
    touch(tmp_path / "models_v2" / "micro_mtp" / "tokenizer.model")
    config = load(tmp_path, "--use-micro-model")
    assert config.model.path == tmp_path / "models_v2" / "micro_mtp"
    assert config.tokenizer.path == tmp_path / "models_v2" / "micro_mtp" / "tokenizer.model"


@pytest.mark.parametrize("words", [("--use-micro-model",), ("preset=local-light",), ("preset=local",)])
def test_a_flat_micro_model_is_found_with_its_tokenizer(tmp_path, words):
    touch(tmp_path / "models_v2" / "micro-mtp" / "tokenizer.model")
    config = load(tmp_path, *words)
    assert config.tokenizer.path == config.model.path / "tokenizer.model"


def test_a_flag_without_its_name_is_refused():
    with pytest.raises(ConfigError, match="--dataset-suffix stands without its value; expected --dataset-suffix small"):
        parse_arguments(["recipe=verifiable", "--dataset-suffix", "--dry-run"])
