"""The keys of a server that decodes: what cannot work is refused at once, and no secret is repeated or saved."""

from datetime import datetime

import pytest

from wmtp_ray.config.load import dump_config, load_config, load_resolved, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError

SERVED = ("evaluation.engine=openai", "engine.url=http://localhost:8000/v1")


def loaded(*words: str) -> RunConfig:
    return load_config(parse_arguments(["recipe=baseline", *words]), now=datetime(2026, 1, 1))


def test_no_server_is_asked_unless_the_configuration_says_so():
    config = loaded()
    assert (config.evaluation.engine, config.engine.url) == ("native", None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.example.com/some/v1", "https://api.example.com/some/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://node-7", "http://node-7"),
    ],
)
def test_an_address_is_kept_without_its_last_slash(given, kept):
    assert loaded("evaluation.engine=openai", f"engine.url={given}").engine.url == kept


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("ftp://host/v1", "expected http:// or https://"),
        ("http:///v1", "expected http:// or https:// and a host"),
        ("http://host:port/v1", "found what is no address"),
        ("http://host:8000/v1/completions", "expected what stands before it"),
        ("http://host:8000/v1/chat/completions/", "expected what stands before it"),
        ("http://user:secret@host/v1", "engine.api_key_env"),
        ("http://secret@host/v1", "engine.api_key_env"),
        ("https://host/v1?api-key=secret", "engine.api_key_env"),
        ("https://host/v1#secret", "engine.api_key_env"),
    ],
)
def test_any_other_address_is_refused_and_no_secret_repeated(given, words):
    with pytest.raises(ConfigError) as error:
        loaded("evaluation.engine=openai", f"engine.url={given}")
    assert words in str(error.value)
    assert "secret" not in str(error.value)


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="never the key itself") as error:
        loaded(*SERVED, "engine.api_key_env=sk-proj-abc")
    assert "sk-proj" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluation.engine=openai",), "no server is named; give engine.url"),
        (("engine.url=http://localhost:8000/v1",), "the server would not be asked; set evaluation.engine=openai"),
        ((*SERVED, "engine.request_s=100", "engine.silence_s=50"), "raise silence_s or lower request_s"),
        ((*SERVED, "deadlines.evaluation_s=60"), "is not below deadlines.evaluation_s=60"),
        ((*SERVED, "engine.api=responses"), "one of completions, chat"),
        ((*SERVED, "engine.max_in_flight=0"), "engine.max_in_flight"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        loaded(*words)


def test_a_saved_configuration_holds_the_address_and_the_name_of_the_variable_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    config = loaded(*SERVED, "engine.api_key_env=MY_KEY")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert "sk-secret" not in path.read_text()
    assert load_resolved(path) == config


def test_a_configuration_from_before_there_were_servers_decodes_here(tmp_path):
    path = tmp_path / "config.yaml"
    lines = dump_config(loaded()).splitlines()
    begin = lines.index("engine:")
    end = next(n for n in range(begin + 1, len(lines)) if not lines[n].startswith(" "))
    path.write_text("\n".join(line for line in lines[:begin] + lines[end:] if line != "  engine: native"))
    assert load_resolved(path) == loaded()
