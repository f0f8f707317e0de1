"""A share of correct rows: every stretch of the run holds it, no row twice in an epoch, each label its own bins."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.sampling import check_labels
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.label_shares import LabelShare, interleave
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.row_pool import bin_of_rows
from wmtp_ray.plan.run_plan import RunPlan, plan_training

MakeIndex = Callable[..., RowIndex]
MakeData = Callable[..., DataConfig]
MakeTrain = Callable[..., TrainConfig]
SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9])


def correct_by_step(plan: RunPlan, index: RowIndex) -> list[int]:
    return [int(index.is_correct_R[plan.step_row_ids(step)].sum()) for step in range(plan.num_steps)]


def test_the_modules_example() -> None:
    share = LabelShare.of(0.4)
    assert share.is_correct(5).tolist() == [False, False, True, False, True]
    assert interleave(share, np.array([7, 8]), np.array([1, 2, 3])).tolist() == [1, 2, 7, 3, 8]


@given(share=SHARES, start=st.integers(0, 500), length=st.integers(1, 200))
def test_any_stretch_of_a_run_holds_the_share_up_to_one_row(share: float, start: int, length: int) -> None:
    num_correct = LabelShare.of(share).is_correct(start + length)[start:].sum()
    assert abs(num_correct - share * length) < 1
    assert num_correct == LabelShare.of(share).count(start + length, correct=True) - LabelShare.of(share).count(
        start, correct=True
    )


@given(share=SHARES, start=st.integers(0, 500), num_correct=st.integers(1, 60), num_incorrect=st.integers(1, 60))
def test_an_epoch_never_asks_for_more_rows_of_a_label_than_there_are(
    share: float, start: int, num_correct: int, num_incorrect: int
) -> None:
    length = LabelShare.of(share).longest_epoch(num_correct, num_incorrect)
    asked = int(LabelShare.of(share).is_correct(start + length)[start:].sum())
    assert asked <= num_correct
    assert length - asked <= num_incorrect
    longer = length + max(1 / share, 1 / (1 - share)) + 1
    assert longer * share > num_correct or longer * (1 - share) > num_incorrect


@settings(max_examples=40, deadline=None)
@given(share=SHARES, batch_rows=st.sampled_from([4, 8]), curriculum=st.booleans(), seed=st.integers(0, 99))
def test_every_step_holds_the_share_and_no_epoch_a_row_twice(
    make_index: MakeIndex,
    make_data: MakeData,
    make_train: MakeTrain,
    share: float,
    batch_rows: int,
    curriculum: bool,
    seed: int,
) -> None:
    index = make_index(900, seed=seed)
    sampling = {"correct_share": share, "curriculum_learning": curriculum, "n_samples": 1000, "seed": seed}
    plan = plan_training(index, make_data(), make_train(epochs=3, batch_rows=batch_rows, sampling=sampling), seed)
    assert all(abs(found - share * batch_rows) < 1 for found in correct_by_step(plan, index))
    for start in range(0, plan.num_rows, plan.counts.rows_per_epoch):
        epoch_rows = plan.row_ids_P[start : start + plan.counts.rows_per_epoch].tolist()
        assert len(set(epoch_rows)) == len(epoch_rows)
    assert sum(sum(phase.rows_by_bin.values()) for phase in plan.phases) == plan.num_rows
    assert plan.counts.tokens == sum(phase.tokens for phase in plan.phases)


def test_each_label_has_the_difficulties_of_the_phase(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    """Rows of the easy bin are correct, others hardly ever: labels drawn together would make easy steps correct."""
    difficulties = np.arange(3000) % 11 + 1
    index = make_index(
        3000, difficulties=difficulties.tolist(), correct=((difficulties < 4) | (difficulties > 9)).tolist()
    )
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 0.5, "high": 0.5}}]
    incorrect_low = np.arange(3000) % 7 == 0
    index.is_correct_R[incorrect_low] = False
    sampling = {"correct_share": 0.5, "difficulty_schedule": schedule, "n_samples": 400}
    plan = plan_training(index, make_data(), make_train(sampling=sampling), 3)
    bins = {"low": (1, 3), "medium": (4, 7), "high": (8, 11)}
    codes = bin_of_rows(index.difficulty_R[plan.row_ids_P], bins)
    for is_correct in (True, False):
        of_label = codes[index.is_correct_R[plan.row_ids_P] == is_correct]
        assert np.bincount(of_label, minlength=3).tolist() == [100, 0, 100]
    assert plan.warnings == ()


def test_a_dry_bin_is_filled_with_rows_of_the_same_label_and_named(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    difficulties = [2] * 150 + [5] * 150
    correct = [row < 4 or row >= 220 for row in range(300)]
    index = make_index(300, difficulties=difficulties, correct=correct)
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 1.0}}]
    sampling = {"correct_share": 0.5, "difficulty_schedule": schedule, "n_samples": 80}
    plan = plan_training(index, make_data(valid_problems_frac=0), make_train(sampling=sampling), 3)
    assert correct_by_step(plan, index) == [4] * 10
    (warning,) = plan.warnings
    assert 'bin "low" wanted 40 correct rows and only 4 were available; the rest came from medium (+36)' in warning


def test_few_correct_rows_make_short_epochs_and_the_plan_says_so(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(400, correct=[row % 10 == 0 for row in range(400)], difficulties=[2] * 400)
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 1.0}}]
    sampling = {"correct_share": 0.5, "difficulty_schedule": schedule, "n_samples": 1000}
    data, train = make_data(valid_problems_frac=0, max_tokens=200), make_train(epochs=4, sampling=sampling)
    plan = plan_training(index, data, train, 3)
    assert (plan.counts.available_rows, plan.counts.rows_per_epoch, plan.num_steps) == (400, 80, 40)
    (warning,) = plan.warnings
    assert "correct_share=0.5 of 40 correct and 360 incorrect rows: an epoch is 80 of the 400 available rows" in warning
    assert "raise train.epochs" in warning
    correct = plan.row_ids_P[index.is_correct_R[plan.row_ids_P]]
    assert np.unique(correct, return_counts=True)[1].tolist() == [4] * 40
    incorrect = plan.row_ids_P[~index.is_correct_R[plan.row_ids_P]]
    assert len(np.unique(incorrect)) > 100  # each epoch draws afresh
    assert "drawn for an epoch" in render(plan, index, staleness_bound=None)


@pytest.mark.parametrize("problem_classes", [["only_correct"], ["only_incorrect"]])
def test_rows_of_one_label_are_refused_with_their_numbers(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, problem_classes: list[str]
) -> None:
    index = make_index(400, num_problems=200)
    sampling = {"correct_share": 0.5, "problem_classes": problem_classes, "curriculum_learning": False}
    with pytest.raises(
        PlanError, match=r"correct_share=0.5 asks for rows of both labels.*sampling.problem_classes"
    ) as refused:
        plan_training(index, make_data(), make_train(sampling=sampling), 3)
    assert ("and 0 incorrect rows" in str(refused.value)) == (problem_classes == ["only_correct"])


def test_packed_steps_hold_the_share_about(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    index = make_index(2000)
    sampling = {"correct_share": 0.25, "n_samples": 800}
    plan = plan_training(index, make_data(), make_train(batch_sequences=8, sampling=sampling), 3)
    shares = [index.is_correct_R[plan.step_row_ids(step)].mean() for step in range(plan.num_steps)]
    assert index.is_correct_R[plan.row_ids_P].mean() == pytest.approx(0.25, abs=0.01)
    assert all(abs(share - 0.25) < 0.12 for share in shares)


def test_a_share_of_correct_rows_alone_is_refused(make_train: MakeTrain) -> None:
    sampling = make_train(sampling={"correct_share": 0.5}).sampling
    check_labels("mixed", sampling)
    with pytest.raises(ValueError, match=r"correct_share=0.5 with data.policy_rows=correct_only.*policy_rows=mixed"):
        check_labels("correct_only", sampling)
