"""One Ray and one uninterrupted run for all tests of this folder: each start costs tens of seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.world import configured, make_world, run
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.flows.cluster import joined
from wmtp_ray.tracking.result import RunResult


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def cluster(world: Path) -> Iterator[ClusterConfig]:
    config = configured(world, "cluster").cluster
    with joined(config.num_cpus):
        yield config


@pytest.fixture(scope="session")
def uninterrupted(world: Path, cluster: ClusterConfig) -> tuple[RunConfig, RunResult]:
    """The asynchronous run with one critic and one rank that others are compared with."""
    config = configured(world, "uninterrupted")
    return config, run(config)
