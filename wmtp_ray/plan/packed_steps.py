"""Steps of packed sequences: the curriculum's rows, packed phase by phase, a fixed number of sequences to a step.

A step of rows (`train.batch_rows`) has as many tokens as its rows happen to have; a step of sequences
(`train.batch_sequences`) has nearly the same number every time, on every rank. Packing is `best_fit`'s, drawing
`curriculum`'s. Suffixes: P planned rows, Q sequences, S steps.

Example: 3 sequences of up to 8 tokens make a step; phase 1 packs into 7 sequences, phase 2 into 4. Eleven sequences are
three steps; the last two are left out. Phase 2 begins with sequence 7, in the step 7 / 3 rounds to: 2.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.best_fit import pack_best_fit
from wmtp_ray.plan.phases import PlannedPhase, StageRows
from wmtp_ray.plan.stage_steps import RowsByBin, StageSteps

WINDOW_ROWS = 128  # how far packing may move a row: twice what fills 98 % of CodeContests' sequences
MOST_DRAWS = 8

DrawRows = Callable[[int | None], StageRows]


def pack_stage(
    index: RowIndex,
    draw_rows: DrawRows,
    rows_by_bin: RowsByBin,
    *,
    sequence_tokens: int,
    batch_sequences: int,
    max_steps: int | None,
) -> StageSteps:
    """Draw and pack so many rows that `max_steps` fill, or all there are; PlanError when a row exceeds a sequence.

    `draw_rows(n)` plans at most n rows (None: all), a row to a step; `rows_by_bin` counts rows by the curriculum's
    bins. How many rows fill the steps is known only after packing, so it is asked for again, with a few more, until
    they do; the phases keep their shares.
    """
    num_rows = None if max_steps is None else _first_guess(index, sequence_tokens * batch_sequences * max_steps)
    for _ in range(MOST_DRAWS):
        rows = draw_rows(num_rows)
        packed = pack_phases(index, rows, rows_by_bin, sequence_tokens, batch_sequences, max_steps)
        if num_rows is None or packed.num_steps == max_steps or len(rows.row_ids_P) < num_rows:
            break
        num_rows = num_rows + num_rows // 50 + batch_sequences
    _require_a_step(packed, rows, sequence_tokens, batch_sequences)
    return packed


def _require_a_step(packed: StageSteps, rows: StageRows, sequence_tokens: int, batch_sequences: int) -> None:
    if packed.num_steps == 0:
        raise PlanError(
            f"train.batch_sequences={batch_sequences} but the {len(rows.row_ids_P):,} rows that remain do not fill as "
            f"many sequences of train.micro_batch_tokens={sequence_tokens:,}; lower either, give more data, or set "
            "train.batch_sequences=null for steps of train.batch_rows rows"
        )


def _first_guess(index: RowIndex, num_tokens: int) -> int:
    """Rows that have so many tokens if they are as long as the index's are on average."""
    return max(1, round(num_tokens / max(1.0, float(index.num_tokens_R.mean()))))


def pack_phases(
    index: RowIndex,
    rows: StageRows,
    rows_by_bin: RowsByBin,
    sequence_tokens: int,
    batch_sequences: int,
    max_steps: int | None,
) -> StageSteps:
    """Pack rows phase by phase into whole steps, at most `max_steps`; `rows` has a row to a step."""
    row_ids, starts, first_sequences = [], [np.zeros(1, np.int64)], [0]
    for phase in rows.phases:
        phase_rows = rows.row_ids_P[phase.start_step : phase.end_step]
        packed = pack_best_fit(index.num_tokens_R[phase_rows], sequence_tokens, window_rows=WINDOW_ROWS)
        row_ids.append(phase_rows[packed.order_P])
        starts.append(starts[-1][-1] + packed.sequence_starts_Q[1:])
        first_sequences.append(first_sequences[-1] + packed.num_sequences)
    num_steps = first_sequences[-1] // batch_sequences
    is_cut = max_steps is not None and max_steps <= num_steps
    num_steps = num_steps if max_steps is None else min(num_steps, max_steps)
    sequence_starts_Q = np.concatenate(starts)[: num_steps * batch_sequences + 1]
    row_ids_P = np.concatenate(row_ids)
    kept_P = row_ids_P[: sequence_starts_Q[-1]]
    steps = [_nearest_step(sequence, batch_sequences, num_steps) for sequence in first_sequences]
    phases = [
        _phase(index, phase, kept_P, rows_by_bin, *steps_of_phase)
        for phase, steps_of_phase in zip(rows.phases, pairwise(steps), strict=True)
    ]
    incomplete_rows = 0 if is_cut else len(row_ids_P) - len(kept_P)
    return StageSteps(
        replace(rows, row_ids_P=kept_P, phases=tuple(phases), incomplete_rows=incomplete_rows),
        step_starts_S=sequence_starts_Q[::batch_sequences],
        sequence_starts_Q=sequence_starts_Q,
    )


def _nearest_step(sequence: int, batch_sequences: int, num_steps: int) -> int:
    """The step that begins nearest to a sequence."""
    return min((2 * sequence + batch_sequences) // (2 * batch_sequences), num_steps)


def _phase(
    index: RowIndex, phase: PlannedPhase, row_ids_P: Int64, rows_by_bin: RowsByBin, start_step: int, end_step: int
) -> PlannedPhase:
    """Count a phase again: packing keeps its rows at their places, of which the last may have been left out."""
    own = row_ids_P[phase.start_step : phase.end_step]
    return replace(
        phase,
        start_step=start_step,
        end_step=end_step,
        rows_by_bin=rows_by_bin(own),
        tokens=int(index.num_tokens_R[own].sum(dtype=np.int64)),
    )
