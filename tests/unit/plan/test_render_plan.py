"""The rendered plan says what a newcomer must know, with the plan's own numbers."""

from collections.abc import Callable

import numpy as np
import pytest

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.difficulty import difficulty_of_rows
from wmtp_ray.plan.render_plan import render
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


def test_a_training_plan_counts_the_rows_of_both_labels(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(correct=[row % 4 == 0 for row in range(400)])
    sampling = {"correct_share": 0.25, "curriculum_learning": False}
    plan = plan_training(index, make_data(), make_train(max_steps=4, sampling=sampling), 3)
    assert "8 correct and 24 incorrect rows" in render(plan, index, staleness_bound=None)


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


@pytest.mark.parametrize(
    ("source", "low", "said"),
    [
        ("raw", (1, 3), "the data set's own code, no scale"),
        ("cf_rating", (1, 1399), "Codeforces rating"),
        ("quantile", (1, 50), "percentile among the problems of the same site"),
    ],
)
def test_a_plan_says_what_its_difficulties_count_in_and_names_the_unknown(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, source: str, low: tuple[int, int], said: str
) -> None:
    problems = np.arange(400) % 12
    index = make_index(problems=problems, difficulties=problems, cf_ratings=np.array([0, 0, 800, 1300])[problems % 4])
    data = make_data(difficulty_source=source, valid_problems_frac=0.0, max_tokens=1000)
    texts = []
    for weights in ({"low": 1.0}, {"low": 0.5, "unknown": 0.5}):
        schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": weights}]
        sampling = {"n_samples": 40, "difficulty_schedule": schedule, "difficulty_bins": {"low": low}}
        plan = plan_training(index, data, make_train(sampling=sampling), 3)
        texts.append(render(plan, index, staleness_bound=None))
    unweighed, weighed = texts
    num_unknown = int((difficulty_of_rows(index, source) == 0).sum())
    assert num_unknown > 0
    assert said in unweighed
    assert f"outside every difficulty asked for (unknown: {num_unknown:,}" in unweighed
    assert unweighed.count("unknown") == 1
    (header,) = [line for line in weighed.splitlines() if line.split()[:2] == ["phase", "steps"]]
    assert header.split()[-2:] == ["low", "unknown"]
    (difficulties,) = [line for line in weighed.splitlines() if "unknown: " in line]
    assert "unknown: 20; " in difficulties


def test_capped_rows_and_other_languages_are_in_the_account(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(languages=[1, 3, 3, 4] * 100)
    data = make_data(languages=["python3"], valid_problems_frac=0.0)
    text = render(
        plan_training(index, data, make_train(sampling={"max_rows_per_problem": 5}), 3), index, staleness_bound=None
    )
    assert "200  in another language (data.languages)" in text
    assert "over the cap of their problem (train.sampling.max_rows_per_problem)" in text
