"""A small world for runs: generated problems, a tokenizer, a nano model. Shared by the tests that start Ray."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from actors.value_critic import ValueCritic
from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.tokenizer import render_row
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.flows.run.train import train
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import RunResult

NUM_STEPS = 14
WAIT_S = 300.0


def make_world(root: Path) -> Path:
    """Write data, tokenizer and model under `root`, where preset.quickstart.yaml looks for them."""
    tasks = ListTasks(
        seed=1, num_train_problems=60, num_valid_problems=12, num_correct=3, num_incorrect=3, systematic_frac=0.7
    )
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", tasks)
    lines = files.train.read_bytes().splitlines()
    texts = [render_row(parse_row(line, number, files.train)) for number, line in enumerate(lines, start=1)]
    for name, layers, seed in (("nano_mtp", 4, 0), ("nano_reference", 4, 9)):
        args = ModelArgs(dim=32, n_layers=layers, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
        make_micro_model(root / "models_v2" / name, args, seed=seed)
    train_tokenizer(texts, root / "models_v2" / "nano_mtp" / "tokenizer.model", 385)
    return root


def command_line(root: Path, run_name: str, *overrides: str, recipe: str = "verifiable") -> list[str]:
    """Return the words of a short run: 14 steps of 8 rows, versions published every 3 steps, 2 ahead."""
    return [
        f"recipe={recipe}",
        "preset=quickstart",
        f"run_name={run_name}",
        f"storage_root={root}",
        "stages=[2]",
        f"train.max_steps={NUM_STEPS}",
        "train.batch_rows=8",
        "train.checkpoint_every=2",
        "critic.lookahead_steps=2",
        "critic.publish_every=3",
        "weighting.beta=0.2",
        "tracking.mlflow=false",
        "tracking.progress=false",
        *overrides,
    ]


def configured(root: Path, run_name: str, *overrides: str, recipe: str = "verifiable") -> RunConfig:
    """Return the configuration of `command_line`."""
    words = command_line(root, run_name, *overrides, recipe=recipe)
    named = dict(word.split("=", 1) for word in words[:3])
    arguments = Arguments(
        recipe=named["recipe"], preset=named["preset"], run_name=named["run_name"], overrides=tuple(words[3:])
    )
    return load_config(arguments, now=datetime(2026, 1, 1))


def run(config: RunConfig, critic_class: type[ValueCritic] = ValueCritic) -> RunResult:
    """Run in this process, on the Ray it is connected to."""
    prepared = prepare(config)
    claim_run_directory(config)
    return train(config, prepared, critic_class=critic_class)


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start_driver(words: list[str]) -> subprocess.Popen[str]:
    """Start the launcher with a Ray of its own, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "wmtp_ray.launch", *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_family(parent: subprocess.Popen[Any]) -> None:
    """SIGKILL a process, then what it has started."""
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; generously, for a machine that is busy with other things."""
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"waited {WAIT_S:.0f} s for {what}"
        time.sleep(0.02)


def kill_at_step(run_dir: Path, role: str, step: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Wait until `step` is recorded, then signal the process of a role; returns its id."""
    wait_until(lambda: len(metrics_of(run_dir)) > step, f"step {step} of {run_dir.name}")
    victim = process_id(run_dir, role)
    os.kill(victim, number)
    return victim


@contextmanager
def meanwhile(*faults: Callable[[], Any]) -> Iterator[list[Any]]:
    """Do one thing after the other in a thread beside the block; gives the list of what they returned.

    Raises what a fault raised, at the end of the block.
    """
    done: list[Any] = []
    failures: list[BaseException] = []

    def do() -> None:
        try:
            for fault in faults:
                done.append(fault())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield done
    finally:
        thread.join()
    assert not failures, f"the fault was not made: {failures[0]!r}"


class DelayedCritic(ValueCritic):
    """The critic with a delay that differs from call to call and from run to run."""

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        time.sleep(int.from_bytes(os.urandom(1), "big") / 255 * 0.3)
        return super().score(batches, directory, version)


class WarningCritic(DelayedCritic):
    """The delayed critic, with a warning whose text is the same in every process."""

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        scores = super().score(batches, directory, version)
        warnings.warn("a critic warns on purpose", stacklevel=1)
        return scores


class SlowCritic(ValueCritic):
    """The critic slowed down, so that a test can reach into a run before it is over."""

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        time.sleep(0.4)
        return super().score(batches, directory, version)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_workers(folder: Path) -> int:
    """Of two decoders and two judges kill one each, and the other judge's zygotes, once a few verdicts are there."""
    wait_until(lambda: lines_in(folder / "verdicts.jsonl") > 2, "the first verdicts")
    zygotes = psutil.Process(process_id(folder, "judge_1")).children()
    victims = [process_id(folder, "decoder_0"), process_id(folder, "judge_0"), *(zygote.pid for zygote in zygotes)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    return len(victims)
