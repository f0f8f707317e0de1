"""What a dead Train controller held is given back, on the cluster that it belonged to."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
from ray.util import placement_group_table

from tests.flows.world import (
    SlowCritic,
    configured,
    meanwhile,
    metrics_of,
    run,
    wait_until,
)
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.errors import WmtpError
from wmtp_ray.tracking.result import read_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def controllers() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.name().startswith("ray::TrainCon")]


def kill_the_controller(run_dir: Path) -> Callable[[], int]:
    def kill() -> int:
        wait_until(lambda: len(metrics_of(run_dir)) > 3, "step 3")
        [controller] = controllers()
        controller.kill()
        return int(controller.pid)

    return kill


def test_the_placement_group_of_a_dead_controller_is_given_back(world: Path, cluster: ClusterConfig) -> None:
    config = configured(world, "controller-dies")
    with meanwhile(kill_the_controller(config.run_dir)), pytest.raises(WmtpError, match="The ranks failed"):
        run(config, SlowCritic)
    assert read_result(config.run_dir).status == "FAILED"
    give_up = time.monotonic() + 20.0
    while any(group["state"] == "CREATED" for group in placement_group_table().values()):
        assert time.monotonic() < give_up, placement_group_table()
        time.sleep(0.2)
    assert ray.is_initialized()
