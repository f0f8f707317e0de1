"""A plan as plain text that a newcomer can read. Changes and decides nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wmtp_ray.config.sampling import DifficultySource
from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.difficulty import describe_difficulties, difficulty_of_rows, rows_by_difficulty
from wmtp_ray.plan.finish import PlannedFinish
from wmtp_ray.plan.phases import PlannedPhase
from wmtp_ray.plan.run_plan import RunPlan
from wmtp_ray.run_folder import CRITIC_STAGE
from wmtp_ray.text_tables import table

DIFFICULTY_NUMBERS: Mapping[DifficultySource, str] = {
    "raw": "the data set's own code, no scale",
    "cf_rating": "Codeforces rating",
    "quantile": "percentile among the problems of the same site and kind of grade",
}


def render(plan: RunPlan, index: RowIndex, *, staleness_bound: int | None) -> str:
    """Describe a plan: its size, phases, difficulties, what was left out and why, and warnings.

    `staleness_bound` = lookahead_steps + publish_every - 1 where a critic scores ahead, else None.
    """
    name = "stage 1, pretraining of the critic" if plan.stage == CRITIC_STAGE else "stage 2, training of the policy"
    sections = [
        f"Plan of {name}\n{_words(_size(plan, index, staleness_bound))}",
        f"Phases: rows, and in brackets the share that was asked for\n{table(_phases(plan))}",
        f"Difficulty of the planned rows, in rows by {DIFFICULTY_NUMBERS[plan.difficulty_source]}\n"
        + _words(_difficulties(plan, index)),
        f"Where the rows of the file went\n{table(_account(plan), left=(1,))}",
    ]
    if plan.warnings:
        sections.append("\n".join(["Warnings", *(f"  ! {warning}" for warning in plan.warnings)]))
    return "\n\n".join(sections) + "\n"


def _size(plan: RunPlan, index: RowIndex, staleness_bound: int | None) -> list[list[str]]:
    counts = plan.counts
    rows = [
        ["file", f"{Path(index.path).name}, {counts.index_rows:,} rows, fingerprint {plan.dataset_fingerprint[:12]}"],
        ["steps", _steps(plan)],
        ["sequences", _sequences(plan)],
        ["problems", f"{counts.problems:,}"],
        ["tokens", f"{counts.tokens:,}, {counts.tokens / plan.num_rows:,.0f} a row"],
        [
            "supervised",
            f"{counts.supervised_tokens:,} tokens: the responses with their end, what the model learns to write",
        ],
        ["held out", f"{counts.held_out_problems:,} problems, never trained on"],
    ]
    if plan.stage != CRITIC_STAGE:
        num_correct = int(index.is_correct_R[plan.row_ids_P].sum())
        rows.append(["labels", f"{num_correct:,} correct and {plan.num_rows - num_correct:,} incorrect rows"])
    if counts.pairs:
        matched_frac = counts.length_matched_pairs / counts.pairs
        rows.append(["pairs", f"{counts.pairs:,} correct-incorrect pairs, {matched_frac:.0%} of about equal length"])
    if staleness_bound is not None:
        rows.append(["staleness", f"scores come from a critic at most {staleness_bound} steps old"])
    if plan.finish is not None:
        rows.append(["finish", _finish(plan, plan.finish)])
    if plan.horizon_starts:
        further = ", ".join(f"{k} from step {start:,}" for k, start in enumerate(plan.horizon_starts, start=1) if k > 1)
        rows.append(["horizons", f"1 from the first step{f', {further}' if further else ''} on"])
    rows.append(["seeds", f"{plan.seed} (held-out problems), {plan.sampling_seed} (rows and order)"])
    rows.append(["digest", plan.digest[:16]])
    return rows


def _steps(plan: RunPlan) -> str:
    if plan.batch_rows is None:
        return f"{plan.num_steps:,} of {plan.batch_sequences:,} packed sequences (epochs: {plan.epochs})"
    steps_per_epoch = plan.counts.rows_per_epoch / plan.batch_rows
    return f"{plan.num_steps:,} of {plan.batch_rows:,} rows (epochs: {plan.epochs} of {steps_per_epoch:,.1f} steps)"


def _finish(plan: RunPlan, finish: PlannedFinish) -> str:
    """What its steps hold, and how often each of its rows is shown."""
    num_rows = plan.num_rows - int(plan.step_starts_S[finish.start_step])
    return (
        f"{plan.num_steps - finish.start_step:,} steps, from step {finish.start_step:,} on: all tokens weigh 1; "
        f"{num_rows:,} rows, drawn from {finish.available_rows:,} correct ones"
    )


def _sequences(plan: RunPlan) -> str:
    if plan.sequence_tokens is None:
        return f"{plan.num_rows:,}, one for each row"
    num_sequences = len(plan.sequence_starts_Q) - 1
    full_frac = plan.counts.tokens / (num_sequences * plan.sequence_tokens)
    return f"{num_sequences:,} of {plan.sequence_tokens:,} tokens, {full_frac:.1%} full, with {plan.num_rows:,} rows"


def _phases(plan: RunPlan) -> list[list[str]]:
    bins = list(plan.phases[0].rows_by_bin)
    header = ["phase", "steps", "rows", "tokens", *bins]
    return [header, *(_phase(phase) for phase in plan.phases)]


def _phase(phase: PlannedPhase) -> list[str]:
    num_rows = sum(phase.rows_by_bin.values())
    total_weight = sum(phase.weights.values())
    shares = [f" ({weight / total_weight:.0%})" for weight in phase.weights.values()]
    cells = [
        f"{rows:,}{share}"
        for rows, share in zip(phase.rows_by_bin.values(), shares or [""] * len(phase.rows_by_bin), strict=True)
    ]
    steps = f"{phase.start_step:,}..{phase.end_step - 1:,}" if phase.end_step > phase.start_step else "none"
    return [phase.name, steps, f"{num_rows:,}", f"{phase.tokens:,}", *cells]


def _difficulties(plan: RunPlan, index: RowIndex) -> list[list[str]]:
    difficulty_R, lines = difficulty_of_rows(index, plan.difficulty_source), []
    for phase in plan.phases:
        start, end = plan.step_starts_S[[phase.start_step, phase.end_step]]
        rows = rows_by_difficulty(difficulty_R[plan.row_ids_P[start:end]])
        lines.append([phase.name, describe_difficulties(rows, plan.difficulty_source)])
    return lines


def _account(plan: RunPlan) -> list[list[str]]:
    counts = plan.counts
    lines = [(rows, reason) for reason, rows in counts.left_out.items() if rows]
    if counts.outside_bins:
        by_difficulty = describe_difficulties(counts.outside_bins, plan.difficulty_source)
        lines.append((sum(counts.outside_bins.values()), f"outside every difficulty asked for ({by_difficulty})"))
    lines.append((counts.available_rows - counts.rows_per_epoch, "available, not drawn"))
    lines.append((counts.rows_per_epoch, "drawn for an epoch"))
    account = [*lines, (counts.index_rows, "in the file")]
    if counts.incomplete_rows:
        account.append((counts.incomplete_rows, "rows short of one more step at the end, not shown"))
    return [[f"{rows:,}", reason] for rows, reason in account]


def _words(rows: Sequence[Sequence[str]]) -> str:
    """A table in which every column is words."""
    return table(rows, left=range(len(rows[0])))
