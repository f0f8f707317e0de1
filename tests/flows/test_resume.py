"""A run that was killed and resumed equals the run that was not, bit for bit."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.flows.world import (
    NUM_STEPS,
    SlowCritic,
    command_line,
    configured,
    kill_at_step,
    kill_family,
    meanwhile,
    metrics_of,
    run,
    start_driver,
    wait_until,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import RunResult, read_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

GONE_S = 60.0  # no process of a run outlives it by a minute


def test_dead_and_hanging_ranks_do_not_change_the_policy(world: Path, cluster: ClusterConfig) -> None:
    """Rank 1 of 2 dies inside phase 2, rank 0 in phase 3; then rank 1 hangs, and rank 0 waits in a collective.

    With everything that has a memory: averaged versions of the critic, and whitening by running statistics.
    """
    memory = ("train.num_workers=2", "critic.ema_decay=0.5", "weighting.advantage_norm=ema", "critic.drift_every=4")
    uncut = configured(world, "two-ranks", *memory)
    whole = run(uncut)
    config = configured(world, "two-ranks-killed", *memory, "deadlines.collective_s=20")
    run_dir = config.run_dir
    faults = (
        lambda: kill_at_step(run_dir, "rank_1", 6),
        lambda: kill_at_step_after(run_dir, "rank_0", 9),
        lambda: kill_at_step_after(run_dir, "rank_1", 11, signal.SIGSTOP),
    )
    with meanwhile(*faults) as victims:
        result = run(config, SlowCritic)
    assert len(victims) == 3
    assert {process_id(run_dir, role) for role in ("rank_0", "rank_1")}.isdisjoint(victims)
    assert result.policy_sha256 == whole.policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))
    drift = [line.get("critic/drift_kl") for line in metrics_of(run_dir)]
    assert drift == [line.get("critic/drift_kl") for line in metrics_of(uncut.run_dir)]
    assert [step for step, each in enumerate(drift, start=1) if each is not None] == [4, 8, 12, NUM_STEPS]
    assert any("A collective took more than 20 s" in text and "rank_1 stopped" in text for text in result.warnings)
    assert "in run_rank" in (run_dir / "stacks" / "rank_0.txt").read_text()


def kill_at_step_after(run_dir: Path, role: str, step: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Let the ranks come back from the fault before, then do what `kill_at_step` does."""
    wait_until(lambda: len(metrics_of(run_dir)) <= step, "the ranks to start again before the step")
    return kill_at_step(run_dir, role, step, number)


@pytest.mark.slow
def test_killed_driver_resumes_to_the_same_policy(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    """The driver dies inside phase 1, before the boundary at step 4, and once more after it; --resume goes on.

    The first time with all of its Ray; the second time alone, and what it has started ends by itself.
    """
    words = command_line(world, "driver-killed")
    run_dir = configured(world, "driver-killed").run_dir
    kill_family(_driver_at(words, run_dir, 3))
    driver = _driver_at([*words, "--resume"], run_dir, 8)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    assert len(family) > 5
    assert psutil.wait_procs(family, timeout=GONE_S)[1] == []
    done = start_driver([*words, "--resume"])
    output, _ = done.communicate(timeout=400)
    assert done.returncode == 0, output
    result = read_result(run_dir)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))


@pytest.mark.slow
def test_interrupt_checkpoints_and_exits_130(world: Path, cluster: ClusterConfig) -> None:
    words = command_line(world, "interrupted", "train.checkpoint_every=1000", "train.epochs=40", "train.max_steps=400")
    run_dir = configured(world, "interrupted").run_dir
    driver = start_driver(words)
    wait_until(lambda: len(metrics_of(run_dir)) > 3, "the first steps")
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130, output
    steps = [int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*")]
    assert steps == [len(metrics_of(run_dir))], "one checkpoint, at the step where it stopped"
    assert read_result(run_dir).status == "KILLED"


def _driver_at(words: list[str], run_dir: Path, step: int) -> "subprocess.Popen[str]":
    """Return a driver that has just recorded `step`."""
    driver = start_driver(words)
    wait_until(lambda: len(metrics_of(run_dir)) > step or driver.poll() is not None, f"step {step}")
    assert driver.poll() is None, driver.communicate()[0]
    return driver
