"""What a plan may draw: bins and ranges follow the source of difficulty, 0 is the bin `unknown`."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.layers import CONFIG_DIR
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.sampling import Stage2Sampling
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError

WHOLE = "train.sampling.difficulty_schedule=[{epoch_range: [0, 1], difficulty_weights: {%s}}]"


def load(*words: str, config_dir: Path = CONFIG_DIR) -> RunConfig:
    now = datetime(2025, 1, 2)
    return load_config(parse_arguments(["recipe=verifiable", *words]), config_dir=config_dir, now=now)


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "bins", "ends"),
    [
        ("raw", {"low": (1, 3), "medium": (4, 7), "high": (8, 11)}, (1, 11)),
        ("cf_rating", {"low": (1, 1399), "medium": (1400, 1999), "high": (2000, 4000)}, (1, 4000)),
        ("quantile", {"low": (1, 33), "medium": (34, 66), "high": (67, 100)}, (1, 100)),
    ],
)
def test_choosing_a_source_is_enough(source: str, bins: dict[str, tuple[int, int]], ends: tuple[int, int]) -> None:
    config = load(f"data.difficulty_source={source}")
    assert config.train.sampling.difficulty_bins == bins
    assert config.critic_stage.sampling.difficulty_range == ends


def test_bins_and_range_given_replace_those_of_the_source_whole() -> None:
    config = load(
        "train.sampling.difficulty_bins={easy: [1, 5]}",
        WHOLE % "easy: 1",
        "critic_stage.sampling.difficulty_range=[1,5]",
    )
    assert config.train.sampling.difficulty_bins == {"easy": (1, 5)}
    assert config.critic_stage.sampling.difficulty_range == (1, 5)


def test_a_preset_may_give_bins_and_choose_the_source(tmp_path: Path) -> None:
    for name in ("defaults.yaml", "recipe.verifiable.yaml"):
        (tmp_path / name).write_text((CONFIG_DIR / name).read_text(encoding="utf-8"), encoding="utf-8")
    bins = "{low: [1, 999], medium: [1000, 1800], high: [1801, 3500]}"
    preset = f"data: {{difficulty_source: cf_rating}}\ntrain: {{sampling: {{difficulty_bins: {bins}}}}}\n"
    (tmp_path / "preset.mine.yaml").write_text(preset, encoding="utf-8")
    config = load("preset=mine", config_dir=tmp_path)
    assert config.train.sampling.difficulty_bins["high"] == (1801, 3500)
    assert config.critic_stage.sampling.difficulty_range == (1, 4000)


def test_one_bin_of_a_source_can_be_moved() -> None:
    bins = load("data.difficulty_scales.raw.bins.low=[1,2]").train.sampling.difficulty_bins
    assert bins == {"low": (1, 2), "medium": (4, 7), "high": (8, 11)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data.difficulty_source=cf_rating", "critic_stage.sampling.difficulty_range=[1,11]"],
            "critic_stage.sampling.difficulty_range=[1, 11] with data.difficulty_source=cf_rating",
        ),
        (
            ["data.difficulty_source=cf_rating", "train.sampling.difficulty_bins={all: [1, 28]}", WHOLE % "all: 1"],
            "train.sampling.difficulty_bins={all: [1, 28]} with data.difficulty_source=cf_rating",
        ),
        (
            ["data.difficulty_source=quantile", "train.sampling.difficulty_bins={all: [1, 101]}", WHOLE % "all: 1"],
            "a percentile is 1 to 100, and 101 is above that",
        ),
        (
            ["data.difficulty_source=quantile", "critic_stage.sampling.difficulty_range=[1,4000]"],
            "Leave critic_stage.sampling.difficulty_range out to take data.difficulty_scales.quantile",
        ),
    ],
)
def test_numbers_of_another_source_are_refused(words: list[str], said: str) -> None:
    message = refused(*words)
    assert said in message
    assert "or choose the source that these numbers are of" in message


def test_a_range_of_unknown_rows_alone_fits_every_source() -> None:
    for source in ("raw", "cf_rating", "quantile"):
        config = load(f"data.difficulty_source={source}", "critic_stage.sampling.difficulty_range=[0,0]")
        assert config.critic_stage.sampling.difficulty_range == (0, 0)


def test_an_unknown_source_is_named_with_the_ones_there_are() -> None:
    message = refused("data.difficulty_source=rating")
    assert 'data.difficulty_source: found "rating", expected one of raw, cf_rating, quantile' in message


@pytest.mark.parametrize(
    ("bins", "remedy"),
    [
        ("{low: [0, 5]}", "start low at 1 or above, and give `unknown` a weight"),
        ("{low: [-3, -1]}", "start low at 1 or above"),
        ("{unknown: [0, 3]}", "give this bin another name"),
        ("{unknown: [12, 28]}", "give this bin another name"),
        ("{low: [5, 1]}", "the lower end must not exceed the upper"),
    ],
)
def test_zero_belongs_to_the_bin_unknown(bins: str, remedy: str) -> None:
    assert remedy in refused(f"train.sampling.difficulty_bins={bins}", WHOLE % "unknown: 1")


def test_unknown_needs_no_declaration_and_is_drawn_only_where_weighed() -> None:
    bins = "train.sampling.difficulty_bins={%s}"
    weighed = load(WHOLE % "low: 0.9, unknown: 0.1").train.sampling
    declared = load(bins % "unknown: [0, 0], low: [1, 5]", WHOLE % "low: 1").train.sampling
    zero = load(bins % "low: [1, 5]", WHOLE % "low: 1, unknown: 0").train.sampling
    assert list(weighed.drawn_bins.items())[-1] == ("unknown", (0, 0))
    assert declared.drawn_bins == zero.drawn_bins == {"low": (1, 5)}


def test_a_bin_that_nobody_declared_is_named_with_those_declared() -> None:
    message = refused("train.sampling.difficulty_bins.low=[1,5]")
    assert "names the bins ['high', 'medium'], but difficulty_bins is {low: [1, 5]}" in message
    assert "name only those and unknown, or give difficulty_bins whole" in message


def test_the_cap_per_problem_is_off_unless_given() -> None:
    assert load().train.sampling.max_rows_per_problem is None
    assert load("train.sampling.max_rows_per_problem=64").train.sampling.max_rows_per_problem == 64
    assert "found 0, expected a whole number of at least 1, or null" in refused("train.sampling.max_rows_per_problem=0")


def test_languages_are_known_names_or_all() -> None:
    assert load().data.languages is None
    assert load("data.languages=[python3,cpp]").data.languages == ("python3", "cpp")
    assert "expected one of unknown, python2, cpp, python3, java" in refused("data.languages=[python]")
    assert "name the languages to keep, or give null for all" in refused("data.languages=[]")


def test_a_resolved_sampling_stands_alone() -> None:
    sampling = load("data.difficulty_source=quantile").train.sampling
    assert Stage2Sampling.model_validate(sampling.model_dump()) == sampling


def test_classes_of_problems_are_known_names_or_all() -> None:
    key = "train.sampling.problem_classes"
    assert load().train.sampling.problem_classes is None
    assert load(f"{key}=[both,only_incorrect]").train.sampling.problem_classes == ("both", "only_incorrect")
    assert "expected one of both, only_correct, only_incorrect" in refused(f"{key}=[neither]")
    assert "name the classes to keep, or give null for all" in refused(f"{key}=[]")
