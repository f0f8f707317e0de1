import pytest

from wmtp_ray.config.arguments import Arguments, parse_arguments
from wmtp_ray.errors import ConfigError


def refused(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(argv)
    return str(caught.value)


def test_every_form_is_read():
    argv = ["recipe=verifiable", "preset=cpu", "train.max_steps=3", "--dry-run", "--resume", "--run-name", "first"]
    assert parse_arguments([*argv, "--tags", "team=a", "note=b=c"]) == Arguments(
        recipe="verifiable",
        preset="cpu",
        run_name="first",
        overrides=("train.max_steps=3",),
        tags={"team": "a", "note": "b=c"},
        dry_run=True,
        resume=True,
    )


@pytest.mark.parametrize("words", [["run_name=X"], ["--run-name=X"], ["--run-name", "X"]])
def test_run_name_has_three_forms(words):
    assert parse_arguments(["recipe=baseline", *words]).run_name == "X"


def test_last_of_two_wins():
    arguments = parse_arguments(["recipe=baseline", "preset=cpu", "recipe=verifiable", "preset=a100-1"])
    assert (arguments.recipe, arguments.preset) == ("verifiable", "a100-1")


@pytest.mark.parametrize(
    ("words", "name"),
    [(["run_name=a", "--run-name", "b"], "b"), (["--run-name=b", "--resume", "run_name=a"], "a")],
)
def test_a_flag_and_the_word_that_it_stands_for_keep_their_order(words, name):
    assert parse_arguments(["recipe=baseline", *words]).run_name == name


def test_a_directory_of_ones_own_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_arguments(["recipe=baseline", "--config-dir", "mine"]).config_dir == tmp_path / "mine"
    assert "expected --config-dir DIR" in refused("recipe=baseline", "--config-dir")


def test_a_configuration_key_ends_the_tags():
    arguments = parse_arguments(["--tags=team=a", "model=7b", "weighting.beta=0.5", "recipe=baseline", "seed=3"])
    assert arguments.tags == {"team": "a", "model": "7b"}
    assert arguments.overrides == ("weighting.beta=0.5", "seed=3")


def test_a_misspelt_key_after_tags_is_no_tag():
    assert parse_arguments(["recipe=baseline", "--tags", "a=b", "weighting.bta=0.5"]).overrides == (
        "weighting.bta=0.5",
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_needs_no_recipe_and_shows_every_flag(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments([flag])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    flags = ("--dry-run", "--resume", "--run-name", "--dataset-suffix", "--use-micro-model", "--config-dir", "--tags")
    assert [flag for flag in (*flags, "recipe=NAME", "sweep=NAME") if flag not in shown] == []


def test_missing_recipe_says_what_to_give():
    assert "no recipe was given; expected recipe=NAME" in refused("preset=cpu")


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("--dryrun", "did you mean --dry-run?"),
        ("--run_nam=x", "did you mean run_name=x?"),
        ("--recipe=baseline", "did you mean recipe=baseline?"),
        ("--weighting.beta=0.5", "did you mean weighting.beta=0.5?"),
        ("--zzz", "expected one of: --dry-run, --resume"),
    ],
)
def test_unknown_flag_suggests_the_nearest(word, suggestion):
    message = refused("recipe=baseline", word)
    assert f"unknown flag {word}" in message
    assert suggestion in message


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("dry-run", "did you mean --dry-run?"),
        ("weighting.beta", "did you mean weighting.beta=VALUE?"),
        ("verifiable", "expected recipe=NAME"),
        ("=3", "is not of the form key=value"),
        ("weighting..beta=3", "is not of the form key=value"),
        ("preset=", "expected preset=NAME"),
    ],
)
def test_word_of_no_known_form_suggests_one(word, suggestion):
    message = refused("recipe=baseline", word)
    assert repr(word) in message
    assert suggestion in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--run-name"], "expected --run-name NAME"),
        (["--run-name", "--resume"], "expected --run-name NAME"),
        (["--tags"], "stands without a tag; expected --tags NAME=TEXT"),
        (["--tags", "plain"], "is followed by plain; expected --tags NAME=TEXT"),
    ],
)
def test_flag_without_its_value_is_refused(words, expected):
    assert expected in refused("recipe=baseline", *words)


def test_every_misplaced_word_is_listed():
    message = refused("--dryrun", "verifiable")
    assert all(part in message for part in ("--dryrun", "'verifiable'", "no recipe was given"))
