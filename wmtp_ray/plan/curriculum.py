"""The curriculum: which rows every epoch shows, in which order, harder phase by phase.

A phase [a, b] covers that part of the run's steps, over all epochs; its rows are shared out over the difficulty bins by
`difficulty_weights`. Decides rows and order only: ranks and micro-batches are `packing`'s. Suffix: P planned rows.

Example: 10 rows an epoch, 1 epoch, steps of 2 rows, phases [0, 0.5] {low: 0.7, high: 0.3} and [0.5, 1] {high: 1}.
5 steps; the boundary 2.5 rounds to step 3, so phase 1 has 6 rows (4 low, 2 high) and phase 2 has 4 (all high).

With `train.sampling.correct_share` correct and incorrect rows are drawn apart, each by the same phases and bins, and
put at the places of the run that `label_shares` gives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

from wmtp_ray.config.sampling import CurriculumPhase, DifficultySource, Stage2Sampling
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import Candidates, require_a_batch
from wmtp_ray.plan.difficulty import describe_difficulties
from wmtp_ray.plan.label_shares import LabelShare, interleave
from wmtp_ray.plan.phase_draws import (
    PhaseTally,
    RowDraw,
    draw_phases,
    dry_warnings,
    epoch_starts,
    planned_phases,
    rows_in_order,
    schedule_of,
)
from wmtp_ray.plan.phases import PlannedPhase, StageRows, phase_boundaries, run_length
from wmtp_ray.plan.row_pool import RowPool, row_pool

_LABELS = {True: "correct", False: "incorrect"}


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The rows of the run in order, with the tally of every phase, by what the rows of a tally are called."""

    row_ids_P: Int64
    tallies: dict[str, list[PhaseTally]]


def draw_curriculum(
    index: RowIndex,
    candidates: Candidates,
    sampling: Stage2Sampling,
    *,
    difficulty_source: DifficultySource,
    epochs: float,
    max_steps: int | None,
    batch_rows: int,
) -> StageRows:
    """Draw the rows of every epoch, no row twice in one, and order them: phase after phase, shuffled across bins.

    Each epoch draws afresh, from the same rows where problems are capped. With `curriculum_learning` false there is one
    phase, drawn uniformly from all candidates, those outside every bin included, since no difficulty was asked for.
    With `correct_share` an epoch is as long as both labels have rows for it. Raises PlanError when not even one step
    fills.
    """
    pool, schedule = row_pool(index, candidates, sampling, difficulty_source), schedule_of(sampling)
    share = None if sampling.correct_share is None else LabelShare.of(sampling.correct_share)
    num_correct = pool.where(index.is_correct_R).num_rows
    if share is not None:
        _require_both_labels(sampling, num_correct, pool.num_rows - num_correct)
    num_shared = pool.num_rows if share is None else share.longest_epoch(num_correct, pool.num_rows - num_correct)
    rows_per_epoch = min(sampling.n_samples, num_shared)
    _require_a_step(index, pool, sampling, difficulty_source, batch_rows, num_correct, num_shared)
    length = run_length(rows_per_epoch, epochs, max_steps, batch_rows, section="train")
    boundaries = phase_boundaries([phase.epoch_range[1] for phase in schedule], length.num_steps)
    starts = [step * batch_rows for step in boundaries]
    wanted = RowDraw(pool, starts, epoch_starts(starts[-1], rows_per_epoch))
    drawn = _draw(index, wanted, share, schedule, sampling.seed)
    tallies = list(drawn.tallies.values())
    phases = planned_phases(index, pool.bins, schedule, [_sum(each) for each in zip(*tallies, strict=True)], boundaries)
    return StageRows(
        row_ids_P=drawn.row_ids_P,
        phases=phases,
        left_out=pool.left_out,
        outside_bins=pool.outside_bins,
        available_rows=pool.num_rows,
        rows_per_epoch=rows_per_epoch,
        incomplete_rows=length.incomplete_rows,
        pairs=0,
        length_matched_pairs=0,
        warnings=(
            *_size_warnings(sampling, pool, num_correct, num_shared),
            *_empty_phase_warnings(phases, length.num_steps),
            *(text for rows, of_label in drawn.tallies.items() for text in dry_warnings(phases, of_label, rows)),
        ),
    )


def _require_a_step(
    index: RowIndex,
    pool: RowPool,
    sampling: Stage2Sampling,
    source: DifficultySource,
    batch_rows: int,
    num_correct: int,
    num_shared: int,
) -> None:
    """Raise PlanError when the rows that remain do not fill one step."""
    rows_per_epoch = min(sampling.n_samples, num_shared)
    require_a_batch(
        rows_per_epoch,
        batch_rows,
        section="train",
        index_rows=len(index),
        left_out={
            **pool.left_out,
            "outside every difficulty bin (train.sampling.difficulty_bins; "
            f"{describe_difficulties(pool.outside_bins, source)})": sum(pool.outside_bins.values()),
            f"in excess of train.sampling.correct_share={sampling.correct_share} (of {num_correct:,} correct and "
            f"{pool.num_rows - num_correct:,} incorrect rows)": pool.num_rows - num_shared,
            "not drawn (train.sampling.n_samples)": num_shared - rows_per_epoch,
        },
        remedy="raise data.max_tokens or train.sampling.n_samples, widen train.sampling.difficulty_bins, give "
        "`unknown` a weight in train.sampling.difficulty_schedule, choose another data.difficulty_source"
        + ("" if sampling.correct_share is None else ", move train.sampling.correct_share towards the rows' own share"),
    )


def _require_both_labels(sampling: Stage2Sampling, num_correct: int, num_incorrect: int) -> None:
    if min(num_correct, num_incorrect) > 0:
        return
    raise PlanError(
        f"train.sampling.correct_share={sampling.correct_share} asks for rows of both labels, but stage 2 may draw "
        f"from {num_correct:,} correct and {num_incorrect:,} incorrect rows; let train.sampling.problem_classes, "
        "train.sampling.difficulty_bins and data.max_tokens keep rows of both, or set train.sampling.correct_share=null"
    )


def _draw(
    index: RowIndex, wanted: RowDraw, share: LabelShare | None, schedule: Sequence[CurriculumPhase], seed: int
) -> _Drawn:
    """Draw all rows together, or, where a share of correct rows is asked for, those of each label apart."""
    if share is None:
        tallies = draw_phases(wanted, schedule, seed)
        return _Drawn(rows_in_order(tallies), {"rows": tallies})
    of_label = {
        is_correct: draw_phases(
            RowDraw(
                wanted.pool.where(index.is_correct_R == is_correct),
                share.counts(wanted.phase_starts, correct=is_correct),
                share.counts(wanted.epoch_starts, correct=is_correct),
                (label,),
            ),
            schedule,
            seed,
        )
        for is_correct, label in _LABELS.items()
    }
    rows = interleave(share, rows_in_order(of_label[True]), rows_in_order(of_label[False]))
    return _Drawn(rows, {f"{label} rows": of_label[is_correct] for is_correct, label in _LABELS.items()})


def _sum(tallies: Sequence[PhaseTally]) -> PhaseTally:
    first, *others = tallies
    for other in others:
        first = add(first, other)
    return first


def _size_warnings(sampling: Stage2Sampling, pool: RowPool, num_correct: int, num_shared: int) -> tuple[str, ...]:
    if num_shared < min(sampling.n_samples, pool.num_rows):
        return (
            f"train.sampling.correct_share={sampling.correct_share} of {num_correct:,} correct and "
            f"{pool.num_rows - num_correct:,} incorrect rows: an epoch is {num_shared:,} of the {pool.num_rows:,} "
            "available rows, so that it shows no row twice, and each epoch draws afresh; raise train.epochs where "
            "train.max_steps is to be reached",
        )
    if sampling.n_samples > pool.num_rows:
        return (
            f"train.sampling.n_samples={sampling.n_samples:,} but only {pool.num_rows:,} rows are available; all are "
            "used",
        )
    return ()


def _empty_phase_warnings(phases: Sequence[PlannedPhase], num_steps: int) -> tuple[str, ...]:
    return tuple(
        f"{phase.name} gets no step: the run has {num_steps} steps for {len(phases)} phases"
        for phase in phases
        if phase.start_step == phase.end_step
    )
