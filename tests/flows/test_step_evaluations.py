"""The policy is evaluated while it trains: the run's weights are the same bits, whatever becomes of the evaluator."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.flows.world import NUM_STEPS, SlowCritic, configured, kill_at_step, meanwhile, metrics_of, run
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.run_folder import EVALUATION_STAGE
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.training.best_checkpoint import best_checkpoint
from wmtp_ray.training.checkpoint import list_checkpoints, step_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
INTERVAL, DUE = 4, [0, 4, 8, 12, NUM_STEPS]
PASS = "eval/list_tasks/pass@1"


def test_evaluating_changes_no_bit_of_the_policy_and_its_end_no_run(
    uninterrupted: tuple[RunConfig, RunResult], world: Path, cluster: ClusterConfig
) -> None:
    words = (f"evaluation.every_steps={INTERVAL}", "evaluation.during_limit=4", "evaluation.draft_horizons=1")
    words += ("train.keep_best_by=pass@1", "train.keep_checkpoints=1", "tracking.mlflow=true")
    config = configured(world, "evaluated", *words)
    with meanwhile(lambda: kill_at_step(config.run_dir, "evaluator", 5)) as killed:
        result = run(config, SlowCritic)
    assert result.policy_sha256 == uninterrupted[1].policy_sha256
    assert (result.status, result.steps) == ("FINISHED", NUM_STEPS)
    assert process_id(config.run_dir, "evaluator") != killed[0], "no other evaluator took its place"

    trained = [line for line in metrics_of(config.run_dir) if line["stage"] != EVALUATION_STAGE]
    assert [line["step"] for line in trained] == list(range(NUM_STEPS))
    skipped = [line["step"] + 1 for line in trained if line.get("eval/skipped") == 1.0]
    found = {line["step"]: line[PASS] for line in metrics_of(config.run_dir) if line["stage"] == EVALUATION_STAGE}
    assert sorted([*found, *skipped]) == DUE, "every due step has its numbers, or is counted as skipped"
    assert {0, NUM_STEPS} <= found.keys()
    decided = result.decisions.evaluated_steps
    assert decided is not None
    assert list(decided.left_out) == skipped
    scores = StepScores(config.folder.step_evaluations / decided.key)
    assert {step: scores.pass_at_1(step) for step in scores.steps()} == found
    handed = [line["eval/handover_seconds"] for line in trained if line.get("eval/skipped") == 0.0]
    assert len(handed) == len(found) - 1, "all but that of step 0"

    kept = [step_of(path) for path in list_checkpoints(config.folder.checkpoints)]
    assert NUM_STEPS in kept
    assert (
        step_of(best_checkpoint(config.folder.checkpoints, scores))
        == max((value, step) for step, value in found.items() if step)[1]
    )
    in_mlflow = _mlflow_history(config)
    assert in_mlflow == {step: pytest.approx(value) for step, value in found.items()}
    assert not config.folder.evaluated_snapshots.exists()
    assert all(before["time"] <= after["time"] for before, after in pairwise(trained))


def _mlflow_history(config: RunConfig) -> dict[int, float]:
    """The Pass@1 that MLflow has, by step."""
    from mlflow.tracking import MlflowClient

    from wmtp_ray.tracking.mlflow_run import default_uri, read_mlflow_run_id

    run_id = read_mlflow_run_id(config.run_dir)
    assert run_id is not None
    client = MlflowClient(config.tracking.mlflow_uri or default_uri(config.storage_root))
    return {each.step: each.value for each in client.get_metric_history(run_id, "stage3/eval/list_tasks/pass_1")}
