"""Faults that end a run: exit code 1 and a message that names the cause; `--resume` gives the undisturbed policy."""

import os
import random
import resource
import shutil
from pathlib import Path

import pytest

from actors.value_critic import ValueCritic
from tests.flows.faults import HangingCritic, NanCritic, fill_the_disk_of_rank_0, replace_data
from tests.flows.world import (
    NUM_STEPS,
    SlowCritic,
    configured,
    meanwhile,
    metrics_of,
    run,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.errors import WmtpError
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.training.checkpoint import find_damage, list_checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def message_of_failed(config: RunConfig, critic_class: type[ValueCritic] = SlowCritic) -> str:
    """Run, expect a failure that names its cause, and whole checkpoints to go on from."""
    with pytest.raises(WmtpError) as failure:
        run(config, critic_class)
    assert read_result(config.run_dir).status == "FAILED"
    assert all(find_damage(checkpoint) is None for checkpoint in list_checkpoints(config.run_dir / "checkpoints"))
    return str(failure.value)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process")
def test_full_disk_torn_checkpoint_and_replaced_data_are_named_and_resumed(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    data = Path(shutil.copy(world / "datasets_local_small" / "list_tasks" / "train.jsonl", world / "replaced.jsonl"))
    config = configured(world, "named-and-resumed", f"data.train_file={data}")
    run_dir = config.run_dir

    with meanwhile(lambda: fill_the_disk_of_rank_0(run_dir)):
        message = message_of_failed(config)
    assert "could not be written" in message
    assert "free disk space" in message.lower()

    *_, newest = list_checkpoints(run_dir / "checkpoints")
    torn = random.Random(0).choice(sorted(path for path in newest.rglob("*") if path.is_file()))
    os.truncate(torn, torn.stat().st_size // 2)
    whole = data.read_bytes()

    with meanwhile(lambda: replace_data(run_dir, data)):
        message = message_of_failed(config)
    assert str(data) in message
    assert any(
        f"{newest} is damaged ({torn.relative_to(newest)}" in warning for warning in read_result(run_dir).warnings
    )

    data.write_bytes(whole)
    result = run(config)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))


def test_a_loss_that_is_no_number_fails_and_a_mended_critic_goes_on(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    config = configured(world, "no-number")
    message = message_of_failed(config, NanCritic)
    assert "The loss is nan" in message
    assert "the step was not taken" in message
    assert [line["step"] for line in metrics_of(config.run_dir)] == list(range(6))
    assert run(config).policy_sha256 == uninterrupted[1].policy_sha256


@pytest.mark.slow
def test_a_critic_that_hangs_again_and_again_is_named(world: Path, cluster: ClusterConfig) -> None:
    config = configured(world, "hangs-again", "deadlines.score_s=8")
    message = message_of_failed(config, HangingCritic)
    assert "critic_0 did not answer within 8 s (deadlines.score_s)" in message
    assert "step 7" in message
    assert "process 3 of 3" in message
    assert "--resume continues" in message
    assert sum("critic_0 stopped" in warning for warning in read_result(config.run_dir).warnings) == 3
