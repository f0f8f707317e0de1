import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from wmtp_ray.config.layers import CONFIG_DIR, layer_names
from wmtp_ray.config.load import dump_config, load_config, load_resolved, parse_arguments
from wmtp_ray.config.schema import RunConfig, Section
from wmtp_ray.errors import ConfigError

NOW = datetime(2025, 1, 2, 3, 4, 5)
RECIPES = layer_names("recipe", [CONFIG_DIR])
PRESETS = layer_names("preset", [CONFIG_DIR])


def load(*words: str, config_dir: Path = CONFIG_DIR) -> RunConfig:
    return load_config(parse_arguments(["recipe=verifiable", *words]), config_dir=config_dir, now=NOW)


def refused(*words: str, config_dir: Path = CONFIG_DIR) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*words, config_dir=config_dir)
    message = str(caught.value)
    assert not any(jargon in message for jargon in ("Input should", "pydantic", "Traceback", "validation error"))
    return message


def field_names(section: type[Section], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in section.model_fields.items():
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        names |= field_names(kind, f"{prefix}{name}.") if is_section else {prefix + name}
    return names


def write(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text, encoding="utf-8")


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """The shipped defaults beside layers of the test's own."""
    directory = tmp_path / "configs"
    directory.mkdir()
    write(directory, "defaults.yaml", (CONFIG_DIR / "defaults.yaml").read_text(encoding="utf-8"))
    write(directory, "recipe.verifiable.yaml", (CONFIG_DIR / "recipe.verifiable.yaml").read_text(encoding="utf-8"))
    return directory


class TestShippedFiles:
    def test_the_documented_recipes_and_presets_ship(self):
        assert {"baseline", "verifiable", "rho1_weighted"} <= set(RECIPES)
        assert {"local-light", "cpu", "a100-1", "a100-4"} <= set(PRESETS)

    @pytest.mark.parametrize("recipe", RECIPES)
    @pytest.mark.parametrize("preset", [None, *PRESETS])
    def test_every_recipe_parses_with_every_preset(self, recipe, preset):
        config = load(f"recipe={recipe}", *([f"preset={preset}"] if preset else []))
        assert (config.recipe, config.preset) == (recipe, preset)

    def test_no_default_lives_in_the_schema(self):
        values = yaml.safe_load((CONFIG_DIR / "defaults.yaml").read_text(encoding="utf-8"))
        in_yaml = {name for name in field_names(RunConfig) if _has(values, name)}
        assert in_yaml == field_names(RunConfig)

    def test_no_schema_field_has_a_default(self):
        sections = [RunConfig, *(kind for kind in Section.__subclasses__() if kind is not RunConfig)]
        with_default = [
            f"{section.__name__}.{name}"
            for section in sections
            for name, field in section.model_fields.items()
            if not field.is_required()
        ]
        assert with_default == []

    def test_defaults_carry_the_stage_two_schedule(self):
        sampling = load().train.sampling
        assert sampling.difficulty_bins == {"low": (1, 3), "medium": (4, 7), "high": (8, 11)}
        assert [(phase.epoch_range, phase.difficulty_weights) for phase in sampling.difficulty_schedule] == [
            ((0.0, 0.3), {"low": 0.7, "medium": 0.3, "high": 0.0}),
            ((0.3, 0.7), {"low": 0.3, "medium": 0.6, "high": 0.1}),
            ((0.7, 1.0), {"low": 0.1, "medium": 0.5, "high": 0.4}),
        ]

    def test_the_method_keeps_its_published_constants(self):
        config = load()
        weighting = config.weighting
        assert (weighting.beta, weighting.clip_min, weighting.clip_max, weighting.gamma) == (0.9, 0.1, 5.0, 1.0)
        assert (config.train.value_coef, config.critic.value_clip, config.train.max_grad_norm) == (0.5, 0.2, 1.0)


class TestMerging:
    def test_preset_wins_over_recipe_and_overrides_over_both(self, config_dir):
        write(
            config_dir,
            "recipe.verifiable.yaml",
            "data: {policy_rows: mixed}\nweighting: {type: td, beta: 0.1}\nseed: 1\n",
        )
        write(config_dir, "preset.mine.yaml", "weighting: {beta: 0.2}\nseed: 2\n")
        config = load("preset=mine", "seed=3", config_dir=config_dir)
        assert (config.weighting.beta, config.seed, config.weighting.clip_max) == (0.2, 3, 5.0)

    def test_of_several_presets_the_later_one_wins(self, config_dir):
        write(config_dir, "preset.mine.yaml", "weighting: {beta: 0.2, clip_max: 3}\n")
        write(config_dir, "preset.yours.yaml", "weighting: {beta: 0.4}\n")
        config = load("preset=mine,yours", config_dir=config_dir)
        assert (config.weighting.beta, config.weighting.clip_max, config.preset) == (0.4, 3.0, "mine,yours")
        assert load("preset=yours,mine", config_dir=config_dir).weighting.beta == 0.2
        assert "preset=theirs: there is no preset" in refused("preset=mine,theirs", config_dir=config_dir)

    def test_interpolations_follow_an_overridden_storage_root(self, tmp_path):
        config = load(f"storage_root={tmp_path}")
        assert config.model.path == tmp_path / "models_v2" / "meta-llama-mtp"

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("stages=[0,2]", (0, 2)),
            ("seed=7", 7),
            ("seed=1e3", 1000),
        ],
    )
    def test_override_values_are_yaml(self, word, value):
        assert getattr(load(word), word.partition("=")[0]) == value

    def test_exponent_without_a_point_is_a_number(self):
        assert load("train.learning_rate=1e-4").train.learning_rate == 1e-4

    def test_a_section_given_whole_keeps_its_other_keys(self):
        train = load("train={max_steps: 3, batch_rows: 8}").train
        assert (train.max_steps, train.batch_rows, train.epochs) == (3, 8, 1)

    def test_a_value_may_hold_an_equals_sign(self):
        assert load("tracking.mlflow_uri=http://host/?a=b").tracking.mlflow_uri == "http://host/?a=b"

    def test_names_and_tags_stay_text(self):
        arguments = ["run_name=2024", "tags.ticket=17", "--tags", "big=1e3", "a.b=true"]
        config = load(*arguments)
        assert config.run_name == "2024"
        assert config.tags == {"ticket": "17", "big": "1e3", "a.b": "true"}

    def test_tags_of_mlflow_that_are_the_users_may_be_given(self):
        tags = load("--tags", "mlflow.note.content=why", "mlflow.parentRunId=abc", "Mlflow.x=1", "이름=값").tags
        assert tags == {"mlflow.note.content": "why", "mlflow.parentRunId": "abc", "Mlflow.x": "1", "이름": "값"}

    def test_run_name_defaults_to_recipe_and_time(self):
        assert load("recipe=baseline").run_name == "baseline-20250102-030405"


class TestPaths:
    def test_relative_paths_count_from_the_current_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = load("data.train_file=rows.jsonl", "critic.path=~/bundle")
        assert config.data.train_file == tmp_path / "rows.jsonl"
        assert config.storage_root == tmp_path / "storage"
        assert config.critic.path == Path("~/bundle").expanduser()

    def test_storage_of_an_earlier_generation_is_found(self, tmp_path):
        (tmp_path / "models" / "shared").mkdir(parents=True)
        (tmp_path / "models" / "shared" / "tokenizer.model").touch()
        config = load(f"storage_root={tmp_path}")
        assert config.tokenizer.path == tmp_path / "models" / "shared" / "tokenizer.model"
        assert config.model.path == tmp_path / "models_v2" / "meta-llama-mtp"

    def test_storage_of_this_generation_comes_first(self, tmp_path):
        for generation in ("datasets", "datasets_v2"):
            (tmp_path / generation / "codecontests" / "processed").mkdir(parents=True)
            (tmp_path / generation / "codecontests" / "processed" / "train.jsonl").touch()
        assert "datasets_v2" in load(f"storage_root={tmp_path}").data.train_file.parts


class TestRefusals:
    @pytest.mark.parametrize(
        ("key", "suggestion"),
        [
            ("weighting.bta", "weighting.beta"),
            ("weigting.beta", "weighting.beta"),
            ("beta", "weighting.beta"),
            ("bta", "weighting.beta"),
            ("max_steps", "train.max_steps or critic_stage.max_steps"),
            ("train.sampling.n_sample", "train.sampling.n_samples"),
            ("storage_rot", "storage_root"),
        ],
    )
    def test_unknown_key_suggests_the_nearest(self, key, suggestion):
        assert f"{key}: there is no such key; did you mean {suggestion}? [from the command line]" in refused(f"{key}=1")

    @pytest.mark.parametrize(
        ("word", "found", "expected"),
        [
            ("weighting.beta=-1", "found -1", "expected a number above 0"),
            ("weighting.td_lambda=2", "found 2", "expected a number from 0 to 1"),
            ("weighting.gamma=0", "found 0", "expected a number above 0 and of at most 1"),
            ("train.max_steps=0", "found 0", "expected a whole number of at least 1, or null"),
            ("train.max_steps=1.5", "found 1.5", "expected a whole number of at least 1"),
            ("train.num_workers=true", "found true", "expected a whole number of at least 1"),
            ("train.learning_rate=.inf", "found Infinity", "expected a finite number"),
            ("train.learning_rate=.nan", "found NaN", "expected a finite number"),
            ("seed=abc", 'found "abc"', "expected a whole number"),
            ("critic.mode=asinc", 'found "asinc"', "expected one of async, sync"),
            ("weighting.type=null", 'found "null"', "expected one of uniform, td, rho1"),
            ("model.path=", "found null", "expected a path (Directory in Meta's layout"),
            ("seed=12:30:45", 'found "12:30:45"', "expected a whole number"),
            ("weighting.beta=1,5", 'found "1,5"', "expected a number above 0"),
            ("evaluation.k=1,10", 'found "1,10"', "expected a list whose entries are each a whole number"),
            ("tracking.mlflow=maybe", 'found "maybe"', "expected true or false"),
            ("tags={a: [1]}", "found [1]", "expected text"),
            ("weighting=td", 'found "td"', "expected a section with the keys type, beta"),
            ("seed.x=2", 'found {"x": 2}', "expected a whole number"),
            ("tracking.experiment=" + "x" * 501, 'found "xxx', "expected text of 1 to 500 characters"),
            ("run_name=-x", 'found "-x"', "expected letters, digits, dots"),
        ],
    )
    def test_wrong_value_says_found_and_expected(self, word, found, expected):
        message = refused(word)
        assert word.partition("=")[0].removesuffix(".x").removesuffix(".a") in message
        assert found in message
        assert expected in message

    def test_entry_of_a_list_is_named_by_its_index(self):
        assert "stages[1]: found 7, expected a whole number from 0 to 3" in refused("stages=[0,7]")

    def test_short_list_says_its_shape(self):
        assert "train.adam_betas[1]: no value was given" in refused("train.adam_betas=[0.9]")

    @pytest.mark.parametrize(
        ("words", "remedy"),
        [
            (["weighting.clip_min=7"], "give a lower clip_min or a higher clip_max"),
            (
                ["weighting.clip_min=0"],
                "a weight of 0 drops its token, which this arm does not mean to do; give a clip",
            ),
            (["weighting.type=drop", "weighting.advantage_norm=batch"], "in units of V, which whitening takes away"),
            (["recipe=rho1_weighted", "reference.path=null"], "give reference.path=DIR"),
            (["critic.source=frozen", "stages=[0,2]"], "give critic.path=DIR"),
            (["recipe=rho1_weighted", "train.value_coef=0.5"], "set train.value_coef=0"),
            (["data.condition=label"], "and a weighting.type that reads no critic, such as uniform"),
            (["recipe=baseline", "data.condition=label", "data.template=chat"], "template=chat with condition=label"),
            (["recipe=baseline", "data.condition=label", "train.value_coef=0.5"], "Set train.value_coef=0"),
            (
                ["recipe=baseline", "train.sampling.correct_share=0.5"],
                "set data.policy_rows=mixed for a share, or train.sampling.correct_share=null",
            ),
            (["train.finish_correct_frac=1"], "train.finish_correct_frac"),
            (["critic.train_trunk=true"], "set critic.source=frozen"),
            (["critic.ensemble=2"], "set critic.source=frozen, or critic.ensemble=1"),
            (["weighting.max_disagreement=0.1"], "set critic.ensemble to 2 or more"),
            (
                ["recipe=baseline", "critic.source=frozen", "critic.ensemble=2", "weighting.max_disagreement=0.1"],
                "use max_disagreement=null here, or type=td or drop",
            ),
            (["critic.ensemble=0", "critic.source=frozen"], "critic.ensemble"),
            (["train.batch_rows=1", "train.num_workers=2"], "raise batch_rows or lower num_workers"),
            (["train.micro_batch_tokens=8"], "raise micro_batch_tokens"),
            (["train.dtype=bfloat16", "train.device=cpu"], "use float32 there"),
            (["data.difficulty_scales.raw.bins.low=[1,5]"], "overlap at 4; make them disjoint"),
            (["train.sampling.difficulty_schedule=[]"], "the last phase must end at 1.0"),
            (["tracking.mlflow_uri=sqlite:///mlflow.db"], "give an absolute sqlite:////DIR/mlflow.db"),
            (["tracking.mlflow_uri=./mlruns"], "or null for a file in storage_root"),
            (["--tags", "mlflow.runName=mine"], "the run's name there is run_name): choose another name"),
            (["tags.mlflow.log-model.history=x"], "found the tag mlflow.log-model.history; names that begin with"),
            (["stages=[2,0]"], "give each stage once and in order"),
            (["stages=[]"], "give each stage once and in order"),
        ],
    )
    def test_contradiction_keeps_its_remedy(self, words, remedy):
        assert remedy in refused(*words)

    @pytest.mark.parametrize("kind", ["recipe", "preset"])
    def test_unknown_layer_lists_what_exists(self, kind):
        message = refused(f"{kind}=cpuu" if kind == "preset" else f"{kind}=verifable")
        assert all(name in message for name in (PRESETS if kind == "preset" else RECIPES))
        assert ("Did you mean preset=cpu?" if kind == "preset" else "Did you mean recipe=verifiable?") in message

    def test_key_that_no_layer_sets_is_named(self, config_dir):
        write(config_dir, "recipe.verifiable.yaml", "seed: 1\n")
        message = refused(config_dir=config_dir)
        assert "weighting.type: no value was given, expected one of uniform, td" in message
        assert "data.policy_rows: no value was given, expected one of correct_only, mixed" in message

    def test_key_missing_in_defaults_is_named(self, config_dir):
        text = (config_dir / "defaults.yaml").read_text(encoding="utf-8").replace("  beta: 0.9\n", "")
        write(config_dir, "defaults.yaml", text)
        assert "weighting.beta: no value was given, expected a number above 0" in refused(config_dir=config_dir)

    def test_the_file_that_set_a_value_is_named(self, config_dir):
        write(config_dir, "preset.mine.yaml", "train: {max_stepz: 3}\nseed: x\n")
        message = refused("preset=mine", config_dir=config_dir)
        assert "train.max_stepz: there is no such key; did you mean train.max_steps? [from preset.mine.yaml]" in message
        assert 'seed: found "x", expected a whole number' in message

    @pytest.mark.parametrize("text", ["a: [1\n", "- a\n", "seed: 1\nseed: 2\n"])
    def test_broken_file_is_named(self, config_dir, text):
        write(config_dir, "preset.mine.yaml", text)
        assert "preset.mine.yaml" in refused("preset=mine", config_dir=config_dir)

    def test_missing_config_directory_says_where_it_is_expected(self, tmp_path):
        assert "defaults.yaml does not exist; expected the configs/ folder" in refused(config_dir=tmp_path)

    @pytest.mark.parametrize("value", ["${nope}/x", "${oc.env:WMTP_RAY_UNSET_VARIABLE}"])
    def test_unresolvable_interpolation_of_a_file_is_named(self, config_dir, value):
        write(config_dir, "preset.mine.yaml", f"data: {{train_file: '{value}'}}\n")
        message = refused("preset=mine", config_dir=config_dir)
        assert f"data.train_file: found '{value}', which cannot be resolved" in message

    def test_override_that_is_not_yaml_is_shown(self):
        assert "stages=[0: the value is not YAML" in refused("stages=[0")

    def test_every_problem_is_in_one_message(self):
        message = refused("recipe=verifable", "preset=gpu", "stages=[0", "beta=2", "seed=x")
        assert message.startswith("the configuration has 5 problems:\n")
        parts = ("recipe=verifable: there", "preset=gpu: there", "stages=[0: the", "beta: there", 'seed: found "x"')
        assert all(part in message for part in parts)

    def test_resume_without_a_name_lists_the_runs(self, tmp_path):
        (tmp_path / "runs" / "first").mkdir(parents=True)
        message = refused("--resume", f"storage_root={tmp_path}")
        assert "expected run_name=NAME" in message
        assert "holds: first" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), 0.5),
        (("critic.source=frozen", "critic.path=bundle"), 0.0),
        (("critic.source=frozen", "critic.path=bundle", "train.value_coef=0.25"), 0.25),
        (("recipe=baseline",), 0.0),
    ],
)
def test_a_head_that_scores_nothing_is_trained_only_where_asked_for(words, expected):
    assert load(*words).train.value_coef == expected


class TestResolvedFile:
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_dump_loads_back_equal(self, recipe, tmp_path):
        config = load(f"recipe={recipe}", "--tags", "number=1e-4", "day=2025-01-02", "text=a: b", "train.max_steps=3")
        (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_resolved(tmp_path / "config.yaml") == config

    def test_a_run_saved_before_a_key_existed_has_the_key_s_default(self, tmp_path):
        config = load("train.max_steps=3")
        saved = yaml.safe_load(dump_config(config))
        del saved["train"]["value_coef_by_source"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
        assert load_resolved(tmp_path / "config.yaml") == config

    def test_dump_is_stable_and_in_schema_order(self):
        text = dump_config(load())
        assert text == dump_config(load())
        assert list(yaml.safe_load(text)) == list(RunConfig.model_fields)

    def test_missing_file_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"does not exist; expected the config\.yaml of a run"):
            load_resolved(tmp_path / "config.yaml")

    @pytest.mark.parametrize("text", ["", "[1", "seed: 1\n", "- 1\n"])
    def test_torn_file_is_refused(self, tmp_path, text):
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            load_resolved(tmp_path / "config.yaml")


def test_a_configuration_is_refused_without_heavy_imports():
    program = """
import sys
from datetime import datetime
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.errors import ConfigError
try:
    load_config(parse_arguments(["recipe=verifiable", "weighting.bta=1"]), now=datetime(2025, 1, 1))
except ConfigError:
    print(sorted({"torch", "ray", "mlflow", "pandas", "numpy"} & set(sys.modules)))
"""
    root = str(CONFIG_DIR.parent)
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


def _has(values: object, dotted: str) -> bool:
    for part in dotted.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


class TestDirectoryOfOnesOwn:
    def test_its_files_come_first_its_defaults_lie_over_ours_and_ours_stay(self, tmp_path):
        (tmp_path / "recipe.mine.yaml").write_text("data: {policy_rows: mixed}\nweighting: {type: td}\n")
        (tmp_path / "preset.cpu.yaml").write_text("train: {device: cpu, batch_rows: 6}\n")
        (tmp_path / "defaults.yaml").write_text("weighting: {beta: 0.25}\n")
        words = ["--config-dir", str(tmp_path), f"storage_root={tmp_path}"]
        config = load_config(parse_arguments(["recipe=mine", "preset=cpu", *words]), now=NOW)
        assert (config.train.batch_rows, config.weighting.beta, config.weighting.clip_max) == (6, 0.25, 5.0)
        assert load_config(parse_arguments(["recipe=verifiable", *words]), now=NOW).weighting.beta == 0.25

    def test_what_is_nowhere_is_refused_with_what_both_hold(self, tmp_path):
        (tmp_path / "recipe.mine.yaml").write_text("")
        with pytest.raises(ConfigError, match=r"one of: baseline, mine, .*Did you mean recipe=mine"):
            load_config(parse_arguments(["recipe=mne", "--config-dir", str(tmp_path)]), now=NOW)
        with pytest.raises(ConfigError, match="no such directory"):
            load_config(parse_arguments(["recipe=mine", "--config-dir", str(tmp_path / "absent")]), now=NOW)
