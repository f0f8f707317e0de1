"""What stage 2 draws: the curriculum, as steps of rows or of packed sequences, and the finish that may end it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.candidates import Candidates
from wmtp_ray.plan.curriculum import draw_curriculum
from wmtp_ray.plan.finish import PlannedFinish, correct_candidates, draw_finish, num_finish_steps
from wmtp_ray.plan.packed_steps import pack_phases, pack_stage
from wmtp_ray.plan.phases import StageRows
from wmtp_ray.plan.row_pool import rows_by_bin
from wmtp_ray.plan.stage_steps import RowsByBin, StageSteps, continued, cut, steps_of_rows


@dataclass(frozen=True, eq=False)
class TrainStage:
    """The steps of stage 2; `finish` is None where every step is weighed by the arm."""

    steps: StageSteps
    finish: PlannedFinish | None


def draw_train_stage(index: RowIndex, candidates: Candidates, data: DataConfig, train: TrainConfig) -> TrainStage:
    """Draw stage 2's steps. Raises PlanError when not even one step fills."""
    count = partial(rows_by_bin, index, sampling=train.sampling, difficulty_source=data.difficulty_source)
    steps = _arm_steps(index, candidates, data, train, count)
    if train.finish_correct_frac == 0.0:
        return TrainStage(steps, None)
    num_steps = num_finish_steps(train.finish_correct_frac, steps.num_steps)
    start_step = steps.num_steps - num_steps
    if data.policy_rows == "correct_only":
        return TrainStage(steps, PlannedFinish(start_step, steps.rows.available_rows))
    finish = _finish_steps(index, correct_candidates(index, candidates), data, train, num_steps, count)
    return TrainStage(
        continued(cut(steps, start_step, index, count), finish), PlannedFinish(start_step, finish.rows.available_rows)
    )


def _arm_steps(
    index: RowIndex, candidates: Candidates, data: DataConfig, train: TrainConfig, count: RowsByBin
) -> StageSteps:
    draw_rows = partial(
        draw_curriculum,
        index,
        candidates,
        train.sampling,
        difficulty_source=data.difficulty_source,
        epochs=train.epochs,
    )
    if train.batch_sequences is None:
        return steps_of_rows(draw_rows(max_steps=train.max_steps, batch_rows=train.batch_rows), train.batch_rows)
    return pack_stage(
        index,
        lambda num_rows: draw_rows(max_steps=num_rows, batch_rows=1),
        count,
        sequence_tokens=train.micro_batch_tokens,
        batch_sequences=train.batch_sequences,
        max_steps=train.max_steps,
    )


def _finish_steps(
    index: RowIndex,
    candidates: Candidates,
    data: DataConfig,
    train: TrainConfig,
    num_steps: int,
    count: RowsByBin,
) -> StageSteps:
    draw_rows = partial(
        draw_finish,
        index,
        candidates,
        train.sampling,
        difficulty_source=data.difficulty_source,
        finish_correct_frac=train.finish_correct_frac,
    )
    if train.batch_sequences is None:
        return steps_of_rows(draw_rows(num_steps=num_steps, batch_rows=train.batch_rows), train.batch_rows)
    draw = partial(draw_rows, batch_rows=1)
    return _packed(index, candidates, lambda rows: draw(num_steps=rows), train, num_steps, count)


def _packed(
    index: RowIndex,
    candidates: Candidates,
    draw_rows: Callable[[int], StageRows],
    train: TrainConfig,
    num_steps: int,
    count: RowsByBin,
) -> StageSteps:
    """Draw and pack so many rows that they fill exactly `num_steps` steps; rows are never too few, they repeat."""
    assert train.batch_sequences is not None
    step_tokens = train.micro_batch_tokens * train.batch_sequences
    row_tokens = float(index.num_tokens_R[candidates.row_ids_C].mean()) if len(candidates.row_ids_C) else 1.0
    num_rows = max(1, math.ceil(num_steps * step_tokens / row_tokens))
    while True:
        packed = pack_phases(
            index, draw_rows(num_rows), count, train.micro_batch_tokens, train.batch_sequences, num_steps
        )
        if packed.num_steps == num_steps:
            return packed
        num_rows += num_rows // 50 + train.batch_sequences
