"""A run spread over two Ray nodes outlives one of them, and ends with the weights of an undisturbed run."""

import shlex
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.flows.job_cluster import ROOT, JobCluster, documented, node, own_environment, started
from tests.flows.world import command_line, kill_family, make_world, metrics_of, wait_until
from wmtp_ray.tracking.processes import RunProcess, find_processes
from wmtp_ray.tracking.result import read_result

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_STEPS = 60
# A rank takes more than half of a node, so that two cannot share one, and leaves two CPUs: Ray Data deals whole ones.
SPREAD = ("train.num_workers=2", "cluster.cpus_per_worker=3.2", "cluster.cpus_per_critic=0.5")
NODE_CPUS = 6


def spread_run(storage: Path, run_name: str) -> list[str]:
    """Return the command line of a run of two ranks that need two nodes."""
    steps = (f"train.max_steps={NUM_STEPS}", "train.epochs=20", "train.checkpoint_every=5")
    return ["python", "-m", "wmtp_ray.launch", *command_line(storage, run_name, *SPREAD, *steps)]


def test_a_node_that_dies_does_not_change_the_policy(tmp_path: Path) -> None:
    storage = make_world(tmp_path / "shared")
    run_dir = storage / "runs" / "node-lost"
    environment = own_environment(tmp_path / "home")
    generated = subprocess.run(["ray", "get-auth-token", "--generate"], env=environment, capture_output=True)
    assert generated.returncode == 0, generated.stderr
    with ExitStack() as nodes:
        start = nodes.enter_context(started(shlex.split("ray start --head"), environment, ROOT, NODE_CPUS))
        [further] = documented("A job on a cluster")[1]
        join = ["env", *shlex.split(further.replace("HEAD:6379", start.address))]
        further_nodes = []
        for number in (2, 3):  # one after the other: started at the same moment, they did not both come up
            further_nodes.append(nodes.enter_context(node(join, environment, NODE_CPUS)))
            wait_until(lambda number=number: _num_nodes(start) == number, f"node {number}")
        driver = nodes.enter_context(_driver(start, spread_run(storage, "node-lost")))
        wait_until(lambda: len(metrics_of(run_dir)) > 7 or driver.poll() is not None, "the first steps")
        before = _ranks(run_dir)
        lost = next(each for each in further_nodes if _descendants(each) & {rank.pid for rank in before})
        kill_family(lost)
        assert driver.poll() is None, driver.communicate()[0]
        output, _ = driver.communicate(timeout=600)
        assert driver.returncode == 0, output
        after = _ranks(run_dir)
        assert len({rank.node_id for rank in before}) == 2, "a rank on each of two nodes"
        assert len({rank.node_id for rank in (*before, *after)}) == 3, "and on the third in place of the lost one"
        assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))
        whole = start.run(spread_run(storage, "whole"), RAY_ADDRESS=start.address)
        assert whole.returncode == 0, whole.stdout
    assert read_result(run_dir).policy_sha256 == read_result(storage / "runs" / "whole").policy_sha256


def _num_nodes(cluster: JobCluster) -> int:
    """Count the nodes that live, as `ray list nodes` sees them."""
    listed = cluster.run(
        [
            "ray",
            "list",
            "nodes",
            "--filter",
            "state=ALIVE",
            "--format",
            "json",
            "--address",
            f"http://{cluster.api_server}",
        ],
        RAY_AUTH_MODE="token",
    )
    return listed.stdout.count('"node_id"')


def _ranks(run_dir: Path) -> list[RunProcess]:
    return [process for process in find_processes(run_dir) if process.role.startswith("rank_")]


def _descendants(process: subprocess.Popen[bytes]) -> set[int]:
    return {child.pid for child in psutil.Process(process.pid).children(recursive=True)}


def _driver(cluster: JobCluster, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=cluster.environment | {"RAY_ADDRESS": cluster.address},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
