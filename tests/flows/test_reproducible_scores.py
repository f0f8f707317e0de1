"""Scores do not depend on timing: the final policy is the same bits however and whenever the critic answers."""

import threading
from pathlib import Path

import pytest

from actors.value_critic import ValueCritic
from tests.flows.world import (
    NUM_STEPS,
    DelayedCritic,
    SlowCritic,
    WarningCritic,
    configured,
    kill_at_step,
    metrics_of,
    run,
)
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.tracking.log_lines import LogTail
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.tracking.run_log import ENDED, STARTED

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_run_leaves_what_it_promises(uninterrupted: tuple[RunConfig, RunResult]) -> None:
    config, result = uninterrupted
    lines = metrics_of(config.run_dir)
    assert [line["step"] for line in lines] == list(range(NUM_STEPS))
    assert result.status == "FINISHED"
    assert result.steps == NUM_STEPS
    wanted = {"loss/policy", "loss/policy_unweighted", "loss/value", "weight/mean", "weight/std", "weight/ess_frac"}
    wanted |= {
        "score/staleness_steps",
        "score/wait_s",
        "perf/supervised_tokens_per_s",
        "perf/mfu",
        "perf/data_wait_frac",
        "critic/explained_variance",
        "critic/drift_kl",
        "critic/drift_value",
        "critic/drift_cosine",
    }
    assert wanted <= lines[-1].keys()
    assert lines[-1]["loss/policy_unweighted"] < lines[0]["loss/policy_unweighted"]
    for name in ("config.yaml", "plan.json", "result.json", f"checkpoints/step_{NUM_STEPS}", "final/params.json"):
        assert (config.run_dir / name).exists(), name


def test_the_log_tells_the_way_of_a_run_and_not_its_steps(uninterrupted: tuple[RunConfig, RunResult]) -> None:
    config, _ = uninterrupted
    tail = LogTail(config.run_dir)
    lines = tail.new()
    end = next(place for place, line in enumerate(lines) if line.message == f"{ENDED}done")
    lines = lines[: end + 1]  # other tests evaluate this run again, which it logs as well
    assert {"driver", "rank_0", "critic_0", "metrics"} <= set(tail.processes())
    assert lines[0].message.startswith(STARTED)
    assert lines[-1].message == f"{ENDED}done"
    saved = [line for line in lines if line.message.startswith("Checkpoint of")]
    ends = [f" rank_0 stage=2 step={done - 1} Checkpoint of {done} steps" for done in range(2, NUM_STEPS + 1, 2)]
    assert all(end in line.text for end, line in zip(ends, saved, strict=True))
    published = [line.message for line in lines if "published" in line.message]
    assert published == [f"Version {version} of the critic published" for version in range(0, NUM_STEPS + 1, 3)]
    others = len(lines) - len(saved) - len(published)
    assert others < NUM_STEPS, [line.text for line in lines]
    assert [line for line in lines if line.is_at_least("WARNING") and line.process != "driver"] == []


def test_staleness_keeps_its_bound_and_reaches_it(uninterrupted: tuple[RunConfig, RunResult]) -> None:
    config, _ = uninterrupted
    staleness = [line["score/staleness_steps"] for line in metrics_of(config.run_dir)]
    # K = 2, N = 3: step 4 is scored by version 0, step 5 by version 3.
    assert staleness == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert max(staleness) == config.critic.lookahead_steps + config.critic.publish_every - 1


def test_weights_are_those_of_a_learning_critic(uninterrupted: tuple[RunConfig, RunResult]) -> None:
    config, _ = uninterrupted
    lines = metrics_of(config.run_dir)
    # The head starts at V = 0: only terminal tokens of correct rows weigh until version 3 arrives at step 5.
    assert lines[0]["weight/other_std"] == 0.0
    assert lines[5]["weight/other_std"] > 0.0


@pytest.mark.parametrize(
    ("name", "overrides", "critic_class"),
    [
        ("synchronous", ("critic.mode=sync", "critic.drift_every=0"), ValueCritic),
        ("delayed", (), DelayedCritic),
    ],
)
def test_policy_is_the_same_bits(
    uninterrupted: tuple[RunConfig, RunResult],
    world: Path,
    cluster: ClusterConfig,
    name: str,
    overrides: tuple[str, ...],
    critic_class: type[ValueCritic],
) -> None:
    result = run(configured(world, name, *overrides), critic_class)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256


def test_two_critics_score_as_one_and_warn_as_one(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(world, "pool-of-two", "critic.pool_size=2", "critic.drift_every=1")
    result = run(config, WarningCritic)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    logged = [line for line in LogTail(config.run_dir).new() if "warns on purpose" in line.message]
    assert {(line.process, line.level) for line in logged} == {("critic_0", "WARNING"), ("critic_1", "WARNING")}
    assert all(" stage=2 step=" in line.text for line in logged)
    [told] = [warning for warning in result.warnings if "warns on purpose" in warning]
    assert told in [f"{line.process}: {line.message}" for line in logged]
    assert capsys.readouterr().out.count("warns on purpose") == 1


def test_policy_is_the_same_bits_after_the_critic_was_killed(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    config = configured(world, "critic-killed")
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_at_step(config.run_dir, "critic_0", 4)))
    killer.start()
    result = run(config, SlowCritic)
    killer.join()
    assert killed, "the critic was not killed"
    assert process_id(config.run_dir, "critic_0") != killed[0], "no other critic took its place"
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
