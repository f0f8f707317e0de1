"""Evaluations: the same results however they are spread, killed or resumed; stage 3 of a run; samples of others."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.flows.world import command_line, configured, kill_family, wait_until
from wmtp_ray.cli import main as wmtp
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.evaluation_plan import plan_evaluation
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.evaluation.results import EvaluationResults, read_results
from wmtp_ray.flows.evaluate.evaluate import OtherSettings, evaluate_policy
from wmtp_ray.tracking.mlflow_run import default_uri
from wmtp_ray.tracking.processes import find_process, process_id
from wmtp_ray.tracking.result import RunResult, read_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

NOW = datetime(2026, 1, 1)
PROGRAM_S = 2.0  # CPU seconds that tell a program without end from a zygote that starts
SAMPLED = ("evaluation.num_samples=8", "evaluation.temperature=1", "evaluation.k=[1,8]", "evaluation.max_new_tokens=40")


def evaluated(world: Path, out: Path, *words: str, cooler: Path | None = None) -> EvaluationResults:
    """Evaluate the nano model of the world into `out`, on the Ray that this process is connected to.

    With `cooler` the same workers evaluate it at temperature 0.5 as well, two answers a problem, into that folder.
    """
    config = configured(world, "evaluated", "evaluation.draft_horizons=1", *SAMPLED, *words)
    policy = PolicyFiles(config.model.path, config.tokenizer.path)
    asked = Asked(CodeTokenizer(config.tokenizer.path), is_trained=False)
    settings = config.evaluation.model_copy(update={"temperature": 0.5, "num_samples": 2, "k": (1, 2)})
    also = [OtherSettings(settings, lambda dataset, identity: cooler)] if cooler is not None else []
    plan = plan_evaluation(config, asked)
    done, *others = evaluate_policy(config, plan, policy, lambda dataset, identity: out, out, also)
    assert [each.directory for each in (done, *others)] == [out, *([cooler] if cooler is not None else [])]
    return done.results


def comparable(results: EvaluationResults) -> EvaluationResults:
    return dataclasses.replace(results, seconds=0.0)


def verdicts_of(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "verdicts.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(world: Path, cluster: ClusterConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One decoder, one judge, 4 answers at a time: what all others must equal."""
    out = tmp_path_factory.mktemp("undisturbed")
    words = ("evaluation.num_decoders=1", "evaluation.num_judges=1", "evaluation.batch_size=4")
    evaluated(world, out, *words, cooler=out / "cooler")
    return out


def assert_same(folder: Path, undisturbed: Path) -> None:
    assert (folder / "samples.jsonl").read_bytes() == (undisturbed / "samples.jsonl").read_bytes()
    assert verdicts_of(folder) == verdicts_of(undisturbed)
    assert comparable(read_results(folder)) == comparable(read_results(undisturbed))
    assert read_results(folder).sources.training is None, "no run has made the nano model"


def test_other_settings_are_evaluated_by_the_same_workers_into_their_own_folder(undisturbed: Path) -> None:
    own, cooler = read_results(undisturbed), read_results(undisturbed / "cooler")
    assert (own.identity["answers"]["temperature"], cooler.identity["answers"]["temperature"]) == (1.0, 0.5)
    assert own.num_problems == cooler.num_problems
    assert (set(own.pass_at_k), set(cooler.pass_at_k)) == ({"1", "8"}, {"1", "2"})
    assert lines_in(undisturbed / "cooler" / "samples.jsonl") * 4 == lines_in(undisturbed / "samples.jsonl")


def test_results_depend_neither_on_workers_nor_on_batches_nor_on_their_deaths(
    world: Path, cluster: ClusterConfig, undisturbed: Path, tmp_path: Path
) -> None:
    """Two decoders, two judges; a decoder, a judge and the zygote of the other judge are killed on the way."""

    def disturb() -> None:
        wait_until(lambda: lines_in(tmp_path / "verdicts.jsonl") > 2, "the first verdicts")
        zygotes = psutil.Process(process_id(tmp_path, "judge_1")).children()
        for victim in (process_id(tmp_path, "decoder_0"), process_id(tmp_path, "judge_0"), *(z.pid for z in zygotes)):
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    killed: list[int] = []
    thread = threading.Thread(target=disturb)
    thread.start()
    results = evaluated(
        world, tmp_path, "evaluation.num_decoders=2", "evaluation.num_judges=2", "evaluation.batch_size=1"
    )
    thread.join()
    assert len(killed) == 3, "decoder, judge, zygote"
    assert_same(tmp_path, undisturbed)
    assert len(results.problems) == 12
    assert all(each.num_samples == 8 for each in results.problems)
    assert {"1", "8"} == set(results.pass_at_k)
    assert results.decoding is not None
    assert results.decoding.tokens_per_forward >= 1.0
    assert not list(tmp_path.glob("processes/*")), "the actors are gone, and so is the record of them"


def test_a_killed_evaluation_goes_on_and_another_one_does_not_take_its_place(
    world: Path, cluster: ClusterConfig, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    problems = world / "datasets_local_small" / "list_tasks" / "valid_problems.jsonl"
    words = [f"--checkpoint={world / 'models_v2' / 'nano_mtp'}", f"--dataset={problems}", f"--out={out}"]
    words += ["--num-samples=8", "--temperature=1", "--k=1,8", "--max-new-tokens=40", "--speculate=1", "--batch-size=1"]
    words += ["train.device=cpu", "tracking.progress=false", "cluster.num_cpus=4"]
    driver = subprocess.Popen([sys.executable, "-m", "wmtp_ray.cli", "evaluate", *words], start_new_session=True)
    wait_until(lambda: lines_in(out / "samples.jsonl") > 5 or driver.poll() is not None, "some answers")
    kill_family(driver)
    assert 5 < lines_in(out / "samples.jsonl") < 96, "it was killed in the middle"
    assert not (out / "results.json").exists()
    kept = (out / "samples.jsonl").read_bytes().splitlines()[:5]
    assert wmtp(["evaluate", *words]) == 0
    assert set(kept) <= set((out / "samples.jsonl").read_bytes().splitlines()), "answers that were there are kept"
    named = dataclasses.replace(read_results(out).sources, dataset="list_tasks")
    mine = dataclasses.replace(comparable(read_results(out)), sources=named)
    assert mine == comparable(read_results(undisturbed))

    refused = [word for word in words if word != "--temperature=1"] + ["--temperature=0.5"]
    assert wmtp(["evaluate", *refused]) == 2
    assert dataclasses.replace(comparable(read_results(out)), sources=named) == mine, "what was there is as it was"


def test_samples_of_others_are_judged_and_a_lost_judge_is_never_their_fault(
    world: Path, cluster: ClusterConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every problem gets its reference, a wrong program and one that never ends, whose judge is killed twice."""
    problems = world / "datasets_local_small" / "list_tasks" / "valid_problems.jsonl"
    records = [json.loads(line) for line in problems.read_text().splitlines()][:3]
    answers = [(each["task_id"], each["canonical_solution"]) for each in records]
    answers += [(each["task_id"], "def f(a):\n    return None") for each in records]
    answers += [(records[1]["task_id"], "while True: pass")]
    samples = tmp_path / "theirs.jsonl"
    samples.write_text("".join(json.dumps({"task_id": task, "solution": text}) + "\n" for task, text in answers))
    out = tmp_path / "out"
    words = [f"--samples={samples}", f"--dataset={problems}", "--limit=3", "--k=1,2", f"--out={out}", "--workers=1"]
    words += ["--timeout=120", "tracking.progress=false"]

    def kill_twice() -> None:
        wait_until(lambda: lines_in(out / "verdicts.jsonl") == 6, "all verdicts but one")
        for before in (0, process_id(out, "judge_0")):
            wait_until(lambda gone=before: is_at_the_program(gone), "the endless program")
            os.kill(process_id(out, "judge_0"), signal.SIGKILL)

    def is_at_the_program(gone: int) -> bool:
        """Whether another process than `gone` has come up and one below it works for seconds, as no zygote does."""
        judge = find_process(out, "judge_0")
        if judge is None or not judge.is_ready or judge.pid == gone:
            return False
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(judge.pid).children(recursive=True)
            return any(process.cpu_times().user > PROGRAM_S for process in below)
        return False

    thread = threading.Thread(target=kill_twice)
    thread.start()
    assert wmtp(["evaluate", *words]) == 0
    thread.join()
    results = read_results(out)
    assert [(each.num_samples, each.num_correct) for each in results.problems] == [(2, 1), (2, 1), (2, 1)]
    assert results.problems[1].verdicts == ("pass", "fail", "error")
    assert results.pass_at_k["1"].value == 0.5
    assert results.pass_at_k["2"].value == 1.0
    [excluded] = results.excluded
    assert excluded.startswith(f"{records[1]['task_id']} sample 2: the judge's process died")
    assert "could not be judged and do not count" in capsys.readouterr().out
    assert results.identity["answers"].keys() == {"samples_sha256"}
    assert not (out / "samples.jsonl").exists(), "theirs stay theirs"


def test_stage_3_evaluates_a_run_that_has_ended_keeps_what_it_left_and_says_so_everywhere(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    config, trained = uninterrupted
    words = [*command_line(world, config.run_name), "stages=[3]", "evaluation.draft_horizons=1"]
    assert wmtp(["launch", *words], now=NOW) == 0
    results = read_results(config.run_dir / "eval" / "list_tasks")
    result = read_result(config.run_dir)
    assert (result.policy_sha256, result.steps) == (trained.policy_sha256, trained.steps)
    assert trained.metrics.items() <= result.metrics.items()
    assert result.metrics["eval/list_tasks/pass@1"] == results.pass_at_k["1"].value
    assert results.sources.training is not None
    assert (results.sources.training.run, results.sources.training.steps) == (str(config.run_dir), trained.steps)
    assert result.seconds_per_stage.keys() == {*trained.seconds_per_stage, "stage_3"}
    samples = (config.run_dir / "eval" / "list_tasks" / "samples.jsonl").read_bytes()
    assert wmtp(["launch", *words], now=NOW) == 0
    assert (config.run_dir / "eval" / "list_tasks" / "samples.jsonl").read_bytes() == samples
    assert wmtp(["launch", *words, "evaluation.limit=2", "tracking.mlflow=true"], now=NOW) == 0
    folders = sorted(path.name for path in (config.run_dir / "eval").iterdir())
    assert len(folders) == 2, "another evaluation has another folder"
    assert folders[1].startswith("list_tasks-")
    assert len(read_results(config.run_dir / "eval" / folders[1]).problems) == 2
    client = MlflowClient(tracking_uri=default_uri(world))
    tracked = client.get_run((config.run_dir / "mlflow_run_id").read_text())
    assert tracked.info.status == "FINISHED"
    assert {f"eval/list_tasks/pass_1{part}" for part in ("", "/ci_low", "/ci_high")} <= tracked.data.metrics.keys()
    kept = {each.path for each in client.list_artifacts(tracked.info.run_id, "eval/list_tasks")}
    assert {"eval/list_tasks/results.json", "eval/list_tasks/samples.jsonl"} <= kept
