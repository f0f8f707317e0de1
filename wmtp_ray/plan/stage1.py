"""Stage 1's rows (the critic's pretraining) and the held-out rows that its health is measured on.

`pairs` decides which rows of a problem go together; here are the filters, the epochs and the counts. C candidates, P
planned rows.
"""

from collections.abc import Sequence

import numpy as np

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.sampling import DifficultySource, Language
from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import Candidates, candidate_rows, require_a_batch
from wmtp_ray.plan.difficulty import describe_difficulties, difficulty_of_rows, rows_by_difficulty
from wmtp_ray.plan.nearest_pairs import Distances
from wmtp_ray.plan.pairs import WithinProblemDraw, draw_balanced, draw_unbalanced, rows_of_two_sided_problems
from wmtp_ray.plan.phases import PlannedPhase, StageRows, run_length

ONE_SIDED = "in problems without both a correct and an incorrect row (critic_stage.sampling.balance_correct)"
_REMEDY = (
    "widen critic_stage.sampling.difficulty_range (from 0 on it takes rows of unknown difficulty), choose another "
    "data.difficulty_source, raise critic_stage.sampling.max_rows_per_problem or n_samples"
)


def draw_critic_stage(
    index: RowIndex,
    candidates: Candidates,
    critic_stage: CriticStageConfig,
    difficulty_source: DifficultySource,
    distances: Distances | None = None,
) -> StageRows:
    """Draw stage 1's rows once, within problems, and shuffle them anew for every epoch.

    With `balance_correct` the two rows of a pair stand next to each other, the correct one first, at an even place;
    with `distances` it is the nearest rows that are paired, else those of about equal length.
    Raises PlanError when not even one step fills.
    """
    sampling = critic_stage.sampling
    left_out = dict(candidates.left_out)
    difficulty_C = difficulty_of_rows(index, difficulty_source)[candidates.row_ids_C]
    low, high = sampling.difficulty_range
    inside_C = (difficulty_C >= low) & (difficulty_C <= high)
    outside_range = rows_by_difficulty(difficulty_C[~inside_C])
    available = candidates.row_ids_C[inside_C]
    if sampling.balance_correct:
        two_sided = rows_of_two_sided_problems(index, available)
        left_out[ONE_SIDED] = len(available) - len(two_sided)
        available = two_sided
    drawn = _draw(index, available, critic_stage, distances)
    require_a_batch(
        drawn.num_rows,
        critic_stage.batch_rows,
        section="critic_stage",
        index_rows=len(index),
        left_out={
            **left_out,
            "outside every difficulty asked for (critic_stage.sampling.difficulty_range; "
            f"{describe_difficulties(outside_range, difficulty_source)})": sum(outside_range.values()),
            "not drawn (critic_stage.sampling)": len(available) - drawn.num_rows,
        },
        remedy=_REMEDY,
    )
    length = run_length(
        drawn.num_rows,
        critic_stage.epochs,
        critic_stage.max_steps,
        critic_stage.batch_rows,
        section="critic_stage",
    )
    num_rows = length.num_steps * critic_stage.batch_rows
    epochs = range(-(-num_rows // drawn.num_rows))
    row_ids_P = np.concatenate([drawn.ordered(sampling.seed, epoch) for epoch in epochs])[:num_rows]
    return StageRows(
        row_ids_P=row_ids_P,
        phases=(_phase(index, row_ids_P, length.num_steps, critic_stage),),
        left_out=left_out,
        outside_bins=outside_range,
        available_rows=len(available),
        rows_per_epoch=drawn.num_rows,
        incomplete_rows=length.incomplete_rows,
        pairs=len(drawn.pairs_U2),
        length_matched_pairs=drawn.num_length_matched_pairs,
        warnings=_warnings(drawn.num_rows, len(available), critic_stage),
    )


def require_pairs(critic_stage: CriticStageConfig) -> None:
    """Raise PlanError when stage 1 would not consist of whole pairs in whole steps (critic.objective=pairwise)."""
    sampling = critic_stage.sampling
    if not sampling.balance_correct or sampling.correct_ratio != 0.5:
        raise PlanError(
            "critic.objective=pairwise compares a correct with an incorrect row, but critic_stage.sampling has "
            f"balance_correct={sampling.balance_correct}, correct_ratio={sampling.correct_ratio:g}; "
            "set balance_correct=true and correct_ratio=0.5, or critic.objective=value"
        )
    if critic_stage.batch_rows % 2:
        raise PlanError(
            f"critic.objective=pairwise needs whole pairs in a step, but critic_stage.batch_rows="
            f"{critic_stage.batch_rows} is odd; set it to {critic_stage.batch_rows + 1}, or critic.objective=value"
        )


def require_classes_to_pair(critic_stage: CriticStageConfig) -> None:
    """Raise PlanError when stage 1 draws rows whatever their class, so that there is nothing to pair by edits."""
    if not critic_stage.sampling.balance_correct:
        raise PlanError(
            "critic.pairs=edit pairs each correct row with the nearest incorrect one, but critic_stage.sampling has "
            "balance_correct=False, which draws rows whatever their class; set balance_correct=true, or "
            "critic.pairs=length"
        )


def health_rows(
    index: RowIndex,
    held_out_P: Bool,
    n: int,
    seed: int,
    *,
    max_tokens: int,
    max_rows_per_problem: int,
    languages: Sequence[Language] | None,
) -> Int64:
    """Draw up to `n` rows of held-out problems, half correct: pairs of one problem, the correct row first.

    Round-robin over problems, at most `max_rows_per_problem` of each. Empty when no held-out problem has both classes.
    """
    usable = candidate_rows(
        index, held_out_P=~held_out_P, max_tokens=max_tokens, correct_only=False, languages=languages
    )
    drawn = draw_balanced(
        index, usable.row_ids_C, num_rows=n, correct_ratio=0.5, max_rows_per_problem=max_rows_per_problem, seed=seed
    )
    return drawn.ordered(seed, 0)


def _draw(
    index: RowIndex, available: Int64, critic_stage: CriticStageConfig, distances: Distances | None
) -> WithinProblemDraw:
    sampling = critic_stage.sampling
    if not sampling.balance_correct:
        return draw_unbalanced(
            index,
            available,
            num_rows=sampling.n_samples,
            max_rows_per_problem=sampling.max_rows_per_problem,
            seed=sampling.seed,
        )
    return draw_balanced(
        index,
        available,
        num_rows=sampling.n_samples,
        correct_ratio=sampling.correct_ratio,
        max_rows_per_problem=sampling.max_rows_per_problem,
        seed=sampling.seed,
        distances=distances,
    )


def _phase(index: RowIndex, row_ids_P: Int64, num_steps: int, critic_stage: CriticStageConfig) -> PlannedPhase:
    """Describe the whole stage as one phase with the two classes as bins; unbalanced, each bin wants its own rows."""
    sampling = critic_stage.sampling
    num_correct = int(index.is_correct_R[row_ids_P].sum())
    rows = {"correct": num_correct, "incorrect": len(row_ids_P) - num_correct}
    wanted, weights = rows, {}
    if sampling.balance_correct:
        wanted_correct = round(sampling.correct_ratio * len(row_ids_P))
        wanted = {"correct": wanted_correct, "incorrect": len(row_ids_P) - wanted_correct}
        weights = {"correct": sampling.correct_ratio, "incorrect": 1.0 - sampling.correct_ratio}
    return PlannedPhase(
        name="critic",
        start_step=0,
        end_step=num_steps,
        rows_by_bin=rows,
        wanted_rows_by_bin=wanted,
        weights=weights,
        tokens=int(index.num_tokens_R[row_ids_P].sum(dtype=np.int64)),
    )


def _warnings(drawn_rows: int, available_rows: int, critic_stage: CriticStageConfig) -> tuple[str, ...]:
    sampling = critic_stage.sampling
    if drawn_rows >= sampling.n_samples - sampling.n_samples % 2:
        return ()
    limits = f"max_rows_per_problem={sampling.max_rows_per_problem}"
    if sampling.balance_correct:
        limits += f", correct_ratio={sampling.correct_ratio:g}"
    return (
        f"critic_stage.sampling.n_samples={sampling.n_samples:,} but only {drawn_rows:,} of {available_rows:,} "
        f"available rows fit {limits}; all of those are used",
    )
