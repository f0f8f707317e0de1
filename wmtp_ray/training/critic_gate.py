"""The gate before stage 2: what `critic.gate` makes of a critic's health. Decides; the driver writes the decision down.

A run decides once: when stage 2 has begun, a resumed run goes on with what it began with, even if the files of the
critic have changed.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.arms import BASELINE
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.objective.baseline_standing import baseline_standings, gate_words
from wmtp_ray.tracking.decisions import GateDecision, read_decisions
from wmtp_ray.tracking.training_record import weighting_begun_with
from wmtp_ray.training.measure_critic import HealthFindings
from wmtp_ray.training.stages import read_stage_result


@dataclass(frozen=True)
class Gated:
    """What the gate decided, the configuration that stage 2 runs with, and notes for the user."""

    decision: GateDecision
    config: RunConfig
    warnings: tuple[str, ...]


def gate_given_critic(config: RunConfig, critic: Path) -> Gated:
    """Check a critic of another run against the gate, by the health that its stage 1 recorded."""
    recorded = read_stage_result(critic.parent)
    return gate_critic(config, recorded.health if recorded is not None else None, critic)


def gate_critic(config: RunConfig, health: HealthFindings | None, critic: Path) -> Gated:
    """Let stage 2 go on, fall back to uniform weights, or stop, when the critic is unhealthy (`critic.gate`)."""
    if health is not None:
        print(gate_words(health.failures, health.metrics), flush=True)
    begun_with = weighting_begun_with(config.run_dir)
    decision = read_decisions(config.run_dir).gate if begun_with is not None else None
    decision = decision or _decided(config, health, critic)
    weighting = begun_with or (BASELINE.name if decision.outcome == "fell back" else config.weighting.type)
    applied = config.weighting.model_copy(update={"type": weighting})
    return Gated(decision, config.model_copy(update={"weighting": applied}), tuple(_warnings(decision, health, config)))


def _decided(config: RunConfig, health: HealthFindings | None, critic: Path) -> GateDecision:
    if health is None:
        return GateDecision("not measured", str(critic))
    failures = tuple(health.failures)
    if not failures:
        return GateDecision("passed", str(critic))
    if config.critic.gate == "stop":
        return GateDecision("stopped", str(critic), failures)
    if 2 not in config.stages:
        return GateDecision("unhealthy", str(critic), failures)
    return GateDecision("warned" if config.critic.gate == "warn" else "fell back", str(critic), failures)


def _warnings(decision: GateDecision, health: HealthFindings | None, config: RunConfig) -> list[str]:
    unhealthy = f"The critic is unhealthy: {'; '.join(decision.failures)}"
    told = {
        "unhealthy": unhealthy,
        "warned": f"{unhealthy}. critic.gate=warn: stage 2 went on with its weights",
        "fell back": f"{unhealthy}. critic.gate=uniform: stage 2 ran with uniform weights",
        "stopped": f"{unhealthy}. critic.gate=stop ends the run here; see stage_result.json beside the critic",
        "not measured": (
            f"No critic health is recorded beside {decision.critic}: critic.gate={config.critic.gate} could not judge "
            "it. Run stage 1 to measure it"
        ),
    }
    if decision.outcome != "passed":
        return [told[decision.outcome]]
    lost = [each.name for each in baseline_standings(health.metrics) if each.lost] if health is not None else []
    return [f"The critic passes the gate, but does not beat {', '.join(lost)}"] if lost else []
