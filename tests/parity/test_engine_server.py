"""A real server, `transformers serve` with an export of a nano model, continues prompts as our own decoder does."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
import pytest
import torch

from tests.unit.evaluation.examples import instruction_record, write_lines
from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, save_transformer
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.config.evaluation import FormatName
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import EngineError
from wmtp_ray.evaluation.decoding import Decoded, DecodingSettings, decode
from wmtp_ray.evaluation.engine import decode_served, find_served_model
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.prompts import FORMATS

transformers = pytest.importorskip("transformers")
needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("openai", "fastapi", "uvicorn")),
    reason="`transformers serve` needs openai, fastapi and uvicorn: pip install 'wmtp_ray[serve]'",
)

START_S = 120.0
NUM_BYTE_PIECES = 256
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


@dataclass(frozen=True)
class Nano:
    """A model in our layout, and its export."""

    directory: Path
    export: Path


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Nano:
    """A random model that never says a single byte: broken characters are spelled differently by every library."""
    root = tmp_path_factory.mktemp("nano")
    directory = root / "ours"
    args = ModelArgs(dim=32, n_layers=2, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
    make_micro_model(directory, args, seed=11, dtype=torch.float32)
    train_tokenizer([str(record["prompt"]) + record["test"] for record in RECORDS], directory / "tokenizer.model", 320)
    model = load_transformer(directory, dtype=torch.float32)
    with torch.no_grad():
        model.output.weight[3 : 3 + NUM_BYTE_PIECES] = 0.0
        model.output.weight[320:] = 0.0  # ids that the tokenizer does not have
        model.output.weight[2] *= 0.3  # an end now and then
    save_transformer(directory, model, dtype=torch.float32)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    export_model(args, dict(model.state_dict()), directory / "tokenizer.model", root / "hf")
    return Nano(directory, root / "hf")


RECORDS = [instruction_record(number) for number in range(6)]


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@contextmanager
def serving(nano: Nano, port: int, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the server until the block ends."""
    command = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(nano.export), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = home / "serve.log"
    with log.open("ab") as file:
        server = subprocess.Popen([sys.executable, "-c", command, *words], env=environment, stdout=file, stderr=file)
        try:
            await_health(server, port, log)
            yield server
        finally:
            server.kill()
            server.wait()


def await_health(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"no server came up:\n{log.read_text()}")


@pytest.fixture(scope="module")
def server(nano: Nano, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[bytes]"]:
    with serving(nano, port, tmp_path_factory.mktemp("hub")) as process:
        yield process


def engine(nano: Nano, port: int, *words: str) -> EngineConfig:
    given = ["evaluation.engine=openai", f"engine.url=http://127.0.0.1:{port}/v1", f"engine.model={nano.export}"]
    return load_config(parse_arguments(["recipe=baseline", *given, *words]), now=datetime(2026, 1, 1)).engine


def answers_to(folder: Path, name: FormatName, num_samples: int = 1) -> tuple[DecodedAnswers, Ledger]:
    folder.mkdir(exist_ok=True)
    problems = read_problems(write_lines(folder / "problems.jsonl", RECORDS))
    return DecodedAnswers(problems, None, FORMATS[name], num_samples), Ledger(folder / "ledger", problems.kind)


def greedy(name: FormatName) -> DecodingSettings:
    return DecodingSettings(24, 0.0, 1.0, FORMATS[name].stop, 0)


def served_answers(
    nano: Nano, config: EngineConfig, folder: Path, name: FormatName, settings: DecodingSettings, num_samples: int = 1
) -> dict[str, Decoded]:
    answers, ledger = answers_to(folder, name, num_samples)
    served = find_served_model(config)
    return {each.key: each for each in decode_served(config, served, answers.text_requests(ledger, 0), settings)}


def test_the_text_of_a_prompt_has_the_tokens_that_our_decoder_reads(nano, tmp_path):
    """The tokenizer of an export adds the begin token itself."""
    answers, ledger = answers_to(tmp_path, "instruct")
    ours = CodeTokenizer(nano.directory / "tokenizer.model")
    theirs = transformers.AutoTokenizer.from_pretrained(nano.export)
    texts, ids = answers.text_requests(ledger, 0), answers.requests(ledger, ours, 0)
    assert [each.key for each in texts] == [each.key for each in ids]
    assert [each.seed for each in texts] == [each.seed for each in ids]
    assert [tuple(theirs(each.text).input_ids) for each in texts] == [each.prompt_ids for each in ids]


@needs_server
@pytest.mark.parametrize(("name", "api"), [("instruct", "completions"), ("chat", "chat")])
def test_greedy_answers_of_the_server_are_those_of_our_decoder(nano, port, server, tmp_path, name, api):
    answers, ledger = answers_to(tmp_path / "ours", name)
    tokenizer = CodeTokenizer(nano.directory / "tokenizer.model")
    model = load_transformer(nano.directory, dtype=torch.float32)
    requests = answers.requests(ledger, tokenizer, 0)
    ours = {each.key: each for each in decode(model, tokenizer, requests, greedy(name), batch_size=4)}
    theirs = served_answers(nano, engine(nano, port, f"engine.api={api}"), tmp_path, name, greedy(name))
    assert theirs.keys() == ours.keys()
    for key, each in theirs.items():
        assert (each.text, each.num_tokens) == (ours[key].text, ours[key].num_tokens)
        assert each.finish == {"end": "stop"}.get(ours[key].finish, ours[key].finish), "a server calls both stop"
        assert each.served is not None
        assert str(nano.export) in each.served.model, "the server's own name"
    assert max(each.num_tokens for each in theirs.values()) == 24, "some answer is as long as it may be"


@needs_server
def test_a_server_that_is_killed_costs_what_was_in_flight_and_goes_on_when_it_is_back(nano, port, tmp_path):
    """Killed after its first answer; the rest is an error after the deadline, and then has its answers."""
    answers, ledger = answers_to(tmp_path, "instruct")
    words = ["engine.request_s=2", "engine.silence_s=3", "engine.max_in_flight=1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own_port = free.getsockname()[1]
    config, first = engine(nano, own_port, *words), []
    home = tmp_path / "hub"
    home.mkdir()
    with serving(nano, own_port, home) as process, pytest.raises(EngineError, match=r"engine\.silence_s") as error:  # noqa: PT012
        for each in decode_served(
            config, find_served_model(config), answers.text_requests(ledger, 0), greedy("instruct")
        ):
            first.append(each)
            ledger.add_samples([answers.sample_of(each)])
            process.kill()
    assert "start it again at the same address" in str(error.value)
    left = answers.text_requests(ledger, 0)
    assert 1 <= len(first) < len(RECORDS)
    assert len(left) == len(RECORDS) - len(first)
    with serving(nano, own_port, home):
        rest = list(decode_served(config, find_served_model(config), left, greedy("instruct")))
    assert {each.key for each in first} | {each.key for each in rest} == {f"list_{n}#0" for n in range(len(RECORDS))}
