"""The quickstart's last table compares what is comparable: equal steps of every arm from one start. Starts no Ray."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.flows.quickstart import (
    ARM_STEPS,
    BASE_STEPS,
    CORRECT_ROWS,
    TASKS,
    quickstart_arms,
    quickstart_base,
    write_inputs,
)
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.plan.run_plan import RunPlan


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunConfig, RunPlan]]:
    """The three arms as the quickstart plans them, from the model that stands where its base run will leave one."""
    root = tmp_path_factory.mktemp("quickstart")
    write_inputs(root, replace(TASKS, num_train_problems=1000, num_valid_problems=20))
    base = quickstart_base(root, datetime(2026, 1, 1))
    arms = dict(quickstart_arms(base, datetime(2026, 1, 1)))
    for model in (base.run_dir / "final", arms["verifiable"].run_dir / "critic" / "final"):
        model.parent.mkdir(parents=True)
        model.symlink_to(base.model.path)
    return {name: (config, prepare(config).plans[2]) for name, config in arms.items()}


def test_there_are_rows_enough_for_the_steps_of_the_base() -> None:
    base = quickstart_base(Path("/storage"), datetime(2026, 1, 1))
    rows = base.train.epochs * CORRECT_ROWS
    assert base.train.max_steps == BASE_STEPS
    assert rows >= BASE_STEPS * base.train.batch_rows


def test_every_arm_takes_equal_steps_from_one_start(planned: dict[str, tuple[RunConfig, RunPlan]]) -> None:
    assert set(planned) == {"baseline", "verifiable", "shuffled"}
    assert {plan.num_steps for _, plan in planned.values()} == {ARM_STEPS}
    (start,) = {config.model.path for config, _ in planned.values()}
    assert Path(start).parent.name.startswith("quickstart-base-")


def test_every_arm_learns_from_as_many_supervised_tokens_as_equal_steps_allow(
    planned: dict[str, tuple[RunConfig, RunPlan]],
) -> None:
    tokens = [plan.counts.supervised_tokens for _, plan in planned.values()]
    assert max(tokens) < 1.05 * min(tokens)


def test_the_control_differs_from_the_method_in_its_weights_alone(
    planned: dict[str, tuple[RunConfig, RunPlan]],
) -> None:
    method, control = planned["verifiable"], planned["shuffled"]
    assert method[1].digest == control[1].digest, "the same rows in the same steps"
    assert control[0].weighting.type == "shuffled"
    assert control[0].critic.path == method[0].run_dir / "critic" / "final"
    assert control[0].train == method[0].train


def test_the_critic_has_a_trunk_of_its_own_and_the_policy_no_value_loss(
    planned: dict[str, tuple[RunConfig, RunPlan]],
) -> None:
    for name in ("verifiable", "shuffled"):
        critic = planned[name][0].critic
        assert (critic.source, critic.train_trunk, critic.value_error, critic.pairs) == ("frozen", True, "bce", "edit")
        assert planned[name][0].train.value_coef == 0.0


def test_few_problems_have_correct_rows_and_all_of_them_are_drawn(
    planned: dict[str, tuple[RunConfig, RunPlan]],
) -> None:
    baseline, method = planned["baseline"][1].counts, planned["verifiable"][1].counts
    assert baseline.rows_per_epoch == 1000 // 16 * TASKS.num_correct
    assert method.rows_per_epoch == baseline.rows_per_epoch + 1000 * TASKS.num_incorrect
