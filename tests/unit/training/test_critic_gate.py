"""What the gate makes of a critic's health; and that a run decides once."""

import json
from pathlib import Path

import pytest

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.tracking.decisions import GateDecision, note_gate
from wmtp_ray.training.critic_gate import gate_critic, gate_given_critic
from wmtp_ray.training.measure_critic import HealthFindings
from wmtp_ray.training.stages import StageResult, write_stage_result

HEALTHY, HOPELESS = HealthFindings({}), HealthFindings({"critic/auc_100": 0.5}, ["AUC at the end 0.500 is below 0.52"])


@pytest.fixture
def config(nano, tmp_path: Path) -> RunConfig:
    return nano.load().model_copy(update={"storage_root": tmp_path, "run_name": "run"})


def gated_by(config: RunConfig, gate: str) -> RunConfig:
    return config.model_copy(update={"critic": config.critic.model_copy(update={"gate": gate})})


def begin_stage_2(config: RunConfig, weighting: str) -> None:
    config.run_dir.mkdir(parents=True)
    start = {"path": "model", "weights_sha256": None, "training": None}
    (config.run_dir / "start.json").write_text(json.dumps({"weighting": weighting, "start": start}))


@pytest.mark.parametrize(
    ("gate", "outcome", "weighting", "words"),
    [
        ("warn", "warned", "td", "critic.gate=warn: stage 2 went on with its weights"),
        ("uniform", "fell back", "uniform", "critic.gate=uniform: stage 2 ran with uniform weights"),
        ("stop", "stopped", "td", "critic.gate=stop ends the run here"),
    ],
)
def test_an_unhealthy_critic_gets_what_the_gate_says(
    config: RunConfig, gate: str, outcome: str, weighting: str, words: str
) -> None:
    gated = gate_critic(gated_by(config, gate), HOPELESS, Path("critic"))
    assert gated.decision == GateDecision(outcome, "critic", ("AUC at the end 0.500 is below 0.52",))
    assert gated.config.weighting.type == weighting
    (warning,) = gated.warnings
    assert words in warning
    assert "AUC at the end 0.500" in warning


def test_without_stage_2_there_is_nothing_to_fall_back_in(config: RunConfig) -> None:
    alone = gated_by(config, "uniform").model_copy(update={"stages": (0, 1)})
    gated = gate_critic(alone, HOPELESS, Path("critic"))
    assert (gated.decision.outcome, gated.config.weighting.type) == ("unhealthy", "td")


def test_a_healthy_critic_passes(config: RunConfig) -> None:
    gated = gate_critic(gated_by(config, "uniform"), HEALTHY, Path("critic"))
    assert (gated.decision.outcome, gated.config.weighting.type, gated.warnings) == ("passed", "td", ())


def test_a_critic_given_without_its_health_is_on_record_as_not_measured(config: RunConfig, tmp_path: Path) -> None:
    gated = gate_given_critic(gated_by(config, "uniform"), tmp_path / "critic" / "final")
    assert (gated.decision.outcome, gated.config.weighting.type) == ("not measured", "td")
    assert "critic.gate=uniform could not judge it" in gated.warnings[0]


@pytest.mark.parametrize(
    ("begun", "now", "outcome"), [("uniform", HEALTHY, "fell back"), ("td", HOPELESS, "passed")], ids=lambda each: None
)
def test_a_resumed_run_keeps_what_it_began_with_though_the_critics_files_say_otherwise(
    config: RunConfig, tmp_path: Path, begun: str, now: HealthFindings, outcome: str
) -> None:
    config = gated_by(config, "uniform")
    begin_stage_2(config, begun)
    note_gate(config.run_dir, GateDecision(outcome, "critic", ("then",) if outcome == "fell back" else ()))
    critic = tmp_path / "elsewhere"
    critic.mkdir()
    write_stage_result(critic, StageResult(1, 6, "x", now))
    gated = gate_given_critic(config, critic / "final")
    assert gated.config.weighting.type == begun
    assert gated.decision.outcome == outcome
    assert any("stage 2 ran with uniform weights" in text for text in gated.warnings) == (begun == "uniform")


def test_a_run_of_an_earlier_version_keeps_the_weighting_of_its_start(config: RunConfig) -> None:
    begin_stage_2(config, "uniform")
    assert gate_critic(gated_by(config, "warn"), HOPELESS, Path("critic")).config.weighting.type == "uniform"


def test_a_decision_is_open_until_stage_2_begins(config: RunConfig) -> None:
    """A run that the gate has stopped may go on once its critic is better."""
    config.run_dir.mkdir(parents=True)
    note_gate(config.run_dir, GateDecision("stopped", "critic", ("then",)))
    assert gate_critic(gated_by(config, "stop"), HEALTHY, Path("critic")).decision.outcome == "passed"
