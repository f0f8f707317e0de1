"""Steps of packed sequences: nothing lost, nothing twice, phases kept, the number of steps known and bounded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.row_pool import bin_of_rows
from wmtp_ray.plan.run_plan import RunPlan, check_packing, load_plan, plan_training, rank_batches, save

MakeIndex = Callable[..., RowIndex]
MakeData = Callable[..., DataConfig]
MakeTrain = Callable[..., TrainConfig]


def planned_rows(plan: RunPlan, index: RowIndex, num_ranks: int) -> list[list[int]]:
    """The rows of every step, put together from all ranks' micro-batches."""
    steps: list[list[int]] = [[] for _ in range(plan.num_steps)]
    for rank in range(num_ranks):
        for batch in rank_batches(
            plan, index, rank=rank, num_ranks=num_ranks, start_step=0, micro_batch_tokens=plan.sequence_tokens or 0
        ):
            steps[batch.step] += batch.row_ids_N.tolist()
    return steps


@settings(max_examples=60, deadline=None)
@given(
    batch_sequences=st.sampled_from([1, 2, 4]),
    epochs=st.integers(1, 2),
    max_steps=st.integers(1, 12) | st.none(),
    curriculum=st.booleans(),
)
def test_every_step_is_so_many_sequences_of_rows_in_their_phase(
    make_index: MakeIndex,
    make_data: MakeData,
    make_train: MakeTrain,
    batch_sequences: int,
    epochs: int,
    max_steps: int | None,
    curriculum: bool,
) -> None:
    index = make_index(num_rows=300)
    train = make_train(
        batch_sequences=batch_sequences,
        epochs=epochs,
        max_steps=max_steps,
        sampling={"n_samples": 120, "curriculum_learning": curriculum},
    )
    plan = plan_training(index, make_data(), train, 3)
    assert max_steps is None or plan.num_steps <= max_steps
    assert len(plan.sequence_starts_Q) == plan.num_steps * batch_sequences + 1
    loads = np.add.reduceat(index.num_tokens_R[plan.row_ids_P], plan.sequence_starts_Q[:-1])
    assert loads.max() <= train.micro_batch_tokens
    _, occurrences = np.unique(plan.row_ids_P, return_counts=True)
    assert occurrences.max() <= epochs
    assert sum(sum(phase.rows_by_bin.values()) for phase in plan.phases) == plan.num_rows
    assert sum(phase.tokens for phase in plan.phases) == plan.counts.tokens == loads.sum()
    assert (plan.phases[0].start_step, plan.phases[-1].end_step) == (0, plan.num_steps)
    for num_ranks in {1, batch_sequences}:
        for step, rows in enumerate(planned_rows(plan, index, num_ranks)):
            assert sorted(rows) == sorted(plan.step_row_ids(step).tolist())


def test_a_phase_counts_the_rows_that_its_bins_gave(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index, train = make_index(num_rows=400), make_train(batch_sequences=2, max_steps=9)
    plan = plan_training(index, make_data(), train, 3)
    start, bins = 0, train.sampling.drawn_bins
    for phase in plan.phases:
        num_rows = sum(phase.rows_by_bin.values())
        codes = bin_of_rows(index.difficulty_R[plan.row_ids_P[start : start + num_rows]], bins)
        assert phase.rows_by_bin == {name: int((codes == code).sum()) for code, name in enumerate(bins)}
        start += num_rows


def test_max_steps_is_reached_where_rows_suffice(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(num_rows=400)
    for max_steps in (1, 2, 5, 8):
        train = make_train(batch_sequences=2, max_steps=max_steps, sampling={"n_samples": 300})
        assert plan_training(index, make_data(), train, 3).num_steps == max_steps


def test_ranks_get_as_many_sequences_each(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    index = make_index(num_rows=400)
    plan = plan_training(index, make_data(), make_train(batch_sequences=4), 3)
    assert check_packing(plan, index, num_ranks=2, micro_batch_tokens=256) == 2
    with pytest.raises(PlanError, match=r"4 sequences a step cannot be dealt to 3 ranks.*multiple of"):
        check_packing(plan, index, num_ranks=3, micro_batch_tokens=256)


def test_rows_that_fill_no_step_are_refused(make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain) -> None:
    with pytest.raises(PlanError, match=r"train.batch_sequences=64 but the \d+ rows .*batch_sequences=null"):
        plan_training(make_index(num_rows=60), make_data(), make_train(batch_sequences=64), 3)


def test_a_packed_plan_is_saved_with_its_sequences_and_says_how_full_they_are(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, tmp_path: Path
) -> None:
    index = make_index(num_rows=400)
    plan = plan_training(index, make_data(), make_train(batch_sequences=2), 3)
    save(plan, tmp_path)
    loaded = load_plan(tmp_path, 2)
    assert loaded.digest == plan.digest
    assert loaded.sequence_starts_Q.tolist() == plan.sequence_starts_Q.tolist()
    text = render(plan, index, staleness_bound=None)
    assert f"{plan.num_steps:,} of 2 packed sequences" in text
    assert "of 256 tokens, 9" in text
