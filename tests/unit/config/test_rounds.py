"""The keys of a run in rounds: what cannot work is refused at once, and an ordinary run knows nothing of them."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.dotted_leaves import dotted_leaves
from wmtp_ray.config.load import check_files, dump_config, load_config, load_resolved, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.preflight.run_directory import check_run_directory, claim_run_directory

PROBLEMS = "rounds.problems=train_problems.jsonl"


def loaded(*words: str, recipe: str = "online") -> RunConfig:
    return load_config(parse_arguments([f"recipe={recipe}", *words]), now=datetime(2026, 1, 1))


@pytest.mark.parametrize("recipe", ["baseline", "verifiable", "rho1_weighted"])
def test_an_ordinary_recipe_has_no_rounds_and_reads_its_file(recipe):
    words = ["reference.path=somewhere"] if recipe == "rho1_weighted" else []
    rounds = loaded(*words, recipe=recipe).rounds
    assert (rounds.count, rounds.collects, rounds.reads_file) == (None, False, True)


def test_rounds_is_a_word_for_the_number_of_rounds_and_no_tag():
    config = loaded("rounds=5", PROBLEMS)
    assert (config.rounds.count, config.rounds.collects) == (5, True)
    config = loaded("--tags", "team=a", "rounds=2", PROBLEMS)
    assert (config.rounds.count, config.tags) == (2, {"team": "a"})


def test_rejection_sampling_is_a_recipe_of_correct_rows_and_equal_weights_without_a_critic():
    config = loaded(PROBLEMS, recipe="online_rejection")
    assert (config.weighting.type, config.data.policy_rows, config.uses_critic) == ("uniform", "correct_only", False)
    assert (config.stages, config.rounds.count) == ((0, 2, 3), loaded(PROBLEMS).rounds.count)


@pytest.mark.parametrize(("recipe", "ordinary"), [("online", "verifiable"), ("online_rejection", "baseline")])
def test_a_recipe_in_rounds_is_an_ordinary_one_but_for_the_number_of_rounds(recipe, ordinary):
    in_rounds, alone = (dict(dotted_leaves(loaded(recipe=name).model_dump(mode="json"))) for name in (recipe, ordinary))
    differing = {key for key in in_rounds | alone if in_rounds.get(key) != alone.get(key)}
    assert differing == {"recipe", "run_name", "rounds.count"}


@pytest.mark.parametrize(
    ("keep", "kept"), [("all", [0, 1, 2, 3, 4, 5]), ("last", [5]), ("1", [5]), ("2", [4, 5]), ("9", [0, 1, 2, 3, 4, 5])]
)
def test_keep_says_whose_rows_round_5_trains_on(keep, kept):
    assert list(loaded(PROBLEMS, f"rounds.keep={keep}").rounds.kept(5)) == kept


def test_a_share_of_all_or_nothing_needs_one_side_alone(tmp_path):
    nothing = loaded("rounds.share_collected=0").rounds
    assert (nothing.collects, nothing.reads_file) == (False, True)
    everything = loaded("rounds.share_collected=1", PROBLEMS).rounds
    assert (everything.collects, everything.reads_file) == (True, False)
    with pytest.raises(ConfigError) as refusal:
        check_files(loaded("rounds.share_collected=1", PROBLEMS, f"storage_root={tmp_path}"))
    assert "rounds.problems" in str(refusal.value)
    assert "data.train_file" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([PROBLEMS, "rounds=0"], "expected a whole number of at least 1"),
        ([PROBLEMS, "rounds=-1"], "expected a whole number of at least 1"),
        ([PROBLEMS, "rounds=two"], "expected a whole number of at least 1"),
        ([PROBLEMS, "rounds.keep=0"], "expected all, last, or a number of rounds of 1 or more"),
        ([PROBLEMS, "rounds.keep=first"], "expected all, last, or a number of rounds of 1 or more"),
        ([PROBLEMS, "rounds.share_collected=1.5"], "expected a number from 0 to 1"),
        ([PROBLEMS, "rounds.num_samples=0"], "expected a whole number of at least 1"),
        ([PROBLEMS, "rounds.temperature=0"], "give a temperature above 0"),
        ([PROBLEMS, "rounds.until_both=2"], "give both or neither"),
        ([PROBLEMS, "rounds.max_samples=20"], "give both or neither"),
        ([PROBLEMS, "rounds.until_both=2", "rounds.max_samples=3"], "raise max_samples"),
        ([PROBLEMS, "rounds.until_both=2", "rounds.max_samples=9", "rounds.max_correct=1"], "raise max_correct"),
        ([PROBLEMS, "evaluation.engine=openai", "engine.url=http://localhost:8000/v1"], "evaluation.engine=native"),
        ([PROBLEMS, "run_name=sweep/trial"], "give a name without a slash"),
    ],
)
def test_a_mistake_is_refused_with_its_remedy(words, said):
    with pytest.raises(ConfigError) as refusal:
        loaded(*words)
    assert said in str(refusal.value)


def test_a_missing_file_of_problems_is_named_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        check_files(loaded(f"storage_root={tmp_path}"))
    missing = tmp_path / "datasets_v2/codecontests/processed/train_problems.jsonl"
    assert f"rounds.problems: {missing} does not exist" in str(refusal.value)


def test_a_saved_configuration_comes_back_equal_and_one_of_before_there_were_rounds_has_none(tmp_path: Path):
    config = loaded(PROBLEMS, "rounds.keep=3", "rounds.share_collected=null")
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(config))
    assert load_resolved(saved) == config
    saved.write_text(without_rounds(dump_config(loaded(recipe="verifiable"))))
    assert load_resolved(saved).rounds.count is None


def without_rounds(text: str) -> str:
    """A config.yaml as it was before there were rounds."""
    start, end = text.index("rounds:\n"), text.index("weighting:\n")
    return text[:start] + text[end:]


def test_an_ordinary_run_of_before_there_were_rounds_is_resumed_by_the_same_command(tmp_path):
    words = [f"storage_root={tmp_path}", "run_name=old"]
    config = loaded(*words, recipe="verifiable")
    config.run_dir.mkdir(parents=True)
    config.folder.config.write_text(without_rounds(dump_config(config)))
    check_run_directory(config, resume=True)
    with pytest.raises(ConfigError, match=r"rounds\.count: found 3, started with None"):
        check_run_directory(loaded(*words, "rounds=3", recipe="verifiable"), resume=True)


@pytest.mark.parametrize("word", ["rounds=4", "rounds.keep=last", "rounds.num_samples=5", "weighting.beta=0.5"])
def test_a_run_in_rounds_is_resumed_with_its_own_settings_alone(tmp_path, word):
    words = [f"storage_root={tmp_path}", "run_name=mine"]
    config = loaded(*words)
    claim_run_directory(config)
    check_run_directory(config, resume=True)
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        check_run_directory(loaded(*words, word), resume=True)
    with pytest.raises(ConfigError, match="add --resume"):
        check_run_directory(config, resume=False)
