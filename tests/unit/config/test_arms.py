"""The table of arms is whole: the schema, the recipes and the documents say what it says."""

import re
from datetime import datetime
from typing import get_args

import pytest
import yaml

from tests.documents import KOREAN, ROOT
from wmtp_ray.config.arms import (
    ARMS,
    BASELINE,
    METHOD,
    WeightingType,
    arm_named,
    arms_of,
    arms_table,
    most_telling_first,
    place_in_reports,
)
from wmtp_ray.config.layers import CONFIG_DIR
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.schema_nodes import run_schema
from wmtp_ray.errors import ConfigError

REFERENCES = ("reference.path=x", "reference.incorrect_path=y")


def load(*words: str) -> RunConfig:
    return load_config(parse_arguments(["recipe=verifiable", *words]), config_dir=CONFIG_DIR, now=datetime(2026, 1, 2))


def test_the_schema_takes_the_arms_of_the_table_and_no_other():
    node = run_schema().node_at(("weighting", "type"))
    assert node is not None
    assert node["enum"] == list(ARMS) == list(get_args(WeightingType))
    with pytest.raises(ConfigError, match=r"expected one of uniform, td, rho1"):
        load("weighting.type=tdd")


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_what_an_arm_asks_of_a_run_follows_from_its_source(arm):
    references = ("reference.path=elsewhere", "reference.incorrect_path=there") if arm.source == "reference" else ()
    given = (*references, "train.value_coef=0")
    config = load(f"weighting.type={arm.name}", *given)
    assert (config.weighting.arm, config.weighting.needs_values) == (arm, arm.source == "critic")
    assert (config.uses_critic, config.needs_reference) == (arm.source == "critic", arm.source == "reference")
    if arm.source == "reference":
        with pytest.raises(ConfigError, match=f"weighting.type={arm.name} needs a reference model"):
            load(f"weighting.type={arm.name}", "train.value_coef=0")


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_the_horizon_reading_is_for_arms_that_define_it(arm):
    words = (f"weighting.type={arm.name}", "weighting.terminal=horizon", "train.value_coef=0", *REFERENCES)
    if arm.has_horizon_reading:
        assert load(*words).weighting.terminal == "horizon"
    else:
        with pytest.raises(ConfigError, match="it is defined for type=td and td_lambda=0"):
            load(*words)


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_no_lower_clip_is_for_arms_that_drop_tokens(arm):
    words = (f"weighting.type={arm.name}", "weighting.clip_min=0", "train.value_coef=0", *REFERENCES)
    if arm.name in ("rho1", "drop", "oracle_drop"):
        assert arm.drops_tokens
        assert load(*words).weighting.clip_min == 0.0
    else:
        with pytest.raises(
            ConfigError, match=r"give a clip_min above 0 .* an arm that drops tokens: type=rho1 or drop or oracle_drop"
        ):
            load(*words)


@pytest.mark.parametrize("norm", ["batch", "ema"])
@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_whitening_is_not_for_arms_that_read_where_the_error_lies(arm, norm):
    words = (f"weighting.type={arm.name}", f"weighting.advantage_norm={norm}", "train.value_coef=0", *REFERENCES)
    if arm.pushes_down or arm.shape == "threshold":
        with pytest.raises(ConfigError, match=f"with type={arm.name}: .* use advantage_norm=none here"):
            load(*words)
    else:
        assert load(*words).weighting.advantage_norm == norm


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_only_stage_2_of_an_arm_that_needs_edits_compares_rows(arm):
    file = "weighting.compared_file=all.jsonl"
    given = (f"weighting.type={arm.name}", file, "train.value_coef=0", *REFERENCES)
    config = load(*given)
    assert config.compares_rows == arm.needs_edits == (arm.name in ("diff", "oracle", "oracle_drop"))
    assert (config.compared_file is not None) == arm.needs_edits
    elsewhere = load(*given, "stages=[0,1]")
    assert (elsewhere.compares_rows, elsewhere.compared_file) == (False, None)


@pytest.mark.parametrize("second", ["reference.incorrect_path=null", "reference.incorrect_path=x"])
def test_the_contrast_of_a_reference_with_none_or_itself_is_refused(second):
    given = ("weighting.type=contrast", "train.value_coef=0", "reference.path=x")
    with pytest.raises(ConfigError, match=r"type=contrast compares reference.path=.*x with a second reference, found"):
        load(*given, second)
    config = load(*given, "reference.incorrect_path=y", "reference.incorrect_tokenizer_path=y.model")
    assert [(each.prefix, each.path.name) for each in config.references] == [
        ("reference.", "x"),
        ("reference.incorrect_", "y"),
    ]
    assert [each.prefix for each in load(*given[1:], *REFERENCES, "weighting.type=rho1").references] == ["reference."]
    assert load(*REFERENCES).references == ()


def test_one_arm_pushes_tokens_down():
    assert [arm.name for arm in ARMS.values() if arm.pushes_down] == ["signed"]


@pytest.mark.parametrize("arm", [arm for arm in ARMS.values() if arm.recipe], ids=lambda arm: arm.recipe)
def test_the_recipe_of_an_arm_has_its_weighting_and_its_usual_rows(arm):
    recipe = yaml.safe_load((CONFIG_DIR / f"recipe.{arm.recipe}.yaml").read_text(encoding="utf-8"))
    assert (recipe["weighting"]["type"], recipe["data"]["policy_rows"]) == (arm.name, arm.usual_rows)


def test_one_arm_is_the_method_and_one_what_it_is_compared_with():
    assert (BASELINE.name, METHOD.name) == ("uniform", "td")
    assert [arm.name for arm in arms_of("placement")] == ["shuffled", "matched_random"]


def test_an_arm_of_another_version_is_shown_last_and_as_nothing_that_is_compared_for():
    assert arm_named("of_next_year").role == "other"
    assert place_in_reports("of_next_year") > max(map(place_in_reports, ARMS))
    names = ["of_next_year", *ARMS]
    assert most_telling_first(names) == [
        "td",
        "drop",
        "signed",
        "sequence_reward",
        "shuffled",
        "matched_random",
        "rho1",
        "contrast",
        "dft",
        "diff",
        "oracle",
        "oracle_drop",
        "surprisal",
        "uniform",
        "of_next_year",
    ]


def test_the_documents_show_the_table():
    assert arms_table() in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    controls = [arm.name for arm in ARMS.values() if arm.role not in ("method", "rival", "ceiling")]
    rivals = [arm.name for arm in arms_of("rival") if arm.recipe is None]
    ceilings = [arm.name for arm in arms_of("ceiling")]
    for readme in (ROOT / "README.md", KOREAN):
        text = readme.read_text(encoding="utf-8")
        lists = [" | ".join(each) for each in (controls, rivals, ceilings)]
        assert re.findall(r"`weighting\.type=([^`]*\|[^`]*)`", text) == lists, readme.name
        assert [arm.recipe for arm in ARMS.values() if arm.recipe and f"| `{arm.recipe}` |" not in text] == []
