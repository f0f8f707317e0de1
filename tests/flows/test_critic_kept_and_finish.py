"""One run on Ray: stage 1 keeps its best version and ends early, stage 2 ends on correct rows that nobody scores."""

from pathlib import Path

import numpy as np
import pytest

from tests.flows.world import configured, metrics_of, run
from wmtp_ray.artifacts.meta_checkpoint import load_policy
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.contracts import IN_FINISH
from wmtp_ray.data.index_file import load_index
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.run_plan import load_plan
from wmtp_ray.training.stages import read_stage_result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_best_critic_scores_until_the_finish(world: Path, cluster: ClusterConfig) -> None:
    overrides = (
        "stages=[0,1,2]",
        "critic.source=frozen",
        "critic.train_trunk=true",
        "critic_stage.max_steps=40",
        "critic_stage.epochs=4",
        "critic_stage.batch_rows=16",
        "critic_stage.learning_rate=2e-2",
        "critic_stage.eval_every=2",
        "critic_stage.patience=2",
        "train.max_steps=8",
        "train.epochs=4",
        "train.finish_correct_frac=0.5",
        "train.sampling.correct_share=0.25",
        "train.num_workers=1",
    )
    config = configured(world, "kept", *overrides)
    result = run(config)
    assert result.status == "FINISHED"

    stage_1 = read_stage_result(config.run_dir / "critic")
    assert stage_1 is not None
    kept = stage_1.kept
    assert kept is not None
    assert result.decisions is not None
    assert result.decisions.critic == kept
    losses = {reading.step: reading.loss for reading in kept.readings}
    assert kept.loss == losses[kept.step] == min(losses.values())
    assert (stage_1.steps, list(losses)) == (kept.steps, list(range(2, kept.steps + 1, 2)))
    assert kept.steps in (kept.step + 4, kept.planned_steps)
    lines = metrics_of(config.run_dir)
    told = {line["step"] + 1: line["held_out/critic_loss"] for line in lines if "held_out/critic_loss" in line}
    assert told == losses
    (attempt,) = (config.run_dir / "critic" / "snapshots").iterdir()
    version = SnapshotDirectory(attempt).get(kept.step, 1.0)
    published = load_policy(config.run_dir / "critic" / "final", spec=ValueSpec.of(config)).state_dict()
    assert version.keys() <= published.keys()
    for name, tensor in version.items():
        np.testing.assert_array_equal(published[name].numpy(), tensor.numpy(), err_msg=name)

    plan, index = load_plan(config.run_dir, 2), load_index(config.data.train_file)
    assert plan.finish is not None
    assert plan.finish.start_step == 4
    steps = [line for line in lines if line["stage"] == 2]
    assert [IN_FINISH in line for line in steps] == [False] * 4 + [True] * 4
    assert ["critic/explained_variance" in line for line in steps] == [True] * 4 + [False] * 4
    assert all(line["weight/std"] == 0.0 for line in steps[4:])
    shares = [float(index.is_correct_R[plan.step_row_ids(step)].mean()) for step in range(8)]
    assert shares == [0.25] * 4 + [1.0] * 4
