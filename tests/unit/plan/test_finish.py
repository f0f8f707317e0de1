"""The finish: correct rows at the end, what comes before as without it, exact steps, an account that stays complete."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plan.test_what_plans_read import load
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.finish import PlannedFinish, num_finish_steps
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.run_plan import check_packing, load_plan, plan_training, save
from wmtp_ray.training.estimate.run_estimate import estimate_run

MakeIndex = Callable[..., RowIndex]
MakeData = Callable[..., DataConfig]
MakeTrain = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("frac", "num_steps", "expected"), [(0.5, 200, 100), (0.25, 10, 3), (0.01, 10, 1), (0.99, 10, 9), (0.5, 1, 1)]
)
def test_a_finish_has_whole_steps_and_leaves_one_before_it(frac: float, num_steps: int, expected: int) -> None:
    assert num_finish_steps(frac, num_steps) == expected


@settings(max_examples=60, deadline=None)
@given(
    frac=st.sampled_from([0.05, 0.3, 0.5, 0.9]),
    batch_sequences=st.none() | st.sampled_from([1, 3]),
    max_steps=st.none() | st.integers(2, 30),
    epochs=st.integers(1, 2),
    curriculum=st.booleans(),
    share=st.none() | st.sampled_from([0.25, 0.5]),
    seed=st.integers(0, 99),
)
def test_the_steps_before_are_those_without_a_finish_and_the_others_correct(
    make_index: MakeIndex,
    make_data: MakeData,
    make_train: MakeTrain,
    frac: float,
    batch_sequences: int | None,
    max_steps: int | None,
    epochs: int,
    curriculum: bool,
    share: float | None,
    seed: int,
) -> None:
    index, data = make_index(500, seed=seed), make_data()
    sampling = {"curriculum_learning": curriculum, "correct_share": share, "seed": seed}
    options = {"batch_sequences": batch_sequences, "max_steps": max_steps, "epochs": epochs, "sampling": sampling}
    without = plan_training(index, data, make_train(**options), seed)
    if without.num_steps < 2:
        return
    plan = plan_training(index, data, make_train(**options, finish_correct_frac=frac), seed)
    assert plan.num_steps == without.num_steps
    assert plan.finish is not None
    start = plan.num_steps - num_finish_steps(frac, plan.num_steps)
    assert plan.finish.start_step == start
    for step in range(start):
        assert plan.step_row_ids(step).tolist() == without.step_row_ids(step).tolist()
    for step in range(start, plan.num_steps):
        assert index.is_correct_R[plan.step_row_ids(step)].all()
    if batch_sequences is not None:
        assert len(plan.sequence_starts_Q) == plan.num_steps * batch_sequences + 1
        loads = np.add.reduceat(index.num_tokens_R[plan.row_ids_P], plan.sequence_starts_Q[:-1])
        assert loads.max() <= 256
    check_packing(plan, index, num_ranks=1, micro_batch_tokens=256)
    assert plan.phases[0].start_step == 0
    assert plan.phases[-1].end_step == plan.num_steps
    assert sum(sum(phase.rows_by_bin.values()) for phase in plan.phases) == plan.num_rows
    assert plan.counts.tokens == sum(phase.tokens for phase in plan.phases)
    counts = plan.counts
    found = sum(counts.left_out.values()) + sum(counts.outside_bins.values()) + counts.available_rows
    assert found == counts.index_rows
    assert counts.problems == len(np.unique(index.problem_R[plan.row_ids_P]))


def test_a_finish_shows_every_correct_row_as_often_and_in_another_order_each_epoch(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(400, correct=[row % 16 == 0 for row in range(400)])
    sampling = {"curriculum_learning": False, "n_samples": 1000}
    train = make_train(epochs=4, batch_rows=5, max_steps=100, finish_correct_frac=0.5, sampling=sampling)
    plan = plan_training(index, make_data(valid_problems_frac=0, max_tokens=200), train, 3)
    assert plan.finish == PlannedFinish(start_step=50, available_rows=25)
    rows = plan.row_ids_P[250:]
    epochs = [rows[start : start + 25].tolist() for start in range(0, 250, 25)]
    assert all(sorted(epoch) == list(range(0, 400, 16)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_finish_has_the_difficulties_of_its_part_of_the_schedule(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    """The module's example: phases [0, 0.7] low and [0.7, 1] high, of 20 steps the last half."""
    index = make_index(4000, difficulties=[2, 9] * 2000)
    schedule = [
        {"epoch_range": (0.0, 0.7), "difficulty_weights": {"low": 1.0}},
        {"epoch_range": (0.7, 1.0), "difficulty_weights": {"high": 1.0}},
    ]
    sampling = {"difficulty_schedule": schedule, "n_samples": 160}
    plan = plan_training(index, make_data(), make_train(finish_correct_frac=0.5, sampling=sampling), 3)
    assert [(phase.name, phase.start_step, phase.end_step) for phase in plan.phases] == [
        ("phase 1 (0 to 0.7)", 0, 10),
        ("finish, 0.5 to 0.7, correct rows", 10, 14),
        ("finish, 0.7 to 1, correct rows", 14, 20),
    ]
    assert [tuple(phase.rows_by_bin.values()) for phase in plan.phases] == [(80, 0, 0), (32, 0, 0), (0, 0, 48)]
    assert plan.phases[0].wanted_rows_by_bin == {"low": 80, "medium": 0, "high": 0}
    assert plan.warnings == ()


def test_a_run_of_correct_rows_keeps_them_and_only_its_weights_change(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index, data = make_index(), make_data(policy_rows="correct_only")
    plain = plan_training(index, data, make_train(), 3)
    finished = plan_training(index, data, make_train(finish_correct_frac=0.5), 3)
    assert finished.row_ids_P.tolist() == plain.row_ids_P.tolist()
    assert finished.finish == PlannedFinish(plain.num_steps // 2, plain.counts.available_rows)
    assert plain.finish is None
    assert finished.digest != plain.digest


def test_the_cap_and_the_classes_of_problems_hold_in_a_finish(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(600, num_problems=150)
    sampling = {"max_rows_per_problem": 1, "problem_classes": ["both"], "curriculum_learning": False}
    plan = plan_training(index, make_data(), make_train(finish_correct_frac=0.5, epochs=3, sampling=sampling), 3)
    assert plan.finish is not None
    rows = np.unique(plan.row_ids_P[plan.step_starts_S[plan.finish.start_step] :])
    assert np.unique(index.problem_R[rows], return_counts=True)[1].max() == 1
    incorrect = set(index.problem_R[~index.is_correct_R].tolist())
    assert set(index.problem_R[rows].tolist()) <= incorrect


@pytest.mark.parametrize("batch_sequences", [None, 2])
def test_a_finish_without_correct_rows_is_refused(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, batch_sequences: int | None
) -> None:
    index = make_index(400, num_problems=200)
    sampling = {"problem_classes": ["only_incorrect"], "curriculum_learning": False}
    train = make_train(finish_correct_frac=0.5, batch_sequences=batch_sequences, sampling=sampling)
    with pytest.raises(PlanError, match=r"finish_correct_frac=0.5 ends the run on correct rows.*finish_correct_frac=0"):
        plan_training(index, make_data(), train, 3)


def test_fewer_correct_rows_than_a_step_are_refused(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(400, correct=[row < 5 for row in range(400)])
    train = make_train(finish_correct_frac=0.5, sampling={"curriculum_learning": False})
    with pytest.raises(PlanError, match=r"only \d rows? remains?.*set train.finish_correct_frac=0"):
        plan_training(index, make_data(), train, 3)


def test_a_plan_with_a_finish_is_saved_and_shown(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, tmp_path: Path
) -> None:
    index = make_index()
    plan = plan_training(index, make_data(), make_train(finish_correct_frac=0.4), 3)
    save(plan, tmp_path)
    loaded = load_plan(tmp_path, 2)
    assert (loaded.digest, loaded.finish) == (plan.digest, plan.finish)
    assert plan.finish is not None
    text = render(plan, index, staleness_bound=None)
    steps = plan.num_steps - plan.finish.start_step
    assert f"{steps} steps, from step {plan.finish.start_step} on: all tokens weigh 1" in text
    assert f"{steps * 8} rows, drawn from {plan.finish.available_rows} correct ones" in text


def test_the_estimate_counts_no_scores_and_no_looks_of_a_finish(tmp_path: Path, make_index: MakeIndex) -> None:
    def work(*words: str) -> tuple[float, float]:
        config = load(tmp_path, "train.batch_rows=8", "data.max_tokens=128", *words)
        plan = plan_training(index, config.data, config.train, 3)
        (stage,) = estimate_run(config, {2: plan}, index).stages
        return stage.flops.looking, stage.scoring_flops

    index, finish = make_index(400), "train.finish_correct_frac=0.5"
    td = ("weighting.type=td", "train.value_coef=0.0")
    assert 0.2 < work(*td, finish)[1] / work(*td)[1] < 0.8
    read = work("weighting.type=td", "train.value_coef=0.5", finish)[1]  # the value loss reads every score
    assert read > 1.5 * work(*td, finish)[1]
    surprisal = ("weighting.type=surprisal", "train.value_coef=0.0")
    assert 0.2 < work(*surprisal, finish)[0] / work(*surprisal)[0] < 0.8
