"""The curriculum: which rows every epoch shows, in which order, harder phase by phase.

A phase [a, b] covers that part of the run's steps, over all epochs; its rows are shared out over the difficulty bins by
`difficulty_weights`. Decides rows and order only: ranks and micro-batches are `packing`'s. Suffixes: R rows of the
index, C candidates, K bins, P planned rows.

Example: 10 rows an epoch, 1 epoch, steps of 2 rows, phases [0, 0.5] {low: 0.7, high: 0.3} and [0.5, 1] {high: 1}.
5 steps; the boundary 2.5 rounds to step 3, so phase 1 has 6 rows (4 low, 2 high) and phase 2 has 4 (all high).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wmtp_ray.config.sampling import CurriculumPhase, DifficultyBins, DifficultySource, Stage2Sampling
from wmtp_ray.contracts import Int16, Int32, Int64, RowIndex
from wmtp_ray.plan.candidates import Candidates, require_a_batch, within_problem_cap
from wmtp_ray.plan.difficulty import describe_difficulties, difficulty_of_rows, rows_by_difficulty
from wmtp_ray.plan.phases import PlannedPhase, StageRows, phase_boundaries, run_length
from wmtp_ray.plan.randomness import draw, shuffled

OVER_CAP = "over the cap of their problem (train.sampling.max_rows_per_problem)"
ALL_ROWS = "all"


@dataclass(frozen=True, eq=False)
class _Pool:
    """The candidates by bin, and the counts of rows that were left out."""

    bins: tuple[str, ...]
    row_ids_by_bin: tuple[Int32, ...]  # half the memory of what holds millions of rows
    outside_bins: dict[int, int]
    left_out: dict[str, int]

    @property
    def num_rows_by_bin(self) -> Int64:
        return np.array([len(row_ids) for row_ids in self.row_ids_by_bin], dtype=np.int64)


@dataclass
class _PhaseTally:
    """What the segments of one phase (one per epoch it touches) came to."""

    wanted_K: Int64
    rows_K: Int64
    missing_K: Int64
    extra_K: Int64
    row_ids: list[Int32] = field(default_factory=list)


def bin_of_rows(difficulty_R: Int16, bins: DifficultyBins) -> npt.NDArray[np.int8]:
    """Return each row's bin as its place in `bins`, -1 outside every bin. Ranges are inclusive and disjoint.

    With {low: [1, 3], medium: [4, 7]}: difficulties [0, 1, 3, 4, 9] -> [-1, 0, 0, 1, -1].
    """
    codes_R = np.full(len(difficulty_R), -1, dtype=np.int8)
    for code, (low, high) in enumerate(bins.values()):
        codes_R[(difficulty_R >= low) & (difficulty_R <= high)] = code
    return codes_R


def rows_by_bin(
    index: RowIndex, row_ids_P: Int64, *, sampling: Stage2Sampling, difficulty_source: DifficultySource
) -> dict[str, int]:
    """Count drawn rows by the bin that they were drawn from."""
    if not sampling.curriculum_learning:
        return {ALL_ROWS: len(row_ids_P)}
    bins = sampling.drawn_bins
    codes_P = bin_of_rows(difficulty_of_rows(index, difficulty_source)[row_ids_P], bins)
    return _by_bin(list(bins), np.bincount(codes_P, minlength=len(bins)))


def largest_remainder(total: int, weights_K: npt.NDArray[np.float64]) -> Int64:
    """Split `total` in proportion to the weights: floors first, the rest to the largest fractions, ties to the first.

    The parts sum to `total` exactly and a weight of 0 gets 0. Example: 10 over [0.7, 0.25, 0.05] -> [7, 3, 0].
    """
    shares_K = total * weights_K / weights_K.sum()
    parts_K: Int64 = np.floor(shares_K).astype(np.int64)
    fractions_K = np.where(weights_K > 0, shares_K - parts_K, -1.0)
    parts_K[np.argsort(-fractions_K, kind="stable")[: total - int(parts_K.sum())]] += 1
    return parts_K


def allot(wanted_K: Int64, weights_K: npt.NDArray[np.float64], available_K: Int64) -> Int64:
    """Give every bin the rows it wants as far as it has them; the other bins supply what exhausted bins lack.

    The missing rows are shared by weight among the bins that this phase weighs and that have rows left; when all of
    those are dry, by rows left among all bins. Needs sum(wanted) <= sum(available). Example: wanted [6, 4, 0] by
    weights [0.6, 0.4, 0], available [2, 5, 9] -> [2, 5, 3].
    """
    assert wanted_K.sum() <= available_K.sum()
    given_K = np.minimum(wanted_K, available_K)
    while (missing := int(wanted_K.sum() - given_K.sum())) > 0:
        spare_K = available_K - given_K
        shares_K = np.where(spare_K > 0, weights_K, 0.0)
        if shares_K.sum() == 0.0:
            shares_K = spare_K.astype(np.float64)
        given_K = given_K + np.minimum(largest_remainder(missing, shares_K), spare_K)
    return given_K


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
    Raises PlanError when not even one step fills.
    """
    pool, schedule = _pool(index, candidates, sampling, difficulty_source), _schedule(sampling)
    available_rows = int(pool.num_rows_by_bin.sum())
    rows_per_epoch = min(sampling.n_samples, available_rows)
    require_a_batch(
        rows_per_epoch,
        batch_rows,
        section="train",
        index_rows=len(index),
        left_out={
            **pool.left_out,
            "outside every difficulty bin (train.sampling.difficulty_bins; "
            f"{describe_difficulties(pool.outside_bins, difficulty_source)})": sum(pool.outside_bins.values()),
            "not drawn (train.sampling.n_samples)": available_rows - rows_per_epoch,
        },
        remedy="raise data.max_tokens or train.sampling.n_samples, widen train.sampling.difficulty_bins, give "
        "`unknown` a weight in train.sampling.difficulty_schedule, choose another data.difficulty_source",
    )
    length = run_length(rows_per_epoch, epochs, max_steps, batch_rows, section="train")
    boundaries = phase_boundaries([phase.epoch_range[1] for phase in schedule], length.num_steps)
    tallies = _draw_phases(pool, schedule, [step * batch_rows for step in boundaries], rows_per_epoch, sampling.seed)
    phases = tuple(
        _planned_phase(index, pool.bins, place, schedule[place], tally, boundaries[place], boundaries[place + 1])
        for place, tally in enumerate(tallies)
    )
    return StageRows(
        row_ids_P=np.concatenate([rows for tally in tallies for rows in tally.row_ids]).astype(np.int64),
        phases=phases,
        left_out=pool.left_out,
        outside_bins=pool.outside_bins,
        available_rows=available_rows,
        rows_per_epoch=rows_per_epoch,
        incomplete_rows=length.incomplete_rows,
        pairs=0,
        length_matched_pairs=0,
        warnings=(
            *_size_warnings(sampling.n_samples, available_rows, phases, length.num_steps),
            *(text for phase, tally in zip(phases, tallies, strict=True) for text in _dry_warnings(phase, tally)),
        ),
    )


def _pool(index: RowIndex, candidates: Candidates, sampling: Stage2Sampling, source: DifficultySource) -> _Pool:
    row_ids_C, left_out = candidates.row_ids_C, dict(candidates.left_out)
    if not sampling.curriculum_learning:
        return _Pool((ALL_ROWS,), (_capped(index, row_ids_C, sampling, left_out).astype(np.int32),), {}, left_out)
    difficulty_R, bins = difficulty_of_rows(index, source), sampling.drawn_bins
    difficulty_C = difficulty_R[row_ids_C]
    codes_C = bin_of_rows(difficulty_C, bins)
    outside_bins = rows_by_difficulty(difficulty_C[codes_C < 0])
    if sampling.max_rows_per_problem is not None:
        row_ids_C = _capped(index, row_ids_C[codes_C >= 0], sampling, left_out)
        codes_C = bin_of_rows(difficulty_R[row_ids_C], bins)
    by_bin = tuple(row_ids_C[codes_C == code].astype(np.int32) for code in range(len(bins)))
    return _Pool(tuple(bins), by_bin, outside_bins, left_out)


def _capped(index: RowIndex, row_ids_C: Int64, sampling: Stage2Sampling, left_out: dict[str, int]) -> Int64:
    """Apply the cap per problem, if there is one, and count in `left_out` what it takes."""
    if sampling.max_rows_per_problem is None:
        return row_ids_C
    kept = row_ids_C[within_problem_cap(index, row_ids_C, sampling.max_rows_per_problem, sampling.seed)]
    left_out[OVER_CAP] = len(row_ids_C) - len(kept)
    return kept


def _schedule(sampling: Stage2Sampling) -> tuple[CurriculumPhase, ...]:
    if sampling.curriculum_learning:
        return sampling.difficulty_schedule
    return (CurriculumPhase(epoch_range=(0.0, 1.0), difficulty_weights={ALL_ROWS: 1.0}),)


def _draw_phases(
    pool: _Pool,
    schedule: Sequence[CurriculumPhase],
    phase_starts: Sequence[int],
    rows_per_epoch: int,
    seed: int,
) -> list[_PhaseTally]:
    """Walk the epochs; in each, allot its part of every phase, draw once per bin, and deal the draw to the phases."""
    num_bins = len(pool.bins)
    zeros_K = np.zeros(num_bins, dtype=np.int64)
    tallies = [_PhaseTally(zeros_K, zeros_K, zeros_K, zeros_K) for _ in schedule]
    total_rows = phase_starts[-1]
    for epoch, start in enumerate(range(0, total_rows, rows_per_epoch)):
        end = min(start + rows_per_epoch, total_rows)
        left_K, given = pool.num_rows_by_bin, []
        for place, phase in enumerate(schedule):
            num_rows = max(0, min(end, phase_starts[place + 1]) - max(start, phase_starts[place]))
            weights_K = np.array([phase.difficulty_weights.get(name, 0.0) for name in pool.bins])
            wanted_K = largest_remainder(num_rows, weights_K)
            given_K = allot(wanted_K, weights_K, left_K)
            left_K = left_K - given_K
            given.append(given_K)
            tally = tallies[place]
            tally.wanted_K = tally.wanted_K + wanted_K
            tally.rows_K = tally.rows_K + given_K
            tally.missing_K = tally.missing_K + np.maximum(wanted_K - given_K, 0)
            tally.extra_K = tally.extra_K + np.maximum(given_K - wanted_K, 0)
        _deal(pool, given, epoch, seed, tallies)
    return tallies


def _deal(pool: _Pool, given: Sequence[Int64], epoch: int, seed: int, tallies: Sequence[_PhaseTally]) -> None:
    """Draw an epoch's rows of each bin and append each phase's share, shuffled across bins."""
    ends_SK = np.cumsum(np.stack(given), axis=0)
    drawn = [
        draw(rows, int(total), seed, "rows", epoch, name)
        for name, rows, total in zip(pool.bins, pool.row_ids_by_bin, ends_SK[-1], strict=True)
    ]
    for place, (end_K, given_K) in enumerate(zip(ends_SK, given, strict=True)):
        parts = [rows[end - num : end] for rows, end, num in zip(drawn, end_K, given_K, strict=True)]
        tallies[place].row_ids.append(shuffled(np.concatenate(parts), seed, "order", epoch, place))


def _planned_phase(
    index: RowIndex,
    bins: Sequence[str],
    place: int,
    phase: CurriculumPhase,
    tally: _PhaseTally,
    start_step: int,
    end_step: int,
) -> PlannedPhase:
    start, end = phase.epoch_range
    return PlannedPhase(
        name=f"phase {place + 1} ({start:.4g} to {end:.4g})",
        start_step=start_step,
        end_step=end_step,
        rows_by_bin=_by_bin(bins, tally.rows_K),
        wanted_rows_by_bin=_by_bin(bins, tally.wanted_K),
        weights={name: float(phase.difficulty_weights.get(name, 0.0)) for name in bins},
        tokens=sum(int(index.num_tokens_R[rows].sum(dtype=np.int64)) for rows in tally.row_ids),
    )


def _by_bin(bins: Sequence[str], rows_K: Int64) -> dict[str, int]:
    return {name: int(rows) for name, rows in zip(bins, rows_K, strict=True)}


def _size_warnings(
    n_samples: int, available_rows: int, phases: Sequence[PlannedPhase], num_steps: int
) -> tuple[str, ...]:
    warnings = []
    if n_samples > available_rows:
        warnings.append(
            f"train.sampling.n_samples={n_samples:,} but only {available_rows:,} rows are available; all are used"
        )
    for phase in phases:
        if phase.start_step == phase.end_step:
            warnings.append(f"{phase.name} gets no step: the run has {num_steps} steps for {len(phases)} phases")
    return tuple(warnings)


def _dry_warnings(phase: PlannedPhase, tally: _PhaseTally) -> list[str]:
    extra = {name: rows for name, rows in _by_bin(list(phase.weights), tally.extra_K).items() if rows}
    sources = ", ".join(f"{name} (+{rows:,})" for name, rows in extra.items())
    unasked = ", ".join(name for name in extra if phase.weights[name] == 0.0)
    note = f"; {unasked}: weight 0 in this phase, but every bin with a weight is dry" if unasked else ""
    return [
        f'{phase.name}: bin "{name}" wanted {wanted:,} rows and only {wanted - int(missing):,} were available; '
        f"the rest came from {sources}{note}"
        for (name, wanted), missing in zip(phase.wanted_rows_by_bin.items(), tally.missing_K, strict=True)
        if missing
    ]
