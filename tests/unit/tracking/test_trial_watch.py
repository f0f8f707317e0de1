"""What stops a trial of a sweep, and what early stopping compares."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.sweep import SweepSpec, load_sweep
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.trial_watch import ComparedWindow, RuleWatch

ESS = "weight/ess_frac"
RULE = "stop_when.weight_collapse={below: 0.5, for_steps: 3}"
COMPARED = "metric: loss/policy_unweighted, window_steps: 3, grace_steps: 1, reduction_factor: 2"


def sweep_of(*words: str) -> SweepSpec:
    return load_sweep("beta_clip_value", ["stop_when.critic_collapse=null", RULE, *words])


def reasons(values: list[float]) -> list[str | None]:
    watch = RuleWatch(sweep_of())
    return [watch.broken_by(StepReport(2, step, {ESS: value})) for step, value in enumerate(values)]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.2, 0.5, 0.9, math.nan]), max_size=12))
def test_a_rule_fires_at_the_first_step_that_ends_so_many_bad_ones(values: list[float]) -> None:
    bad = [math.isnan(value) or value < 0.5 for value in values]
    expected = next((step for step in range(2, len(bad)) if all(bad[step - 2 : step + 1])), None)
    found = next((step for step, reason in enumerate(reasons(values)) if reason is not None), None)
    assert found == expected


def test_the_reason_names_rule_limit_and_step() -> None:
    assert reasons([0.9, 0.1, 0.2, 0.3])[-1] == (
        "weight_collapse: weight/ess_frac below 0.5 for 3 steps, last 0.3 at step 4"
    )


def test_a_rule_may_have_an_upper_limit() -> None:
    watch = RuleWatch(sweep_of("stop_when.weight_collapse={below: null, above: 0.5, for_steps: 1}"))
    assert watch.broken_by(StepReport(2, 0, {ESS: 0.4})) is None
    assert watch.broken_by(StepReport(2, 1, {ESS: 0.6})) is not None


def test_a_rule_that_never_saw_its_metric_is_noted() -> None:
    watch = RuleWatch(sweep_of())
    assert watch.broken_by(StepReport(2, 0, {"loss/total": 1.0})) is None
    assert list(watch.notes()) == ["the rule weight_collapse never saw its metric weight/ess_frac"]
    watch.broken_by(StepReport(2, 1, {ESS: 0.9}))
    assert list(watch.notes()) == []


@pytest.mark.parametrize(("mode", "worst"), [("min", math.inf), ("max", -math.inf)])
def test_early_stopping_compares_the_mean_of_the_last_steps(mode: str, worst: float) -> None:
    window = ComparedWindow(sweep_of(f"early_stopping={{{COMPARED}, mode: {mode}}}"))
    assert window.mean == worst, "a trial without a step beats nobody"
    for value in (9.0, 1.0, 2.0, 3.0):
        window.add(StepReport(2, 0, {"loss/policy_unweighted": value}))
    assert window.mean == 2.0
    window.add(StepReport(2, 0, {"loss/policy_unweighted": math.nan}))
    assert window.mean == worst
