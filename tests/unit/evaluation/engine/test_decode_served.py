"""A server that fails in every way costs no finished answer; what it is asked and what is kept of its answers."""

import itertools
import logging
import socket
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from tests.unit.evaluation.engine.small_server import Asked, Reply, answering, chat, completion
from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.errors import ConfigError, EngineError
from wmtp_ray.evaluation.continuation import FunctionEnd
from wmtp_ray.evaluation.decoding import DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.engine import back_off, decode_served
from wmtp_ray.evaluation.served import Served, ServedModel

SETTINGS = DecodingSettings(max_new_tokens=20, temperature=0.7, top_p=0.9, stop=("\nassert ",), draft_horizons=0)
KEY = "OPENAI_API_KEY"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST_S", 0.01)
    monkeypatch.delenv(KEY, raising=False)


def engine(url: str, **changes: Any) -> EngineConfig:
    config = load_config(
        parse_arguments(["recipe=baseline", "evaluation.engine=openai", f"engine.url={url}"]), now=datetime(2026, 1, 1)
    )
    return EngineConfig.model_validate(config.engine.model_dump() | changes)


def requests(number: int, **changes: Any) -> list[DecodingRequest]:
    return [DecodingRequest(f"t/{n}#0", (), (1 << 40) + n, text=f"prompt {n}", **changes) for n in range(number)]


def decoded(
    asked: list[DecodingRequest], config: EngineConfig, settings: DecodingSettings = SETTINGS
) -> dict[str, str]:
    assert config.url is not None
    served = ServedModel(config.url, config.api, "policy", None)
    return {each.key: each.text for each in decode_served(config, served, asked, settings)}


def expected(number: int) -> dict[str, str]:
    return {f"t/{n}#0": f" to prompt {n}" for n in range(number)}


def echo(asked: Asked) -> Reply:
    return completion(f" to {asked.body['prompt']}")


def test_every_request_has_its_own_answer_and_no_more_are_in_flight_than_allowed():
    with answering(lambda asked: Reply(content=echo(asked).content, wait_s=0.02)) as server:
        assert decoded(requests(12), engine(server.url, max_in_flight=3)) == expected(12)
    assert len(server.asked) == 12
    assert server.at_once == 3


def test_a_request_says_all_that_shapes_its_answer():
    with answering(echo) as server:
        list(decoded(requests(1), engine(server.url)))
        list(decoded(requests(1), engine(server.url, send_seed=False)))
    first, second = server.asked
    assert first.path == "/v1/completions"
    assert first.body == {
        "model": "policy", "prompt": "prompt 0", "temperature": 0.7, "top_p": 0.9, "max_tokens": 20,
        "stop": ["\nassert "], "seed": (1 << 40) % (1 << 31),
    }  # fmt: skip
    assert second.body.keys() == first.body.keys() - {"seed"}
    assert "Authorization" not in first.headers


def test_a_chat_is_one_message_of_a_user():
    with answering(lambda asked: chat("hello")) as server:
        config = engine(server.url, api="chat")
        assert decoded(requests(1), config) == {"t/0#0": "hello"}
    assert server.asked[0].path == "/v1/chat/completions"
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "prompt 0"}]
    assert "prompt" not in server.asked[0].body


def test_a_chat_without_content_is_an_empty_answer():
    with answering(lambda asked: chat(None)) as server:
        assert decoded(requests(1), engine(server.url, api="chat")) == {"t/0#0": ""}


def test_an_answer_keeps_the_servers_name_for_the_model_its_address_and_the_seed():
    with answering(lambda asked: completion("x", "length", tokens=7, model="policy-2026")) as server:
        config = engine(server.url)
        served = ServedModel(server.url, "completions", "policy", None)
        [found] = decode_served(config, served, requests(1), SETTINGS)
        [other] = decode_served(engine(server.url, send_seed=False), served, requests(1), SETTINGS)
    assert found.served == Served("policy-2026", server.url, (1 << 40) % (1 << 31), 7)
    assert (found.ids, found.finish, found.num_tokens, found.num_forwards) == ((), "length", 7, 0)
    assert other.served is not None
    assert other.served.seed is None, "none was sent"


def test_an_answer_without_a_count_of_tokens_is_an_answer():
    with answering(lambda asked: completion("x", tokens=None)) as server:
        served = ServedModel(server.url, "completions", "policy", None)
        [found] = decode_served(engine(server.url), served, requests(1), SETTINGS)
    assert found.num_tokens == 0


def test_a_stop_string_that_the_server_left_in_is_cut():
    with answering(lambda asked: completion("x = 1\nassert x\nassert y", "stop")) as server:
        served = ServedModel(server.url, "completions", "policy", None)
        [found] = decode_served(engine(server.url), served, requests(1), SETTINGS)
    assert (found.text, found.raw_text) == ("x = 1", "x = 1\nassert x\nassert y")


def test_an_answer_ends_with_its_function_as_a_decoder_of_ours_ends_it():
    head = "def f(x):\n"
    with answering(lambda asked: completion("    return g(x)\n\ndef g(x):\n    return x\n\nprint(f(1))\nprint(2)\n", "length")) as server:  # fmt: skip  # noqa: E501
        served = ServedModel(server.url, "completions", "policy", None)
        asked = requests(1, is_finished=FunctionEnd(head, "f"))
        [found] = decode_served(engine(server.url), served, asked, SETTINGS)
    assert found.text == "    return g(x)\n\ndef g(x):\n    return x\n\nprint(f(1))\n", (
        "with the line that shows the end"
    )
    assert found.finish == "stop"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_a_failure_that_may_pass_is_asked_again(status):
    with answering(lambda asked: Reply(status) if asked.times < 2 else echo(asked)) as server:
        assert decoded(requests(3), engine(server.url)) == expected(3)
    assert len(server.asked) == 9


def test_the_wait_that_the_server_asks_for_is_kept():
    came: list[float] = []

    def answer(asked: Asked) -> Reply:
        came.append(time.monotonic())
        return Reply(429, headers={"Retry-After": "1"}) if asked.times == 0 else echo(asked)

    with answering(answer) as server:
        assert decoded(requests(1), engine(server.url)) == expected(1)
    assert came[1] - came[0] >= 1.0


def test_half_an_answer_is_asked_again():
    def answer(asked: Asked) -> Reply:
        whole = echo(asked).content
        return Reply(content=whole, sent_frac=0.5 if asked.times == 0 else 1.0)

    with answering(answer) as server:
        assert decoded(requests(2), engine(server.url)) == expected(2)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "torn",
    [b"", b"<html>busy</html>", b'{"choices": []}', b'{"choices": [{"text": "x"}]}',
     b'{"choices": [{"finish_reason": "stop"}]}',
     b'{"choices": [{"text": "x", "finish_reason": "abort"}]}', b'{"choices": [{"text": "x"'],
)  # fmt: skip
def test_what_is_no_whole_answer_is_asked_again(torn):
    with answering(lambda asked: Reply(content=torn) if asked.times == 0 else echo(asked)) as server:
        assert decoded(requests(1), engine(server.url)) == expected(1)
    assert len(server.asked) == 2


def test_a_request_that_hangs_is_given_up_and_asked_again():
    def answer(asked: Asked) -> Reply:
        return Reply(content=echo(asked).content, wait_s=30.0 if asked.times == 0 else 0.0)

    began = time.monotonic()
    with answering(answer) as server:
        assert decoded(requests(2), engine(server.url, request_s=0.2)) == expected(2)
    assert time.monotonic() - began < 10.0


def answered_before_the_error(asked: list[DecodingRequest], config: EngineConfig) -> tuple[dict[str, str], str]:
    assert config.url is not None
    found: dict[str, str] = {}
    with pytest.raises(EngineError) as error:  # noqa: PT012
        for each in decode_served(config, ServedModel(config.url, "completions", "policy", None), asked, SETTINGS):
            found[each.key] = each.text
    return found, str(error.value)


def test_a_server_that_falls_silent_is_an_error_after_the_answers_that_it_gave():
    def answer(asked: Asked) -> Reply:
        return echo(asked) if asked.body["prompt"] != "prompt 1" else Reply(wait_s=30.0)

    with answering(answer) as server:
        config = engine(server.url, request_s=0.3, silence_s=0.5, max_in_flight=2)
        found, error = answered_before_the_error(requests(6), config)
    assert found == {key: text for key, text in expected(6).items() if key != "t/1#0"}
    for word in (
        server.url,
        "0.5 s (engine.silence_s)",
        "1 are missing",
        "engine.request_s",
        "the same command goes on",
    ):
        assert word in error


def test_one_request_that_always_fails_keeps_no_other_from_its_answer():
    def answer(asked: Asked) -> Reply:
        return echo(asked) if asked.body["prompt"] != "prompt 0" else Reply(500, b"out of memory")

    with answering(answer) as server:
        config = engine(server.url, request_s=0.5, silence_s=0.5, max_in_flight=1)
        found, error = answered_before_the_error(requests(1), config)
        config = engine(server.url, request_s=0.5, silence_s=0.5, max_in_flight=2)
        others, _ = answered_before_the_error(requests(5), config)
    assert found == {}
    assert "status 500: out of memory" in error
    assert others == {key: text for key, text in expected(5).items() if key != "t/0#0"}


def test_nobody_at_the_address_is_an_error_that_says_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        found, error = answered_before_the_error(requests(2), engine(url, request_s=0.3, silence_s=0.4))
    assert found == {}
    assert "ConnectError" in error
    assert "start it again at the same address" in error


def test_a_server_that_comes_back_at_its_address_goes_on():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch, socket.socket() as held:
        patch.setattr(back_off, "LONGEST_S", 0.05)
        held.bind(("127.0.0.1", port))  # bound, not listening: a connection is refused
        found: dict[str, str] = {}
        config = engine(f"http://127.0.0.1:{port}/v1")
        thread = threading.Thread(target=lambda: found.update(decoded(requests(2), config)))
        thread.start()
        time.sleep(0.2)
        held.close()
        with answering(echo, port=port):
            thread.join(timeout=20.0)
    assert found == expected(2)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(400, b"maximum context length is 128"), ["maximum context length", "evaluation.max_new_tokens"]),
        (Reply(401, b"no key"), ["OPENAI_API_KEY", "is not set"]),
        (Reply(404, b"Not Found"), ["engine.url", "/v1", "engine.model"]),
        (Reply(422, b"Unexpected fields: seed"), ["engine.send_seed=false"]),
        (Reply(307, b"", {"Location": "https://elsewhere"}), ["https://elsewhere", "engine.url"]),
        (Reply(501, b"no such thing"), ["status 501"]),
    ],
)  # fmt: skip
def test_a_refusal_is_an_error_at_once_with_its_remedy(reply, words):
    with answering(lambda asked: reply) as server:
        found, error = answered_before_the_error(requests(5), engine(server.url, max_in_flight=1))
    assert found == {}
    assert len(server.asked) == 1, "it would be refused again"
    for word in [*words, "t/0#0", "the same command goes on"]:
        assert word in error


def test_what_is_in_flight_when_another_request_is_refused_is_kept():
    def answer(asked: Asked) -> Reply:
        if asked.body["prompt"] == "prompt 1":
            return Reply(400, wait_s=0.1)
        return Reply(content=echo(asked).content, wait_s=0.3)

    with answering(answer) as server:
        found, _ = answered_before_the_error(requests(9), engine(server.url, max_in_flight=2))
    assert found == {"t/0#0": " to prompt 0"}
    assert len(server.asked) == 2, "no other is asked"


def test_a_lane_that_waits_for_long_does_not_hold_back_a_refusal():
    def answer(asked: Asked) -> Reply:
        waits = asked.body["prompt"] == "prompt 0"
        return Reply(429, headers={"Retry-After": "600"}) if waits else Reply(400, wait_s=0.1)

    began = time.monotonic()
    with answering(answer) as server:
        answered_before_the_error(requests(2), engine(server.url))
    assert time.monotonic() - began < 10.0


def test_a_caller_that_stops_early_ends_the_requests():
    with answering(lambda asked: Reply(content=echo(asked).content, wait_s=0.05)) as server:
        served = ServedModel(server.url, "completions", "policy", None)
        iterator = decode_served(engine(server.url, max_in_flight=1), served, requests(50), SETTINGS)
        assert len(list(itertools.islice(iterator, 2))) == 2
        iterator.close()
        number = len(server.asked)
        time.sleep(0.2)
        assert len(server.asked) == number < 50
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", "sk-secret-123\n")

    def answer(asked: Asked) -> Reply:
        status = 500 if asked.times == 0 else 401
        return Reply(status, f"wrong key: {asked.headers['Authorization']}".encode())

    with answering(answer) as server:
        _, error = answered_before_the_error(requests(1), engine(server.url, api_key_env="MY_KEY"))
    assert [each.headers["Authorization"] for each in server.asked] == ["Bearer sk-secret-123"] * 2
    assert "wrong key: Bearer (key)" in error
    assert "MY_KEY (engine.api_key_env) is set" in error
    assert "sk-secret" not in error + caplog.text
    assert "status 500" in caplog.text, "what is repeated is warned of"


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv(KEY, "sk-one\nsk-two")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: found characters") as error:
        decoded(requests(1), engine("http://127.0.0.1:9/v1"))
    assert "sk-" not in str(error.value)


def test_nothing_to_ask_asks_nothing():
    assert decoded([], engine("http://127.0.0.1:9/v1")) == {}
