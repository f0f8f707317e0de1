"""Faults that a run survives on its own: another process takes over, and the final policy is the same bits."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from tests.flows.faults import kill_a_reader, stop_at_step
from tests.flows.world import (
    NUM_STEPS,
    SlowCritic,
    configured,
    kill_at_step,
    meanwhile,
    metrics_of,
    process_id,
    run,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.block_tasks import run_block_tasks
from wmtp_ray.tracking.result import RunResult

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_dead_reader_dead_metrics_actor_and_hanging_critic_change_nothing(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    config = configured(world, "several-faults", "deadlines.score_s=6", "data.read_ahead_rows=1")
    run_dir = config.run_dir
    faults = (
        lambda: kill_a_reader(run_dir),
        lambda: kill_at_step(run_dir, "metrics", 2),
        lambda: stop_at_step(run_dir, "critic_0", 5),
    )
    with meanwhile(*faults) as victims:
        result = run(config, SlowCritic)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))
    _, metrics, critic = victims
    assert process_id(run_dir, "metrics") != metrics
    assert process_id(run_dir, "critic_0") != critic
    late = [text for text in result.warnings if "critic_0 did not answer within 6 s" in text]
    assert any("critic_0 stopped" in text and "rank 0 waited for the scores of step" in text for text in late)
    stacks = {path.stem: path.read_text() for path in (run_dir / "stacks").iterdir()}
    assert {"driver", "metrics", "rank_0", "critic_0"} <= stacks.keys()
    assert "No stacks: the process is stopped." in stacks["critic_0"]
    assert "in _ready_scorer" in stacks["rank_0"] or "in _scores_of_late_scorer" in stacks["rank_0"]
    assert "in _fit" in stacks["driver"]


def sleep_instead(table: pa.Table) -> pa.Table:
    time.sleep(6.0)
    return table


def test_block_tasks_that_hang_are_said_to(cluster: ClusterConfig) -> None:
    tables = [pa.table({"row": [number]}) for number in range(2)]
    with pytest.raises(DataError, match=r"sleep_instead: 0 of 2 tasks are finished and no other in 1 s; .* CPUs"):
        list(run_block_tasks(tables, sleep_instead, (), in_order=True, deadline_s=1.0))
