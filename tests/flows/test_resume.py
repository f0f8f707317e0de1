"""A run that was killed and resumed equals the run that was not, bit for bit."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.flows.world import (
    NUM_STEPS,
    SlowCritic,
    command_line,
    configured,
    kill_at_step,
    metrics_of,
    run,
    wait_until,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import RunResult, read_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_killed_rank_does_not_change_the_policy(world: Path, cluster: ClusterConfig) -> None:
    """Rank 1 of 2 dies inside phase 2; the ranks restart from step 6 and cross into phase 3 at step 10.

    With everything that has a memory: averaged versions of the critic, and whitening by running statistics.
    """
    memory = ("train.num_workers=2", "critic.ema_decay=0.5", "weighting.advantage_norm=ema")
    whole = run(configured(world, "two-ranks", *memory))
    config = configured(world, "two-ranks-killed", *memory)
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_at_step(config.run_dir, "rank_1", 6)))
    killer.start()
    result = run(config, SlowCritic)
    killer.join()
    assert killed
    assert process_id(config.run_dir, "rank_1") != killed[0]
    assert result.policy_sha256 == whole.policy_sha256
    assert [line["step"] for line in metrics_of(config.run_dir)] == list(range(NUM_STEPS))


@pytest.mark.slow
def test_killed_driver_resumes_to_the_same_policy(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    """The driver dies inside phase 1, before the boundary at step 4, and once more after it; --resume goes on."""
    words = command_line(world, "driver-killed")
    run_dir = configured(world, "driver-killed").run_dir
    for step, extra in ((3, []), (8, ["--resume"])):
        _kill_driver_at(words + extra, run_dir, step)
    done = _start([*words, "--resume"])
    output, _ = done.communicate(timeout=400)
    assert done.returncode == 0, output
    result = read_result(run_dir)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))


@pytest.mark.slow
def test_interrupt_checkpoints_and_exits_130(world: Path, cluster: ClusterConfig) -> None:
    words = command_line(world, "interrupted", "train.checkpoint_every=1000", "train.epochs=40", "train.max_steps=400")
    run_dir = configured(world, "interrupted").run_dir
    driver = _start(words)
    wait_until(lambda: len(metrics_of(run_dir)) > 3, "the first steps")
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130, output
    steps = [int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*")]
    assert steps == [len(metrics_of(run_dir))], "one checkpoint, at the step where it stopped"
    assert read_result(run_dir).status == "KILLED"


def _start(words: list[str]) -> subprocess.Popen[str]:
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


def _kill_driver_at(words: list[str], run_dir: Path, step: int) -> None:
    """Kill the driver without warning once `step` is recorded, then what is left of its Ray."""
    driver = _start(words)
    wait_until(lambda: len(metrics_of(run_dir)) > step or driver.poll() is not None, f"step {step}")
    assert driver.poll() is None, driver.communicate()[0]
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    for process in family:
        with_grace_kill(process)


def with_grace_kill(process: psutil.Process) -> None:
    """Kill a process of the dead driver's Ray that is still there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
