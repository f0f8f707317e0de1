"""Which model a server has, asked before anything starts; a server that is not there is refused with its remedy."""

import socket
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from tests.unit.evaluation.engine.small_server import Asked, Reply, answering, models
from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.engine import back_off, find_served_model
from wmtp_ray.evaluation.served import ServedModel


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def engine(url: str, **changes: Any) -> EngineConfig:
    words = ["recipe=baseline", "evaluation.engine=openai", f"engine.url={url}"]
    config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
    return EngineConfig.model_validate(config.engine.model_dump() | {"connect_s": 0.3} | changes)


def test_the_only_model_of_a_server_is_the_one():
    with answering(lambda asked: models("policy", root="/models/policy")) as server:
        assert find_served_model(engine(server.url)) == ServedModel(
            server.url, "completions", "policy", "/models/policy"
        )
    assert server.asked[0].path == "/v1/models"


def test_of_several_models_one_is_named():
    with answering(lambda asked: models("one", "two")) as server:
        with pytest.raises(ConfigError, match=r"lists 2 models \(one, two\), expected one; set engine\.model"):
            find_served_model(engine(server.url))
        assert find_served_model(engine(server.url, model="two", api="chat")).model == "two"
        unlisted = find_served_model(engine(server.url, model="three"))
    assert (unlisted.model, unlisted.root) == ("three", None), "some servers answer for models that they do not list"


def test_a_server_without_a_model_is_refused():
    with answering(lambda asked: models()) as server, pytest.raises(ConfigError, match="lists 0 models, expected one"):
        find_served_model(engine(server.url))


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_server_without_a_list_needs_a_name(status):
    with answering(lambda asked: Reply(status)) as server:
        assert find_served_model(engine(server.url, model="policy")).model == "policy"
        with pytest.raises(ConfigError, match=r"engine\.model|engine\.connect_s"):
            find_served_model(engine(server.url))


def test_a_server_that_is_still_loading_is_waited_for():
    def answer(asked: Asked) -> Reply:
        return models("policy") if asked.number > 2 else Reply(503, b"loading")

    with answering(answer) as server:
        assert find_served_model(engine(server.url, connect_s=20.0)).model == "policy"
    assert len(server.asked) == 4


def test_a_server_that_starts_late_is_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: list[ServedModel] = []
    config = engine(f"http://127.0.0.1:{port}/v1", connect_s=20.0)
    thread = threading.Thread(target=lambda: found.append(find_served_model(config)))
    thread.start()
    time.sleep(0.2)
    with answering(lambda asked: models("policy"), port=port):
        thread.join(timeout=20.0)
    assert [each.model for each in found] == ["policy"]


def test_nobody_at_the_address_is_refused_with_what_to_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(
            ConfigError, match=r"did not answer within 0\.3 s .*ConnectError.*start the server"
        ) as error:
            find_served_model(engine(url, model="policy"))
    assert url in str(error.value)


def test_a_server_that_hangs_is_refused_after_the_deadline():
    began = time.monotonic()
    with (
        answering(lambda asked: Reply(wait_s=30.0)) as server,
        pytest.raises(ConfigError, match="did not answer within"),
    ):
        find_served_model(engine(server.url))
    assert time.monotonic() - began < 10.0


def test_a_web_page_is_no_server():
    page = Reply(content=b"<html>hello</html>")
    message = r"found no list of models, .*base address, which mostly ends in /v1"
    with answering(lambda asked: page) as server, pytest.raises(ConfigError, match=message):
        find_served_model(engine(server.url))


def test_a_missing_key_is_said_with_the_name_of_its_variable(monkeypatch):
    def answer(asked: Asked) -> Reply:
        return models("policy") if asked.headers.get("Authorization") == "Bearer sk-1" else Reply(401, b"no key")

    with answering(answer) as server:
        with pytest.raises(ConfigError, match=r"MY_KEY \(engine\.api_key_env\) is not set: export it"):
            find_served_model(engine(server.url, api_key_env="MY_KEY"))
        monkeypatch.setenv("MY_KEY", "sk-1")
        assert find_served_model(engine(server.url, api_key_env="MY_KEY")).model == "policy"
