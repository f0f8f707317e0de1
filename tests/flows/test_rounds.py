"""`wmtp launch recipe=online` on Ray: two rounds, and the same ones after the driver was killed at four points."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.world import NUM_STEPS, command_line, kill_family, lines_in, metrics_of, start_driver, wait_until
from wmtp_ray.cli import main as wmtp
from wmtp_ray.evaluation.collecting.collection_manifest import answers_of
from wmtp_ray.report.saved_rounds import read_saved_rounds
from wmtp_ray.rounds.rounds_record import read_rounds
from wmtp_ray.run_folder import RoundsFolder, runs_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_PROBLEMS, NUM_SAMPLES, CRITIC_STEPS = 20, 3, 4
SHORT = (
    "stages=[0,1,2,3]",
    "rounds.count=2",
    "rounds.share_collected=null",
    f"rounds.limit={NUM_PROBLEMS}",
    f"rounds.num_samples={NUM_SAMPLES}",
    f"critic_stage.max_steps={CRITIC_STEPS}",
    "critic_stage.batch_rows=16",
    "critic_stage.epochs=9",
    "critic.health_rows=24",
    "train.epochs=9",
    "train.sampling.curriculum_learning=false",
    "evaluation.limit=3",
    "evaluation.max_new_tokens=16",
    "evaluation.draft_horizons=0",
    "evaluation.batch_size=4",
)


def words(world: Path, name: str) -> list[str]:
    problems = world / "datasets_local_small" / "list_tasks" / "train_problems.jsonl"
    return command_line(world, name, *SHORT, f"rounds.problems={problems}", recipe="online")


def killed_when(command: list[str], condition: Callable[[], bool], what: str) -> None:
    driver: subprocess.Popen[str] = start_driver(command)
    wait_until(lambda: condition() or driver.poll() is not None, what)
    assert driver.poll() is None, driver.communicate()[0]
    kill_family(driver)


def ended(command: list[str]) -> str:
    driver = start_driver(command)
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    return output


def test_rounds_that_were_killed_end_with_the_policies_of_those_that_were_not(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ended(words(world, "rounds-whole"))
    whole = RoundsFolder(runs_of(world) / "rounds-whole")
    record = read_rounds(whole)
    assert (record.steps, record.judged) == (2 * NUM_STEPS, 2 * NUM_PROBLEMS * NUM_SAMPLES)
    assert f"policy {record.rounds[-1].policy_sha256}" in said
    saved = read_saved_rounds(whole.path)
    assert [set(run.evaluations) for run in saved.runs] == [{"list_tasks"}, {"list_tasks"}]
    assert [set(run.health) >= {1} for run in saved.runs] == [True, True]

    command, folder = words(world, "rounds-killed"), RoundsFolder(runs_of(world) / "rounds-killed")
    answers = [answers_of(folder.rows(number)) / "samples.jsonl" for number in range(2)]
    points: list[tuple[str, Callable[[], bool]]] = [
        ("answers of round 0", lambda: lines_in(answers[0]) >= 8),
        ("step 5 of round 0", lambda: len(metrics_of(folder.run(0).path)) > CRITIC_STEPS + 5),
        ("answers of round 1", lambda: lines_in(answers[1]) >= 8),
        ("step 5 of round 1", lambda: len(metrics_of(folder.run(1).path)) > CRITIC_STEPS + 5),
    ]
    for number, (what, condition) in enumerate(points):
        killed_when(command if number == 0 else [*command, "--resume"], condition, what)
    assert len(read_rounds(folder).rounds) == 1
    assert wmtp(["launch", *command, "rounds.keep=last", "--resume"]) == 2
    assert "rounds.keep: found last, started with all" in capsys.readouterr().err
    ended([*command, "--resume"])
    assert read_rounds(folder) == record, "the same rows, files and policies"
    for number in range(2):
        steps = [(line["stage"], line["step"]) for line in metrics_of(folder.run(number).path)]
        assert len(set(steps)) == len(steps) == CRITIC_STEPS + NUM_STEPS
        lines = map(json.loads, answers[number].read_bytes().splitlines())
        drawn = [(each["task_id"], each["sample"]) for each in lines]
        assert len(set(drawn)) == len(drawn) == NUM_PROBLEMS * NUM_SAMPLES, "nothing lost, nothing twice"
        assert folder.train_file(number).read_bytes() == whole.train_file(number).read_bytes()
    ended([*command, "--resume"])
    assert read_rounds(folder) == record, "nothing is left to do"
