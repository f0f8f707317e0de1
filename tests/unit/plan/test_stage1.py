"""Stage 1's plan: pairs in the same step, honest account, and the critic's health rows."""

from collections import Counter
from collections.abc import Callable

import pytest

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.schema import DataConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import held_out_problems
from wmtp_ray.plan.difficulty import difficulty_of_rows
from wmtp_ray.plan.run_plan import held_out_mask, plan_critic_stage
from wmtp_ray.plan.stage1 import health_rows

MakeIndex = Callable[..., RowIndex]
MakeStage = Callable[..., CriticStageConfig]
MakeData = Callable[..., DataConfig]


def test_every_step_holds_whole_pairs_of_one_problem(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    index = make_index()
    plan = plan_critic_stage(index, make_data(), make_critic_stage(epochs=2), 3, needs_pairs=True)
    assert plan.num_steps == 16
    assert plan.rows_together == 2
    for step in range(plan.num_steps):
        rows = plan.step_row_ids(step)
        assert (index.problem_R[rows[::2]] == index.problem_R[rows[1::2]]).all()
        assert index.is_correct_R[rows[::2]].all()
        assert not index.is_correct_R[rows[1::2]].any()


def test_planned_rows_pass_the_filters_and_the_cap(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    index, data = make_index(), make_data()
    stage = make_critic_stage(sampling={"difficulty_range": (2, 9), "max_rows_per_problem": 6})
    plan = plan_critic_stage(index, data, stage, 3)
    held_out = held_out_mask(index, data, 3)
    for row in plan.row_ids_P:
        assert not held_out[index.problem_R[row]]
        assert 2 <= index.difficulty_R[row] <= 9
        assert index.num_tokens_R[row] <= data.max_tokens
    assert max(Counter(index.problem_R[plan.row_ids_P].tolist()).values()) <= 6
    assert set(plan.counts.outside_bins) <= {0, 1, 10, 11, 12, 13}


def test_one_sided_problems_are_counted_and_left_out(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    index = make_index(
        40,
        num_problems=2,
        problems=[0] * 20 + [1] * 20,
        correct=[True] * 20 + [True, False] * 10,
        difficulties=[5] * 40,
        response_tokens=[9] * 40,
    )
    plan = plan_critic_stage(index, make_data(valid_problems_frac=0.0), make_critic_stage(), 3)
    (one_sided,) = [rows for reason, rows in plan.counts.left_out.items() if "without both" in reason]
    assert one_sided == 20
    assert plan.counts.pairs == plan.counts.length_matched_pairs == 8
    assert "only 16 of 20 available rows fit max_rows_per_problem=16" in plan.warnings[0]


def test_epochs_repeat_the_rows_in_another_order(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    plan = plan_critic_stage(make_index(), make_data(), make_critic_stage(epochs=2), 3)
    first, second = plan.row_ids_P[:64].tolist(), plan.row_ids_P[64:].tolist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_part_of_an_epoch_is_its_first_rows(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    whole = plan_critic_stage(make_index(), make_data(), make_critic_stage(batch_rows=1), 3)
    tenth = plan_critic_stage(make_index(), make_data(), make_critic_stage(batch_rows=1, epochs=0.1), 3)
    assert tenth.row_ids_P.tolist() == whole.row_ids_P[:6].tolist(), "6.4 of 64 rows, rounded down"
    assert tenth.epochs == 0.1
    one_and_a_half = plan_critic_stage(make_index(), make_data(), make_critic_stage(epochs=1.5), 3)
    assert one_and_a_half.num_rows == 96
    with pytest.raises(PlanError, match=r"critic_stage\.epochs=0\.1 of 64 rows are 6 rows.*batch_rows=8"):
        plan_critic_stage(make_index(), make_data(), make_critic_stage(epochs=0.1), 3)


def test_whole_epochs_written_as_a_float_are_the_same_plan(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    one, other = (plan_critic_stage(make_index(), make_data(), make_critic_stage(epochs=n), 3) for n in (2, 2.0))
    assert one.digest == other.digest


def test_unbalanced_stage_draws_whatever_the_class(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    index = make_index(64, correct=[True] * 64, difficulties=[5] * 64)
    data = make_data(valid_problems_frac=0.0, max_tokens=1000)
    plan = plan_critic_stage(index, data, make_critic_stage(sampling={"balance_correct": False}), 3)
    assert plan.phases[0].rows_by_bin == {"correct": 64, "incorrect": 0}
    assert plan.counts.pairs == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_rows": 7}, "batch_rows=7 is odd; set it to 8"),
        ({"sampling": {"correct_ratio": 0.6}}, r"correct_ratio=0\.6"),
        ({"sampling": {"balance_correct": False}}, "balance_correct=False"),
    ],
)
def test_a_pairwise_loss_refuses_what_makes_no_pairs(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData, changes: dict[str, object], message: str
) -> None:
    stage = make_critic_stage(**changes)
    with pytest.raises(PlanError, match=message):
        plan_critic_stage(make_index(), make_data(), stage, 3, needs_pairs=True)
    assert plan_critic_stage(make_index(), make_data(), stage, 3).num_steps >= 8


def test_too_few_rows_for_a_step_are_refused(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    index = make_index(40, correct=[True] * 40)
    with pytest.raises(PlanError, match=r"critic_stage\.batch_rows=8 but only 0 rows remain of 40 .*without both"):
        plan_critic_stage(index, make_data(), make_critic_stage(), 3)


def test_health_rows_are_balanced_capped_and_held_out(make_index: MakeIndex) -> None:
    index = make_index(1000)
    held_out = held_out_problems(index, 0.3, 3)
    rows = health_rows(index, held_out, 24, 3, max_tokens=90, max_rows_per_problem=8, languages=None)
    assert 0 < len(rows) <= 24
    assert held_out[index.problem_R[rows]].all()
    assert index.num_tokens_R[rows].max() <= 90
    assert index.is_correct_R[rows].mean() == 0.5
    assert max(Counter(index.problem_R[rows].tolist()).values()) <= 8


def test_health_rows_are_empty_without_incorrect_rows(make_index: MakeIndex) -> None:
    index = make_index(100, correct=[True] * 100)
    held_out = held_out_problems(index, 0.5, 3)
    assert len(health_rows(index, held_out, 24, 3, max_tokens=90, max_rows_per_problem=8, languages=None)) == 0


def test_health_rows_are_in_the_languages_asked_for(make_index: MakeIndex) -> None:
    index = make_index(400, languages=[1, 2, 3, 4] * 100)
    held_out = held_out_problems(index, 0.3, 3)
    rows = health_rows(index, held_out, 24, 3, max_tokens=90, max_rows_per_problem=8, languages=["python3", "python2"])
    assert len(rows)
    assert set(index.language_R[rows].tolist()) <= {1, 3}


@pytest.mark.parametrize(("source", "ends"), [("cf_rating", (1000, 2000)), ("quantile", (20, 60)), ("raw", (0, 5))])
def test_the_range_counts_in_the_source_chosen(
    make_index: MakeIndex,
    make_critic_stage: MakeStage,
    make_data: MakeData,
    source: str,
    ends: tuple[int, int],
) -> None:
    index = make_index(400, cf_ratings=[0, 800, 1400, 1900, 2400] * 80)
    difficulty = difficulty_of_rows(index, source)
    data = make_data(difficulty_source=source, languages=["python3"])
    plan = plan_critic_stage(index, data, make_critic_stage(sampling={"difficulty_range": ends}), 3)
    low, high = ends
    assert ((difficulty[plan.row_ids_P] >= low) & (difficulty[plan.row_ids_P] <= high)).all()
    assert all(value < low or value > high for value in plan.counts.outside_bins)
    counts = plan.counts
    accounted = sum(counts.left_out.values()) + sum(counts.outside_bins.values()) + counts.available_rows
    assert accounted == counts.index_rows


def test_a_range_without_rows_is_refused_with_what_there_is(
    make_index: MakeIndex, make_critic_stage: MakeStage, make_data: MakeData
) -> None:
    data = make_data(difficulty_source="cf_rating", valid_problems_frac=0.0, max_tokens=1000)
    stage = make_critic_stage(sampling={"difficulty_range": (800, 1200)})
    with pytest.raises(PlanError, match=r"difficulty_range; unknown: 400\).*choose another data\.difficulty_source"):
        plan_critic_stage(make_index(), data, stage, 3)
