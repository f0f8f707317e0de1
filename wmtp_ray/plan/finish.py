"""The finish (`train.finish_correct_frac`): the last steps of stage 2 draw correct rows, and every token weighs 1.

The steps before it are those of the same run without a finish, row by row. Its difficulties are those that the schedule
has for its part of the run; its epochs are its own, over the correct rows that stage 2 may draw: where these are few,
each is shown often. A run whose rows are correct anyway keeps its rows, and only their weights change.

Example: 20 steps, finish_correct_frac 0.5, phases [0, 0.7] and [0.7, 1]. Steps 0 to 9 are phase 1's; of the ten steps
of the finish the first four are of phase 1 (0.5 to 0.7 is 0.4 of it), the last six of phase 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from wmtp_ray.config.sampling import CurriculumPhase, DifficultySource, Stage2Sampling
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import Candidates, require_a_batch
from wmtp_ray.plan.phase_draws import (
    RowDraw,
    draw_phases,
    dry_warnings,
    epoch_starts,
    planned_phases,
    rows_in_order,
    schedule_of,
)
from wmtp_ray.plan.phases import StageRows, phase_boundaries
from wmtp_ray.plan.row_pool import row_pool

_LABEL = "finish"


@dataclass(frozen=True)
class PlannedFinish:
    """The steps from `start_step` on are the finish; it draws from `available_rows` rows."""

    start_step: int
    available_rows: int


def num_finish_steps(finish_correct_frac: float, num_steps: int) -> int:
    """Return the steps of the finish, rounded to whole ones: at least one, and never all of several."""
    return max(1, min(int(finish_correct_frac * num_steps + 0.5), num_steps - 1))


def correct_candidates(index: RowIndex, candidates: Candidates) -> Candidates:
    """Return the candidates that are correct."""
    row_ids_C = candidates.row_ids_C[index.is_correct_R[candidates.row_ids_C]]
    left_out = dict(candidates.left_out) | {"incorrect": len(candidates.row_ids_C) - len(row_ids_C)}
    return Candidates(row_ids_C, left_out)


def draw_finish(
    index: RowIndex,
    candidates: Candidates,
    sampling: Stage2Sampling,
    *,
    difficulty_source: DifficultySource,
    finish_correct_frac: float,
    num_steps: int,
    batch_rows: int,
) -> StageRows:
    """Draw `num_steps` steps of correct rows, over as many epochs as they take. `candidates` are correct rows.

    Raises PlanError when there is none, or not enough for one step.
    """
    pool = row_pool(index, candidates, sampling, difficulty_source)
    _require_correct_rows(
        pool.num_rows,
        finish_correct_frac,
        {**pool.left_out, "outside every difficulty bin": sum(pool.outside_bins.values())},
        len(index),
    )
    require_a_batch(
        pool.num_rows,
        batch_rows,
        section="train",
        index_rows=len(index),
        left_out=pool.left_out,
        remedy="set train.finish_correct_frac=0",
    )
    schedule = _last_part(schedule_of(sampling), finish_correct_frac)
    boundaries = phase_boundaries([phase.epoch_range[1] for phase in schedule], num_steps)
    whole = [phase.model_copy(update={"epoch_range": _of_run(phase, finish_correct_frac)}) for phase in schedule]
    starts = [step * batch_rows for step in boundaries]
    rows_per_epoch = min(sampling.n_samples, pool.num_rows)
    wanted = RowDraw(pool, starts, epoch_starts(starts[-1], rows_per_epoch), (_LABEL,))
    tallies = draw_phases(wanted, schedule, sampling.seed)
    phases = tuple(
        replace(phase, name=f"finish, {phase.name.partition('(')[2].rstrip(')')}, correct rows")
        for phase in planned_phases(index, pool.bins, whole, tallies, boundaries)
    )
    return StageRows(
        row_ids_P=rows_in_order(tallies),
        phases=phases,
        left_out=pool.left_out,
        outside_bins=pool.outside_bins,
        available_rows=pool.num_rows,
        rows_per_epoch=rows_per_epoch,
        incomplete_rows=0,
        pairs=0,
        length_matched_pairs=0,
        warnings=dry_warnings(phases, tallies, "correct rows"),
    )


def _last_part(schedule: tuple[CurriculumPhase, ...], frac: float) -> tuple[CurriculumPhase, ...]:
    """Return what the schedule says of the last `frac` of a run, as fractions of that part."""
    start, parts = 1.0 - frac, []
    for phase in schedule:
        low, high = phase.epoch_range
        if high > start + 1e-9:
            ends = (max(0.0, (low - start) / frac), (high - start) / frac)
            parts.append(phase.model_copy(update={"epoch_range": ends}))
    return tuple(parts)


def _of_run(phase: CurriculumPhase, frac: float) -> tuple[float, float]:
    low, high = phase.epoch_range
    return 1.0 - frac + low * frac, 1.0 - frac + high * frac


def _require_correct_rows(
    num_rows: int, finish_correct_frac: float, left_out: Mapping[str, int], index_rows: int
) -> None:
    if num_rows:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    raise PlanError(
        f"train.finish_correct_frac={finish_correct_frac} ends the run on correct rows, but stage 2 may draw none of "
        f"the {index_rows:,} rows ({reasons}): give data with correct rows, let train.sampling.problem_classes, "
        "train.sampling.difficulty_bins or data.max_tokens keep some, or set train.finish_correct_frac=0"
    )
