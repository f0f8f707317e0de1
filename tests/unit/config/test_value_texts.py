"""What the text of a value means: its key's type decides, on the command line, in files and in sweeps."""

from datetime import datetime
from functools import reduce
from pathlib import Path

import pytest

from wmtp_ray.config.arguments import Arguments
from wmtp_ray.config.layers import CONFIG_DIR
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep import load_sweep
from wmtp_ray.config.sweep_points import listed_points, trial_arguments
from wmtp_ray.errors import ConfigError

NOW = datetime(2026, 1, 1)
TEXTS = [
    "/x/st #2",
    "a: b",
    "[a]",
    "{a",
    "~",
    "${x}",
    "${storage_root}",
    "내 폴더",
    "2024",
    "on",
    "null",
    "1e3",
    "010",
]
TEXTS += [
    "12:30:45",
    "2025-01-02",
    "!!int 3",
    "&a",
    "*a",
    "- a",
    "a=b",
    "'a'",
    '"a',
    "%a",
    "@a",
    "`a",
    "|",
    ">",
    "no",
    "?",
]


def load(*words: str, config_dir: Path = CONFIG_DIR) -> RunConfig:
    return load_config(parse_arguments(["recipe=baseline", *words]), config_dir=config_dir, now=NOW)


def value_at(config: RunConfig, key: str) -> object:
    return reduce(getattr, key.split("."), config)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_paths_of_the_command_line_are_taken_whole(here, text):
    at = here / text if text != "~" else Path.home()
    assert load(f"storage_root={text}").storage_root == at
    assert load(f"data.train_file={text}").data.train_file == at
    assert load(f"tracking.experiment={text}").tracking.experiment == text
    assert load(f"evaluation.files.mine={text}").evaluation.files["mine"] == at
    assert load("--tags", f"a={text}").tags == load(f"tags.a={text}").tags == {"a": text}


def test_a_path_may_begin_with_the_storage_root(here):
    config = load("storage_root=a #1", "data.train_file=${storage_root}/b #2", "evaluation.files.x=${storage_root}/c")
    assert config.data.train_file == here / "a #1" / "b #2"
    assert config.evaluation.files["x"] == here / "a #1" / "c"
    assert load("data.train_file=${storage_root}/${x}").data.train_file == here / "${storage_root}/${x}"


def test_what_stands_below_a_storage_root_with_a_dollar_follows_it(here):
    assert load("storage_root=${x} #2").model.path == here / "${x} #2" / "models_v2" / "meta-llama-mtp"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("seed=010", 10),
        ("seed=1_000", 1000),
        ("seed=0x10", 16),
        ("seed=-3", -3),
        ("train.max_steps=1e2", 100),
        ("train.max_steps=100.0", 100),
        ("train.max_steps=null", None),
        ("train.max_steps=~", None),
        ("train.max_steps=", None),
        ("train.learning_rate=1e-4", 1e-4),
        ("train.learning_rate=2E-5", 2e-5),
        ("train.learning_rate=.0001", 1e-4),
        ("train.learning_rate=010", 10.0),
        ("model.activation_checkpointing=yes", True),
        ("model.activation_checkpointing=Off", False),
        ("tracking.mlflow=false", False),
        ("critic.path=null", None),
        ("tracking.mlflow_uri=null", None),
        ("stages=[0, 02]", (0, 2)),
        ("evaluation.datasets=[humaneval]", ("humaneval",)),
        ("train.adam_betas=[.9, 95e-2]", (0.9, 0.95)),
    ],
)
def test_numbers_switches_and_lists_are_read_by_their_type(word, value):
    found = value_at(load(word), word.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


def test_names_inside_mappings_and_lists_stay_text():
    files = load("evaluation.files.no=/x", "evaluation.files={2024: /a, on: /b}", "evaluation.datasets=[no, 2024, on]")
    assert files.evaluation.files.keys() >= {"no", "2024", "on"}
    assert files.evaluation.datasets == ("no", "2024", "on")
    assert load("tags={a: 010, b: on, c: 1e3}").tags == {"a": "010", "b": "on", "c": "1e3"}


@pytest.mark.parametrize(
    "word", ["seed=12:30:45", "seed=ten", "seed=1__0_", "train.max_steps=1,5", "tracking.mlflow=010"]
)
def test_a_text_that_its_type_does_not_know_is_refused(word):
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        load(word)


def test_yaml_1_1_decides_nothing_in_files(tmp_path):
    for name in ("defaults", "recipe.baseline"):
        (tmp_path / f"{name}.yaml").write_text((CONFIG_DIR / f"{name}.yaml").read_text())
    (tmp_path / "preset.mine.yaml").write_text(
        """seed: 010
tags: {ticket: 007, day: 2025-01-02, at: 12:30:45, on: off}
tracking: {experiment: on, mlflow: off}
train: {learning_rate: 1e-4, max_steps: 1e2}
model: {path: 2024}
data: &data {valid_file: ~, index_file: null}
evaluation:
  files: {no: "/x #1"}
  datasets: [no]
"""
    )
    config = load("preset=mine", f"storage_root={tmp_path}", config_dir=tmp_path)
    assert config.seed == 10
    assert config.tags == {"ticket": "007", "day": "2025-01-02", "at": "12:30:45", "on": "off"}
    assert (config.tracking.experiment, config.tracking.mlflow) == ("on", False)
    assert (config.train.learning_rate, config.train.max_steps) == (1e-4, 100)
    assert (config.model.path.name, config.data.valid_file, config.data.index_file) == ("2024", None, None)
    assert config.evaluation.files["no"] == Path("/x #1")
    assert config.evaluation.datasets == ("no",)


SWEEP = """space:
  tracking.experiment: [on, 010, 'a: b']
  train.epochs: {choice: [01, 2]}
  data.train_file: ['/x/st #2']
"""


def test_values_of_a_sweep_have_the_type_of_their_key(here, tmp_path):
    (tmp_path / "sweep.mine.yaml").write_text(SWEEP)
    points = listed_points(load_sweep(str(tmp_path / "sweep.mine.yaml"), ["seeds=[01, 2]"]))
    base = Arguments(recipe="baseline")
    loaded = [load_config(trial_arguments(base, "s", f"t{point.number}", point.values, 1), now=NOW) for point in points]
    assert [(each.tracking.experiment, each.train.epochs) for each in loaded] == [
        ("on", 1), ("on", 2), ("010", 1), ("010", 2), ("a: b", 1), ("a: b", 2),
    ]  # fmt: skip
    assert {each.data.train_file for each in loaded} == {Path("/x/st #2")}


def test_a_key_given_twice_in_a_list_of_the_command_line_is_refused():
    with pytest.raises(ConfigError, match="duplicate key"):
        load("train={max_steps: 1, max_steps: 2}")
