"""What a sweep tries: its file, its points, what its trials share, and the recipe it ends in."""

from datetime import datetime
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.layers import CONFIG_DIR, layer_names
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.recipe_file import dump_recipe
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep import EarlyStopping, LogUniform, Objective, StopRule, SweepSpec, Uniform, load_sweep
from wmtp_ray.config.sweep_points import Point, Trial, corner_points, listed_points, trial_arguments
from wmtp_ray.config.sweep_sharing import critic_values, plan_key, shares_critic
from wmtp_ray.errors import ConfigError

NOW = datetime(2025, 1, 2, 3, 4, 5)
SWEEPS = layer_names("sweep", [CONFIG_DIR])


def load(*words: str) -> RunConfig:
    return load_config(parse_arguments(["recipe=verifiable", *words]), now=NOW)


def sweep_of(*words: str) -> SweepSpec:
    return load_sweep("beta_clip_value", words)


def refused(*words: str, name: str = "beta_clip_value") -> str:
    with pytest.raises(ConfigError) as caught:
        load_sweep(name, words)
    message = str(caught.value)
    assert not any(jargon in message for jargon in ("Input should", "pydantic", "function-after", "Tuple should"))
    return message


class TestFile:
    @pytest.mark.parametrize("name", SWEEPS)
    def test_every_shipped_sweep_varies_keys_that_exist(self, name: str) -> None:
        spec = load_sweep(name, [])
        corners = corner_points(spec)
        for point in (corners[0], corners[-1]):
            words = trial_arguments(parse_arguments(["recipe=verifiable"]), "s", "t", point.values, 1)
            config = load_config(words, now=NOW)
            found = {key: attrgetter(key)(config) for key in point.values}
            assert found == point.values

    def test_the_three_searches_ship(self) -> None:
        assert {load_sweep(name, []).search for name in SWEEPS} == {"grid", "random", "optuna"}

    def test_no_value_has_a_home_in_the_schema(self) -> None:
        sections = (SweepSpec, Objective, EarlyStopping, StopRule, Uniform, LogUniform)
        fields = [field for section in sections for field in section.model_fields.values()]
        assert all(field.is_required() for field in fields)

    def test_words_win_over_the_file_and_the_file_over_the_defaults(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("space: {weighting.beta: [0.1]}\nseeds: [7, 8]\nsearch_seed: 5\n")
        spec = load_sweep(str(path), ["seeds=[9]"])
        assert (spec.seeds, spec.search_seed, spec.search) == ((9,), 5, "grid")

    def test_a_rule_can_be_switched_off(self) -> None:
        rules = sweep_of().rules
        assert set(sweep_of("stop_when.critic_collapse=null").rules) == set(rules) - {"critic_collapse"}

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["sed=1"], "sweep.sed: there is no such key; did you mean seeds?"),
            (["num_points=x"], 'sweep.num_points: found "x", expected a valid integer'),
            (["num_points=3"], "search=grid tries every point; set num_points=null"),
            (["search=random"], "search=random needs num_points"),
            (["search=random", "num_points=13"], "num_points=13, but the space has 12 points"),
            (["search=gird"], "expected 'grid', 'random' or 'optuna'"),
            (["space={weighting.beta: {uniform: [0.1, 1]}}"], "search=grid with a range for weighting.beta"),
            (["space={weighting.beta: {uniform: [2, 1]}}"], "the lower end must be below the upper"),
            (["space={weighting.beta: {loguniform: [0, 1]}}"], "the ends must be above 0"),
            (["space={weighting.beta: {unform: [0, 1]}}"], "expected [values], {choice: [values]}, {uniform: [low, hi"),
            (["space={weighting.beta: 3}"], "sweep.space.weighting.beta: found 3, expected [values]"),
            (["space={weighting.beta: []}"], "weighting.beta has no values"),
            (["space={seed: [1, 2]}"], "seed cannot be swept: give sweep.seeds=[...]"),
            (["space={run_name: [a]}"], "run_name cannot be swept"),
            (["seeds=[1,1]"], "names a seed twice"),
            (["objective.metric=loss/total"], "is weighted by what is swept, so its numbers do not compare"),
            (["objective.metric=held_out/los"], "expected one of held_out/loss_correct"),
            (["objective.metric=evl/x/pass@1"], "did you mean eval/...?"),
            (
                ["early_stopping={metric: loss/policy, mode: min}"],
                "sweep.early_stopping.window_steps: no value was given",
            ),
            (["stop_when.weight_collapse.below=null"], "has neither below nor above"),
        ],
    )
    def test_a_mistake_is_named_with_its_remedy(self, words: list[str], said: str) -> None:
        assert said in refused(*words)

    def test_an_unknown_name_lists_what_exists(self) -> None:
        message = refused(name="beta_clip_valu")
        assert all(name in message for name in SWEEPS)
        assert "Did you mean sweep=beta_clip_value?" in message

    def test_a_path_that_does_not_exist_is_named(self) -> None:
        assert "nowhere/mine.yaml does not exist" in refused(name="nowhere/mine.yaml")


class TestCommand:
    def test_sweep_words_are_kept_apart(self) -> None:
        words = [
            "recipe=verifiable",
            "sweep=grid",
            "sweep.seeds=[1,2]",
            "weighting.gamma=1",
            "--tags",
            "a=b",
            "sweep.x=1",
        ]
        arguments = parse_arguments(words)
        assert (arguments.sweep, arguments.sweep_overrides) == ("grid", ("seeds=[1,2]", "x=1"))
        assert (arguments.overrides, arguments.tags) == (("weighting.gamma=1",), {"a": "b"})

    def test_sweep_words_without_a_sweep_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"sweep\.seeds=\[1\] stands without a sweep; expected sweep=NAME"):
            parse_arguments(["recipe=verifiable", "sweep.seeds=[1]"])

    def test_a_flag_for_a_sweep_suggests_the_word(self) -> None:
        with pytest.raises(ConfigError, match="did you mean sweep=VALUE"):
            parse_arguments(["recipe=verifiable", "--sweep"])


class TestPoints:
    def test_a_grid_has_every_combination_once_the_last_key_first(self) -> None:
        points = listed_points(sweep_of())
        naive = [
            {"weighting.beta": beta, "weighting.clip_max": clip, "train.value_coef": coef}
            for beta in (0.1, 0.3, 0.9)
            for clip in (3.0, 5.0)
            for coef in (0.1, 0.5)
        ]
        assert [point.values for point in points] == naive
        assert [point.number for point in points] == list(range(12))

    @settings(max_examples=20)
    @given(st.integers(0, 10_000), st.integers(1, 20))
    def test_more_random_points_begin_with_the_same_ones_and_lie_in_their_ranges(self, seed: int, fewer: int) -> None:
        space = {"a": Uniform(uniform=(-1.0, 2.0)), "b": LogUniform(loguniform=(1e-3, 10.0)), "c": ("x", None, 3)}
        few, many = (_random(space, seed, number) for number in (fewer, fewer + 5))
        assert many[:fewer] == few
        for point in many:
            assert -1.0 <= point.values["a"] <= 2.0
            assert 1e-3 <= point.values["b"] <= 10.0
            assert point.values["c"] in ("x", None, 3)

    @settings(max_examples=20)
    @given(st.integers(0, 1000), st.integers(1, 12))
    def test_random_points_of_lists_do_not_repeat(self, seed: int, number: int) -> None:
        points = _random({"a": (1, 2, 3), "b": (1, 2, 3, 4)}, seed, number)
        assert len({tuple(point.values.values()) for point in points}) == number

    def test_corners_are_the_ends_and_the_listed_values(self) -> None:
        space = {"a": Uniform(uniform=(0.0, 1.0)), "b": (1, 2, 3)}
        corners = [tuple(p.values.values()) for p in corner_points(_spec(space, search="optuna", num_points=9))]
        assert sorted(corners) == [(a, b) for a in (0.0, 1.0) for b in (1, 2, 3)]

    def test_many_corners_are_taken_one_key_at_a_time(self) -> None:
        space = {str(number): Uniform(uniform=(0.0, 1.0)) for number in range(12)}
        corners = corner_points(_spec(space, search="optuna", num_points=9))
        assert len(corners) == 24
        assert {sum(point.values.values()) for point in corners} == {0.0, 1.0}

    def test_a_trial_is_the_base_with_the_point_and_all_seeds(self) -> None:
        base = parse_arguments(["recipe=verifiable", "train.max_steps=7", "--tags", "team=a"])
        values = {"weighting.beta": 1e-05, "critic.path": None, "data.languages": ["cpp"], "recipe": "baseline"}
        config = load_config(trial_arguments(base, "my", Trial(Point(3, values), 5).name, values, 5), now=NOW)
        assert (config.run_name, config.recipe, config.weighting.beta) == ("my/point_003-seed_5", "baseline", 1e-05)
        assert (config.train.max_steps, config.critic.path, config.data.languages) == (7, None, ("cpp",))
        assert {config.seed, config.train.sampling.seed, config.critic_stage.sampling.seed} == {5}
        assert config.tags == {"team": "a", "sweep": "my", "sweep_trial": "point_003-seed_5"}


class TestSharing:
    def test_stage_1_is_shared_between_weightings_and_not_between_its_own_keys(self) -> None:
        values = {"weighting.beta": 1, "train.value_coef": 2, "weighting.gamma": 3, "critic.head": 4, "no.such_key": 5}
        assert critic_values(values) == {"weighting.gamma": 3, "critic.head": 4, "no.such_key": 5}

    @pytest.mark.parametrize(
        ("word", "is_shared"),
        [
            ("weighting.beta=0.3", True),
            ("weighting.clip_min=0.3", True),
            ("train.value_coef=0.3", True),
            ("train.learning_rate=1e-5", True),
            ("train.batch_rows=8", False),
            ("train.sampling.seed=3", False),
            ("data.max_tokens=512", False),
            ("critic.objective=pairwise", False),
            ("weighting.type=uniform", False),
        ],
    )
    def test_plans_are_shared_where_no_key_of_theirs_differs(self, word: str, is_shared: bool) -> None:
        assert (plan_key(load()) == plan_key(load(word))) is is_shared

    @pytest.mark.parametrize(("stages", "shares"), [("[0,1,2]", True), ("[0,2]", False), ("[1]", False)])
    def test_there_is_a_critic_to_share_with_stages_1_and_2(self, stages: str, shares: bool) -> None:
        assert shares_critic(load(f"stages={stages}")) is shares


class TestRecipeFile:
    WORDS = ("preset=quickstart", "weighting.beta=0.9", "weighting.clip_max=3", "data.difficulty_source=quantile")

    def written(self, tmp_path: Path, *words: str) -> tuple[RunConfig, Path]:
        config = load(*self.WORDS, f"storage_root={tmp_path}", *words)
        path = tmp_path / "recipe.best.yaml"
        path.write_text(dump_recipe(config, "first line\nsecond", always=("weighting.beta",)), encoding="utf-8")
        return config, path

    @pytest.mark.parametrize(
        "words", [[], ["model.lora={rank: 4, alpha: 8, dropout: 0.0, targets: [wq]}", "stages=[2]"]]
    )
    def test_it_loads_to_the_same_configuration_without_the_preset(self, tmp_path: Path, words: list[str]) -> None:
        config, path = self.written(tmp_path, *words)
        again = load(f"recipe={path}", f"storage_root={tmp_path}")
        assert again.recipe == "best"
        assert again.run_name == "best-20250102-030405"
        named = {"recipe": "verifiable", "preset": "quickstart", "run_name": config.run_name}
        assert again.model_copy(update=named) == config

    def test_it_holds_differences_and_what_was_asked_to_be_named(self, tmp_path: Path) -> None:
        values = yaml.safe_load(self.written(tmp_path)[1].read_text(encoding="utf-8"))
        assert values["weighting"] == {"type": "td", "beta": 0.9, "clip_max": 3.0}
        assert not values.keys() & {"recipe", "preset", "run_name", "tags", "storage_root", "loss", "rho1"}

    def test_it_moves_with_the_storage(self, tmp_path: Path) -> None:
        _, path = self.written(tmp_path)
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        assert load(f"recipe={path}", "storage_root=/elsewhere").model.path == Path("/elsewhere/models_v2/nano_mtp")


def _spec(space: dict[str, object], **changes: object) -> SweepSpec:
    return SweepSpec.model_validate(sweep_of().model_dump() | {"space": space} | changes)


def _random(space: dict[str, object], seed: int, number: int) -> list[Point]:
    return listed_points(_spec(space, search="random", search_seed=seed, num_points=number))
