"""`wmtp evaluate` with a server in place of the decoders: killed, silent and back again; no finished answer is lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.world import command_line
from tests.unit.evaluation.engine.small_server import Asked, Reply, SmallServer, answering, completion, models
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import weights_file
from wmtp_ray.cli import main as wmtp
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.evaluation.results import read_results
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.result import RunResult, read_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

NOW = datetime(2026, 1, 1)
KEY = "sk-never-saved"
ANSWERED_FIRST = 5


class Policy:
    """Knows the right program of every problem; after some answers it is out of order until it is repaired."""

    def __init__(self, problems: Path) -> None:
        records = [json.loads(line) for line in problems.read_text().splitlines()]
        self._solutions = {each["prompt"]: each["canonical_solution"] for each in records}
        self.num_problems = len(records)
        self.num_answers = 0
        self.is_broken_after: int | None = ANSWERED_FIRST
        self.needs_key = True

    def __call__(self, asked: Asked) -> Reply:
        if self.needs_key and asked.headers.get("Authorization") != f"Bearer {KEY}":
            return Reply(401, b"who are you")
        if asked.path.endswith("/models"):
            return models("policy")
        if self.is_broken_after is not None and self.num_answers >= self.is_broken_after:
            return Reply(503, f"out of order for {asked.headers['Authorization']}".encode())
        self.num_answers += 1
        [solution] = [text for prompt, text in self._solutions.items() if f"\n{prompt}\n" in asked.body["prompt"]]
        return completion(f"{solution}\n### Instruction:\nmore", tokens=9, model="policy-1")


@pytest.fixture
def policy(world: Path) -> Policy:
    return Policy(world / "datasets_local_small" / "list_tasks" / "valid_problems.jsonl")


@pytest.fixture
def server(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallServer]:
    monkeypatch.setenv("ENGINE_TEST_KEY", KEY)
    with answering(policy) as found:
        yield found


def test_a_server_answers_breaks_down_and_comes_back(
    world: Path,
    cluster: ClusterConfig,
    policy: Policy,
    server: SmallServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a key on a Ray of its own until the server breaks down; then on that of the tests, which has no key."""
    out = tmp_path / "out"
    problems = world / "datasets_local_small" / "list_tasks" / "valid_problems.jsonl"
    words = ["evaluate", f"--engine={server.url}", f"--dataset={problems}", f"--out={out}", f"storage_root={world}"]
    words += ["engine.api_key_env=ENGINE_TEST_KEY", "engine.request_s=2", "engine.silence_s=3", "cluster.num_cpus=4"]
    words += ["engine.max_in_flight=1", "tracking.progress=false"]
    assert wmtp(words) == 2, "the processes of this cluster have no key, and no message carries one"
    assert "ENGINE_TEST_KEY is set where the command runs and not in Ray's processes" in capsys.readouterr().err
    assert policy.num_answers == 0

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "wmtp_ray.cli", *words]
    broken = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert broken.returncode == 1, broken.stderr
    assert "gave no answer for 3 s (engine.silence_s), 7 are missing; its last failure: status 503" in broken.stderr
    assert "the same command goes on" in broken.stderr
    finished = (out / "samples.jsonl").read_bytes().splitlines()
    assert len(finished) == ANSWERED_FIRST
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert KEY.encode() not in written + (broken.stdout + broken.stderr).encode()

    policy.is_broken_after, policy.needs_key = None, False
    monkeypatch.delenv("ENGINE_TEST_KEY")
    assert wmtp(words) == 0
    printed = capsys.readouterr().out
    assert f"12 answers by policy-1 at {server.url}; which weights that are is not known" in printed
    assert policy.num_answers == policy.num_problems == 12, "nothing is asked twice"
    assert set(finished) <= set((out / "samples.jsonl").read_bytes().splitlines())
    results = read_results(out)
    assert results.pass_at_k["1"].value == 1.0, "every program is judged right"
    assert results.answered_by == {f"policy-1 at {server.url}": 12}
    assert results.identity["answers"]["server"]["model"] == "policy"
    assert results.warnings == ()
    assert results.decoding is not None
    assert results.decoding.num_tokens == 12 * 9

    assert wmtp(words) == 0
    assert policy.num_answers == 12
    assert "all answers were in the folder already and the server was not asked" in capsys.readouterr().out


def test_stage_3_asks_the_server_of_a_run_that_has_ended_and_no_other(
    uninterrupted: tuple[RunConfig, RunResult],
    world: Path,
    cluster: ClusterConfig,
    policy: Policy,
    server: SmallServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a copy of the run, which other tests evaluate too."""
    config, trained = uninterrupted
    run = RunFolder(config.run_dir.with_name("served"))
    shutil.copytree(config.run_dir, run.path, ignore=shutil.ignore_patterns("eval", "mlflow_run_id"))
    run.config.write_text(run.config.read_text().replace(f"run_name: {config.run_name}", "run_name: served"))
    monkeypatch.delenv("ENGINE_TEST_KEY")
    policy.is_broken_after, policy.needs_key = None, False
    words = ["evaluation.engine=openai", f"engine.url={server.url}", "evaluation.limit=3"]
    assert wmtp(["launch", *command_line(world, "unserved", "stages=[2,3]"), *words], now=NOW) == 2
    assert "no server can hold a policy that this run has yet to train" in capsys.readouterr().err
    assert wmtp(["launch", *command_line(world, "served"), "stages=[3]", *words], now=NOW) == 0
    results = read_results(run.evaluations / "list_tasks")
    assert results.answered_by == {f"policy-1 at {server.url}": 3}
    assert len(results.problems) == 3
    assert results.sources.training is None, "nobody knows whether the server has this run's policy"
    weights = file_sha256(weights_file(run.final))
    assert results.identity["answers"]["said_to_be"]["weights_sha256"] == weights
    assert read_result(run.path).policy_sha256 == trained.policy_sha256
