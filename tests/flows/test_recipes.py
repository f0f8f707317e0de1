"""The recipes through the whole line: a reference on two ranks, a critic of its own from stage 1, the gate."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.flows.world import configured, metrics_of, run
from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_policy, load_transformer
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.data.index_file import load_index
from wmtp_ray.data.rows import parse_row, problem_of
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.baseline_standing import standing_words
from wmtp_ray.report.arms import group_runs
from wmtp_ray.report.saved_run import read_run
from wmtp_ray.tracking.decisions import read_decisions
from wmtp_ray.tracking.mlflow_run import default_uri
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.tracking.tensorboard_run import read_events
from wmtp_ray.tracking.token_evidence import read_token_evidence
from wmtp_ray.tracking.training_record import record_of_run, training_of
from wmtp_ray.training.export_weights import Wanted, export_weights
from wmtp_ray.training.stages import read_stage_result, write_stage_result
from wmtp_ray.training.weighing_models import PlannedRun

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_rho1_keeps_the_ratio_of_the_global_batch_on_two_ranks(world: Path, cluster: ClusterConfig) -> None:
    overrides = (f"reference.path={world / 'models_v2' / 'nano_reference'}", "train.num_workers=2", "train.max_steps=4")
    config = configured(world, "rho1", *overrides, recipe="rho1_weighted")
    result = run(config)
    lines = metrics_of(config.run_dir)
    assert result.steps == len(lines) == 4
    for line in lines:
        # Weights are 1 or 0, so their mean is the kept share: 0.6, rounded up within each horizon.
        assert 0.6 <= line["weight/mean"] < 0.62
        assert line["score/staleness_steps"] == 0
        assert line["loss/policy"] != pytest.approx(line["loss/policy_unweighted"])
    value_head = load_policy(config.run_dir / "final", spec=ValueSpec.of(config)).value_head
    assert float(value_head.output.weight.detach().abs().sum()) == 0.0, "no value loss, so the head stays as it was"


def test_the_oracle_knows_the_bugs_of_rows_whose_correct_twins_stand_in_another_file(
    world: Path, cluster: ClusterConfig
) -> None:
    """Every second problem has lost its correct rows; the own file knows no other row of it, the whole file does."""
    whole = world / "datasets_local_small" / "list_tasks" / "train.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    rows = [parse_row(line.strip(), number, whole) for number, line in enumerate(lines, start=1)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(problem_of(row.task_id) for row in rows))}
    scarce = world / "scarce.jsonl"
    kept = [not row.is_correct or numbers[problem_of(row.task_id)] % 2 == 1 for row in rows]
    scarce.write_bytes(b"".join(line for line, is_kept in zip(lines, kept, strict=True) if is_kept))
    words = ("weighting.type=oracle", "train.value_coef=0", f"data.train_file={scarce}", "data.policy_rows=mixed")
    words = (*words, "train.max_steps=3", "train.num_workers=2")
    own = prepare(configured(world, "own-file", *words))
    assert "weighting.type=oracle: 6" in own.rendered, "two thirds of the rows, at most, belong to problems of both"
    config = configured(world, "oracle", *words, f"weighting.compared_file={whole}")
    assert "weighting.type=oracle: 100.0% of the drawn rows" in prepare(config).rendered
    result = run(config)
    for line in metrics_of(config.run_dir):
        assert line["edits/partner_frac"] == 1.0
        assert 0.0 < line["edits/differing_frac"] < 0.5
        assert line["weight/std"] > 0.05
        assert line["weight/below_0.95_frac"] > 0.0
    assert result.steps == 3
    evidence = read_token_evidence(config.run_dir)
    assert evidence is not None
    jumps = [weight != 1.0 for pair in evidence.pairs for weight in pair.incorrect.weights["oracle"]]
    assert sum(jumps) == len(evidence.pairs), "one token of each"
    assert read_decisions(config.run_dir).compared_with == load_index(whole).file_fingerprint
    _assert_exported_weights_are_those_of_the_run(config, world / "oracle-weights")


def _assert_exported_weights_are_those_of_the_run(config: RunConfig, out: Path) -> None:
    """In one process, without Ray: the weights that the ranks, or the scoring actors, have made of each step."""
    manifest = export_weights(PlannedRun.of_folder(config.run_dir), out, Wanted())
    assert (manifest.weighting, manifest.notes) == (config.weighting.type, ())
    rows = pq.read_table(out / "weights.parquet").to_pylist()
    for line in (line for line in metrics_of(config.run_dir) if line["stage"] == 2):
        of_step = [row for row in rows if row["step"] == line["step"]]
        pairs = [zip(row["weights"], row["labels"], strict=True) for row in of_step]
        weights = [weight for each in pairs for weight, label in each if label >= 0]
        assert (np.mean(weights), np.std(weights)) == pytest.approx((line["weight/mean"], line["weight/std"]))


def test_critic_of_its_own_is_trained_judged_gated_and_frozen(world: Path, cluster: ClusterConfig) -> None:
    """Stage 1 trains a trunk for the critic, the gate asks for the impossible and falls back to uniform weights."""
    overrides = (
        "stages=[0,1,2]",
        "critic.source=frozen",
        "critic.train_trunk=true",
        "critic.gate=uniform",
        "critic.gate_limits.min_auc_end=1.0",
        "critic_stage.max_steps=6",
        "critic_stage.batch_rows=16",
        "train.max_steps=3",
        "tracking.mlflow=true",
        "tracking.mlflow_uri=http://127.0.0.1:9",
        "tracking.sinks=[mlflow,tensorboard]",
    )
    config = configured(world, "frozen-critic", *overrides)
    result = run(config)
    assert result.status == "FINISHED"
    stage_1 = read_stage_result(config.run_dir / "critic")
    assert stage_1 is not None
    assert stage_1.health is not None
    assert {"critic/auc_100", "critic/pair_accuracy", "critic/baseline_length_auc"} <= stage_1.health.metrics.keys()
    assert any("AUC at the end" in failure for failure in stage_1.health.failures)
    lines = metrics_of(config.run_dir)
    steps = [(1, step) for step in range(6)] + [(2, step) for step in range(3)]
    assert [(line["stage"], line["step"]) for line in lines] == steps
    assert all(line["weight/std"] == 0.0 for line in lines if line["stage"] == 2), "the gate chose uniform weights"
    assert any("critic.gate=uniform" in warning for warning in result.warnings)
    assert not any("Lower weighting.beta" in warning for warning in result.warnings), "uniform weights are meant"
    assert any("MLflow" in warning for warning in result.warnings), "a dead tracking server is said, and no more"
    _assert_only_the_critic_moved_in_stage_1(config.run_dir / "critic" / "final", config.model.path)
    training = training_of(config.run_dir / "final", None)
    assert training == record_of_run(config.run_dir), "training.json says what the run's folder says"
    assert (training.steps, training.critic_steps, training.weighting) == (3, 6, "uniform"), "what it really ran with"
    assert training.start.weights_sha256 == file_sha256(config.model.path / "model.safetensors")
    planned = json.loads((config.run_dir / "plan.json").read_text())["counts"]["supervised_tokens"]
    reported = sum(x["perf/supervised_tokens_per_s"] * x["perf/step_s"] for x in lines if x["stage"] == 2)
    assert training.supervised_tokens == planned == round(reported)
    assert stage_1.health.beside_baselines == standing_words(stage_1.health.metrics)
    assert any(each.startswith(("It does not beat: ", "It beats: ")) for each in stage_1.health.beside_baselines)
    _assert_all_records_say_what_ran(config, result)
    _assert_a_resumed_run_keeps_it(configured(world, "frozen-critic", *overrides, "tracking.mlflow_uri=null"))


def _assert_all_records_say_what_ran(config: RunConfig, result: RunResult) -> None:
    """config.yaml says what was asked for, everything else what ran, and where."""
    saved, decided = read_run(config.run_dir), result.decisions
    assert decided is not None
    assert decided == read_decisions(config.run_dir)
    assert saved.config["weighting.type"] == "td"
    assert decided.gate is not None
    assert (decided.gate.outcome, decided.gate.critic) == ("fell back", str(config.run_dir / "critic" / "final"))
    assert result.weighting == decided.weighting == saved.weighting == "uniform"
    assert saved.evidence is not None
    assert saved.evidence.weighting == "uniform"
    ranks = [(each.stage, each.step, each.num_ranks, each.device) for each in decided.places if each.role == "ranks"]
    assert ranks == [(1, 0, 1, "cpu"), (2, 0, 1, "cpu")]
    (arm,) = group_runs([saved])
    assert (arm.name, arm.role) == ("uniform on mixed rows", "baseline")


def _assert_a_resumed_run_keeps_it(config: RunConfig) -> None:
    """Though its critic's file now says that it was healthy. MLflow, which answers this time, is told too."""
    from mlflow import MlflowClient

    stage_1 = read_stage_result(config.run_dir / "critic")
    assert stage_1 is not None
    assert stage_1.health is not None
    write_stage_result(config.run_dir / "critic", replace(stage_1, health=replace(stage_1.health, failures=[])))
    result = run(config)
    write_stage_result(config.run_dir / "critic", stage_1)  # others read it
    assert result.weighting == "uniform"
    assert any("critic.gate=uniform: stage 2 ran with uniform" in warning for warning in result.warnings)
    assert not any("Lower weighting.beta" in warning for warning in result.warnings)
    assert result.decisions is not None
    assert [start.done_before for start in result.decisions.starts] == [(), (1, 2)]
    assert result.decisions.starts[1].changed == {"tracking.mlflow_uri": None}
    client = MlflowClient(tracking_uri=default_uri(config.storage_root))
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`ran.weighting` = 'uniform'")
    assert (found.data.params["weighting.type"], found.info.run_name) == ("td", "frozen-critic")
    assert found.data.tags["ran.gate"].startswith("fell back; ")
    assert found.data.tags["ran.device"] == "cpu"
    files = sorted((config.run_dir / "tensorboard").iterdir())
    assert len(files) == 2, "one of each start"
    events = [event for file in files for event in read_events(file)]
    steps = [each.step for each in events if any(value.tag == "weight/std" for value in each.summary.value)]
    assert steps == [0, 1, 2], "TensorBoard has every step of stage 2 once"


def test_critic_of_another_run_is_judged_by_what_it_recorded_and_does_not_age(
    world: Path, cluster: ClusterConfig
) -> None:
    critic = world / "runs" / "frozen-critic" / "critic" / "final"
    config = configured(world, "frozen-again", "critic.source=frozen", f"critic.path={critic}", "train.max_steps=3")
    result = run(config)
    lines = metrics_of(config.run_dir)
    assert result.steps == 3
    assert [line["score/staleness_steps"] for line in lines] == [0, 0, 0]
    assert any("The critic is unhealthy" in warning and "critic.gate=warn" in warning for warning in result.warnings)
    assert lines[0]["weight/other_std"] > 0.0, "a trained critic weighs from the first step"
    assert all("critic/explained_variance" in line for line in lines), "of the critic that scores"
    assert not any(name.startswith(("policy_head/", "loss/value")) for name in lines[0]), "no head learns unasked"
    _assert_exported_weights_are_those_of_the_run(config, world / "frozen-weights")


def _assert_only_the_critic_moved_in_stage_1(final: Path, start: Path) -> None:
    before, after = load_transformer(start).state_dict(), load_transformer(final).state_dict()
    moved = {name for name in before if tensors_sha256({"": before[name]}) != tensors_sha256({"": after[name]})}
    assert any(name.startswith("layers.0.") for name in moved), "train_trunk trains the trunk"
    assert not any(name.startswith(("extra_heads", "output", "layers.2")) for name in moved), "and nothing above it"
