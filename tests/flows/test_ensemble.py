"""One run on Ray: stage 1 trains an ensemble of critics in halves of the problems, stage 2 is scored by its mean."""

from pathlib import Path

import numpy as np
import pytest

from tests.flows.world import configured, metrics_of, run
from wmtp_ray.artifacts.meta_checkpoint import described_value_spec, load_value_path
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.model.value_ensemble import ValueEnsemble
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.tracking.token_evidence import read_token_evidence
from wmtp_ray.training.stages import read_stage_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_an_ensemble_is_trained_judged_and_scores_as_one_critic(world: Path, cluster: ClusterConfig) -> None:
    overrides = (
        "stages=[0,1,2]",
        "critic.source=frozen",
        "critic.train_trunk=true",
        "critic.ensemble=2",
        "critic.head=mlp",
        "critic.value_error=bce",
        "critic_stage.max_steps=6",
        "critic_stage.batch_rows=16",
        "critic_stage.learning_rate=1e-2",
        "critic_stage.eval_every=2",
        "train.max_steps=3",
        "weighting.max_disagreement=0",
    )
    config = configured(world, "ensemble", *overrides)
    result = run(config)
    assert result.status == "FINISHED"

    bundle = config.run_dir / "critic" / "final"
    critic = load_value_path(bundle, ValueSpec.of(config))
    assert isinstance(critic, ValueEnsemble)
    first, second = (member.state_dict() for member in critic.models)
    for name in ("layers.0.attention.wq.weight", "value_head.output.weight"):
        assert (first[name] != second[name]).any(), f"{name}: the members learned apart"
    stage_1 = read_stage_result(config.run_dir / "critic")
    assert stage_1 is not None
    assert stage_1.health is not None
    assert 0.0 < stage_1.health.metrics["critic/disagreement"] < 0.5

    version = SnapshotDirectory(config.folder.frozen_critic).get(0, 1.0)
    for name, tensor in critic.state_dict().items():
        np.testing.assert_array_equal(version[name].numpy(), tensor.numpy(), err_msg=name)
    steps = [line for line in metrics_of(config.run_dir) if line["stage"] == 2]
    assert len(steps) == 3
    assert all(0.0 < line["critic/disagreement"] < 0.5 for line in steps)
    assert [line["weight/doubtful_frac"] for line in steps] == [1.0] * 3, "at 0 no token is agreed on"
    assert [line["weight/std"] for line in steps] == [0.0] * 3
    assert described_value_spec(config.run_dir / "final").members == 1, "the policy carries one head"
    evidence = read_token_evidence(config.run_dir)
    assert evidence is not None
    assert all(pair.correct.values is not None for pair in evidence.pairs)
