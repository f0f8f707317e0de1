"""The rendered plan says what a newcomer must know, with the plan's own numbers."""

from collections.abc import Callable

from wmtp_ray.config.schema import CriticStageConfig, DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.render import render
from wmtp_ray.plan.run_plan import plan_critic_stage, plan_training

MakeIndex = Callable[..., RowIndex]
MakeTrain = Callable[..., TrainConfig]
MakeStage = Callable[..., CriticStageConfig]
MakeData = Callable[..., DataConfig]


def test_a_training_plan_shows_phases_account_and_warnings(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index()
    plan = plan_training(index, make_data(), make_train(sampling={"n_samples": 1000}), 3)
    text = render(plan, index, staleness_bound=8)
    for phase in plan.phases:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {phase.name}") and ".." in line]
        for rows in phase.rows_by_bin.values():
            assert f"{rows:,}" in line
    for number in (plan.num_steps, plan.num_rows, plan.counts.tokens, plan.counts.supervised_tokens):
        assert f"{number:,}" in text
    for reason, rows in plan.counts.left_out.items():
        assert not rows or any(line.split() == [f"{rows:,}", *reason.split()] for line in text.splitlines())
    for warning in plan.warnings:
        assert f"! {warning}" in text
    assert "at most 8 steps old" in text
    assert plan.digest[:16] in text


def test_columns_are_aligned(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    index = make_index()
    plan = plan_training(index, make_data(), make_train(), 3)
    lines = render(plan, index, staleness_bound=None).splitlines()
    start = next(place for place, line in enumerate(lines) if line.split()[:2] == ["phase", "steps"])
    assert len({len(line) for line in lines[start : start + 4]}) == 1


def test_no_critic_means_no_staleness(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    index = make_index()
    plan = plan_training(index, make_data(), make_train(sampling={"curriculum_learning": False}), 3)
    assert "staleness" not in render(plan, index, staleness_bound=None)


def test_a_phase_without_steps_is_shown(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    index = make_index()
    text = render(plan_training(index, make_data(), make_train(max_steps=1), 3), index, staleness_bound=None)
    assert text.count(" none ") == 2


def test_a_critic_plan_shows_pairs_and_classes(
    make_index: MakeIndex, make_data: MakeData, make_critic_stage: MakeStage
) -> None:
    index = make_index()
    plan = plan_critic_stage(index, make_data(), make_critic_stage(), 3)
    text = render(plan, index, staleness_bound=None)
    assert "stage 1, pretraining of the critic" in text
    assert "32 correct-incorrect pairs" in text
    assert "32 (50%)" in text
