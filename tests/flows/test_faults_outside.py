"""Faults around a run: signals to all of it, a tracking server that dies, an object store that is nearly full."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.flows.faults import kill_server, mlflow_server, stop_at_step
from tests.flows.world import (
    NUM_STEPS,
    SlowCritic,
    command_line,
    configured,
    kill_at_step,
    meanwhile,
    metrics_of,
    process_id,
    run,
    start_driver,
    wait_until,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.tracking.mlflow_sink import MISSING
from wmtp_ray.tracking.result import RunResult, read_result

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_signals_to_everybody_and_twice_leave_a_run_that_resumes(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    """As the stop of a container: everything that belongs to the run is told at the same moment."""
    words, run_dir = command_line(world, "all-told"), configured(world, "all-told").run_dir
    driver = start_driver(words)
    wait_until(lambda: len(metrics_of(run_dir)) > 4, "step 4")
    for process in psutil.Process(driver.pid).children(recursive=True):
        process.send_signal(signal.SIGTERM)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 130, output
    left = read_result(run_dir)
    assert (left.status, left.weighting) == ("KILLED", "td"), "result.json says how it ended and what it ran with"
    reached = len(metrics_of(run_dir))

    driver = start_driver([*words, "--resume"])
    wait_until(lambda: process_id_of_this_start(run_dir, driver.pid), "the driver to be up")
    for _ in range(2):
        driver.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130, output
    assert "Ending at once" in output

    result = run(configured(world, "all-told"))
    assert reached < NUM_STEPS, "the signals came before the end"
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))


def process_id_of_this_start(run_dir: Path, driver: int) -> bool:
    try:
        return process_id(run_dir, "driver") == driver
    except FileNotFoundError:
        return False


def test_a_tracking_server_that_dies_costs_a_warning(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig, tmp_path: Path
) -> None:
    with mlflow_server(tmp_path) as (uri, server):
        overrides = ("tracking.mlflow=true", f"tracking.mlflow_uri={uri}", "deadlines.tracking_s=20")
        config = configured(world, "server-dies", *overrides)
        with meanwhile(lambda: kill_server(config.run_dir, server)):
            result = run(config, SlowCritic)
    assert result.status == "FINISHED"
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    [warning] = [text for text in result.warnings if text.startswith(MISSING)]
    assert "metrics.jsonl has every number" in warning
    assert f"wmtp tracking sync {config.run_dir}" in warning
    assert any("does not answer (" in text for text in result.warnings), "its begin was told"
    assert [line["step"] for line in metrics_of(config.run_dir)] == list(range(NUM_STEPS))


FULL_STORE = """
import sys
from pathlib import Path

import numpy as np
import ray

from tests.flows.world import configured, run
from wmtp_ray.flows.cluster import joined

config = configured(Path(sys.argv[1]), "store-nearly-full")
with joined(config.cluster.num_cpus):
    held = [ray.put(np.ones(8 << 20, np.uint8)) for _ in range(9)]
    capacity = ray.cluster_resources()["object_store_memory"]
    assert 8 * len(held) << 20 > 0.85 * capacity, capacity
    print(run(config).policy_sha256)
"""


def test_an_object_store_that_is_nearly_full_changes_nothing(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    smallest = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 << 20)}
    command = [sys.executable, "-c", FULL_STORE, str(world)]
    done = subprocess.run(command, env=environment | smallest, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == uninterrupted[1].policy_sha256


def test_a_reference_that_was_killed_changes_nothing(world: Path, cluster: ClusterConfig) -> None:
    overrides = (f"reference.path={world / 'models_v2' / 'nano_reference'}",)
    whole = run(configured(world, "reference-whole", *overrides, recipe="rho1_weighted"))
    config = configured(world, "reference-killed", *overrides, recipe="rho1_weighted")
    with meanwhile(lambda: kill_at_step(config.run_dir, "reference_0", 2)) as victims:
        result = run(config)
    assert process_id(config.run_dir, "reference_0") != victims[0], "no other reference took its place"
    assert result.policy_sha256 == whole.policy_sha256


def test_a_lone_rank_that_hangs_is_started_anew_by_the_driver(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    config = configured(world, "lone-rank-hangs", "deadlines.step_s=25")
    with meanwhile(lambda: stop_at_step(config.run_dir, "rank_0", 6)) as victims:
        result = run(config, SlowCritic)
    assert process_id(config.run_dir, "rank_0") != victims[0]
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert any("No rank sent a heartbeat" in text and "rank_0 stopped" in text for text in result.warnings)
