"""Layouts of ranks through the whole line: the same losses, checkpoints that fit each other, adapters, the export."""

import threading
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.flows.world import SlowCritic, configured, metrics_of, run
from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_policy, load_transformer
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.errors import Interrupted
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.decisions import read_decisions
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.training.checkpoint import read_state
from wmtp_ray.training.export_policy import export_policy

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

NUM_STEPS = 9
# Several micro-batches a step on every rank, a value loss, and a clip that acts.
COMMON = (
    f"train.max_steps={NUM_STEPS}",
    "train.batch_rows=16",
    "train.micro_batch_tokens=256",
    "train.max_grad_norm=0.5",
    "train.learning_rate=1e-3",
    "train.checkpoint_every=3",
)
FSDP2 = ("train.num_workers=2", "train.parallel=fsdp2")
LORA = "model.lora={rank: 4, alpha: 8, dropout: 0.1, targets: [wq, wk, wv, wo, w1, w2, w3]}"


@pytest.fixture(scope="module")
def sharded(world: Path, cluster: ClusterConfig) -> tuple[RunConfig, RunResult]:
    """Two ranks with FSDP2, uninterrupted."""
    config = configured(world, "fsdp2", *COMMON, *FSDP2)
    return config, run(config)


def losses(config: RunConfig) -> list[float]:
    return [line["loss/total"] for line in metrics_of(config.run_dir)]


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_fsdp2_follows_the_losses_of_one_rank_and_of_ddp(
    world: Path, cluster: ClusterConfig, sharded: tuple[RunConfig, RunResult], num_workers: int
) -> None:
    config = configured(world, f"ddp-{num_workers}", *COMMON, f"train.num_workers={num_workers}")
    run(config)
    assert losses(sharded[0]) == pytest.approx(losses(config), abs=1e-5)
    assert len(losses(config)) == NUM_STEPS
    lines = metrics_of(sharded[0].run_dir)
    for line, other in zip(lines, metrics_of(config.run_dir), strict=True):
        assert line["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-3)
        assert line["perf/tokens"] == other["perf/tokens"]
        assert ("critic/drift_kl" in line) == ("critic/drift_kl" in other)
        if "critic/drift_kl" in line:
            assert line["critic/drift_kl"] == pytest.approx(other["critic/drift_kl"], rel=1e-2)
    assert "critic/drift_kl" in lines[-1]
    assert max(line["train/grad_norm"] for line in lines) > 0.5, "the clip acts"
    assert all(line["loss/value"] > 0.0 for line in lines)


def test_a_sharded_run_leaves_a_policy_that_its_checkpoints_export(
    sharded: tuple[RunConfig, RunResult], tmp_path: Path
) -> None:
    config, result = sharded
    final = load_policy(config.run_dir / "final")
    assert tensors_sha256(final.state_dict()) == result.policy_sha256
    assert export_policy(config.run_dir, None, tmp_path / "newest") == result.policy_sha256
    assert export_policy(config.run_dir, 6, tmp_path / "six") != result.policy_sha256
    exported = load_policy(tmp_path / "newest")
    assert tensors_sha256(exported.state_dict()) == result.policy_sha256
    for path in (config.run_dir / "checkpoints").iterdir():
        assert {"__0_0.distcp", "__1_0.distcp"} < {shard.name for shard in (path / "shards").iterdir()}


@pytest.mark.slow
def test_ranks_may_come_and_go_between_two_starts(
    world: Path, cluster: ClusterConfig, sharded: tuple[RunConfig, RunResult]
) -> None:
    """Two ranks, then one, then two again: the same global batches and losses as without a stop."""
    starts = [(*FSDP2,), ("train.num_workers=1", "train.parallel=fsdp2"), (*FSDP2,)]
    saved_by = {}
    for number, layout in enumerate(starts):
        config = configured(world, "elastic", *COMMON, *layout)
        if number < len(starts) - 1:
            run_until(config, step=1 + 3 * number)
        else:
            assert run(config).status == "FINISHED"
        states = [read_state(path) for path in (config.run_dir / "checkpoints").glob("step_*")]
        saved_by |= {state.step: state.world_size for state in states}
    assert set(saved_by.values()) == {1, 2}
    decided = read_decisions(config.run_dir)
    assert [start.changed for start in decided.starts] == [{}, {"train.num_workers": 1}, {}], "beside config.yaml"
    assert decided.tags()["ran.num_ranks"] == "2, 1, 2"
    assert losses(config) == pytest.approx(losses(sharded[0]), abs=1e-6)
    for line, other in zip(metrics_of(config.run_dir), metrics_of(sharded[0].run_dir), strict=True):
        assert (line["step"], line["perf/tokens"]) == (other["step"], other["perf/tokens"])
        assert line["score/staleness_steps"] == other["score/staleness_steps"]


@pytest.mark.slow
def test_adapters_train_on_a_base_that_stays_and_travel_alone(
    world: Path, cluster: ClusterConfig, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    config = configured(world, "lora", *COMMON, *FSDP2, LORA, "train.max_steps=6", "critic.ema_decay=0.5")
    base = file_sha256(config.model.path / "model.safetensors")
    result = run(config)
    lines = metrics_of(config.run_dir)
    assert lines[-1]["loss/policy_unweighted"] < lines[0]["loss/policy_unweighted"]
    assert lines[5]["weight/other_std"] > 0.0, "a version of the critic came from adapters and value head"
    assert file_sha256(config.model.path / "model.safetensors") == base
    carried = list((config.run_dir / "checkpoints" / "step_6" / "snapshots").iterdir())
    for path in carried:
        with safe_open(path, "pt") as file:
            assert all(".lora_" in name or name.startswith("value_head.") for name in file.keys())  # noqa: SIM118
    assert carried
    assert export_policy(config.run_dir, None, tmp_path / "merged") == result.policy_sha256
    before, after = load_transformer(config.model.path), load_transformer(config.run_dir / "final")
    moved = {
        name.split(".")[-2]
        for name, tensor in before.state_dict().items()
        if not tensor.equal(after.state_dict()[name])
    }
    assert moved == {"wq", "wk", "wv", "wo", "w1", "w2", "w3"}
    assert not before.extra_heads[0].attention.wq.weight.equal(after.extra_heads[0].attention.wq.weight)


def run_until(config: RunConfig, step: int) -> None:
    """Run and ask for a stop, as a signal does, once `step` is recorded."""

    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            if len(metrics_of(config.run_dir)) > step:
                (RunFolder(config.run_dir).stop_request).touch()
                return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(Interrupted):
            run(config, SlowCritic)
    finally:
        over.set()
        asking.join()
    assert read_result(config.run_dir).status == "KILLED"
