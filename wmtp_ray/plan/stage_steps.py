"""A stage's rows with its steps, whole: cut after some steps, and continued by other rows.

Steps are of so many rows, or of so many packed sequences. Draws and packs nothing. Suffixes: P planned rows, Q
sequences, S steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.plan.phase_draws import largest_remainder
from wmtp_ray.plan.phases import PlannedPhase, StageRows

RowsByBin = Callable[[Int64], dict[str, int]]


@dataclass(frozen=True, eq=False)
class StageSteps:
    """Step s is `rows.row_ids_P[step_starts_S[s]:step_starts_S[s + 1]]`.

    Where steps are packed sequences, sequence q is `rows.row_ids_P[sequence_starts_Q[q]:sequence_starts_Q[q + 1]]`;
    else there are none.
    """

    rows: StageRows
    step_starts_S: Int64
    sequence_starts_Q: Int64

    @property
    def num_steps(self) -> int:
        return len(self.step_starts_S) - 1


def steps_of_rows(rows: StageRows, batch_rows: int) -> StageSteps:
    """Make steps of `batch_rows` rows each."""
    starts_S = np.arange(0, len(rows.row_ids_P) + 1, batch_rows, dtype=np.int64)
    return StageSteps(rows, starts_S, np.empty(0, np.int64))


def cut(steps: StageSteps, num_steps: int, index: RowIndex, rows_by_bin: RowsByBin) -> StageSteps:
    """Keep the first `num_steps` steps; a phase that loses all of its rows goes, with what was warned of it."""
    end = int(steps.step_starts_S[num_steps])
    row_ids_P = steps.rows.row_ids_P[:end]
    kept, gone, start = [], [], 0
    for phase in steps.rows.phases:
        phase_end = start + sum(phase.rows_by_bin.values())
        if start < end:
            own = row_ids_P[start : min(phase_end, end)]
            kept.append(phase if phase_end <= end else _shortened(phase, own, num_steps, index, rows_by_bin))
        else:
            gone.append(phase.name)
        start = phase_end
    warnings = tuple(text for text in steps.rows.warnings if not text.startswith(tuple(gone)))
    return StageSteps(
        replace(steps.rows, row_ids_P=row_ids_P, phases=tuple(kept), warnings=warnings),
        steps.step_starts_S[: num_steps + 1],
        steps.sequence_starts_Q[steps.sequence_starts_Q <= end],
    )


def _shortened(
    phase: PlannedPhase, own: Int64, num_steps: int, index: RowIndex, rows_by_bin: RowsByBin
) -> PlannedPhase:
    wanted_K = largest_remainder(len(own), np.array(list(phase.weights.values())))
    return replace(
        phase,
        start_step=min(phase.start_step, num_steps),
        end_step=num_steps,
        rows_by_bin=rows_by_bin(own),
        wanted_rows_by_bin=dict(zip(phase.weights, wanted_K.tolist(), strict=True)),
        tokens=int(index.num_tokens_R[own].sum(dtype=np.int64)),
    )


def continued(first: StageSteps, second: StageSteps) -> StageSteps:
    """Put the steps of `second` behind those of `first`, whose account of the rows stays."""
    num_rows = len(first.rows.row_ids_P)
    phases = (
        replace(phase, start_step=phase.start_step + first.num_steps, end_step=phase.end_step + first.num_steps)
        for phase in second.rows.phases
    )
    rows = replace(
        first.rows,
        row_ids_P=np.concatenate([first.rows.row_ids_P, second.rows.row_ids_P]),
        phases=(*first.rows.phases, *phases),
        warnings=(*first.rows.warnings, *second.rows.warnings),
    )
    return StageSteps(
        rows,
        np.concatenate([first.step_starts_S, second.step_starts_S[1:] + num_rows]),
        np.concatenate([first.sequence_starts_Q, second.sequence_starts_Q[1:] + num_rows]),
    )
