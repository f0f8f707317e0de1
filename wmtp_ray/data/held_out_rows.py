"""The rows that a critic is measured on: of problems that no stage has seen. Imports no torch."""

import numpy as np

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.data.index_file import load_index
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.run_plan import held_out_mask
from wmtp_ray.plan.stage1 import health_rows


def held_out_rows(config: RunConfig) -> tuple[RowIndex, Int64]:
    """Return rows of problems that no stage has seen: a file's own, or those the plan held out."""
    if config.data.valid_file is not None:
        index = load_index(config.data.valid_file)
        held_out_P = np.ones(len(index.problem_names), dtype=np.bool_)
    else:
        index = load_index(config.data.train_file, config.data.index_file)
        held_out_P = held_out_mask(index, config.data, config.seed)
    rows = health_rows(
        index,
        held_out_P,
        config.critic.health_rows,
        config.seed,
        max_tokens=config.data.max_tokens,
        max_rows_per_problem=config.critic_stage.sampling.max_rows_per_problem,
        languages=config.data.languages,
    )
    return index, rows


def rows_of_readings(config: RunConfig) -> tuple[RowIndex, Int64]:
    """Return the held-out rows that stage 1 reads its loss on; where the loss compares pairs, those of whole pairs.

    Raises PlanError when there are none.
    """
    index, rows_N = held_out_rows(config)
    if config.critic.objective == "pairwise":
        rows_N = _pairs_of(index, rows_N, config.train.micro_batch_tokens)
    if len(rows_N) == 0:
        raise PlanError(
            f"critic_stage.eval_every={config.critic_stage.eval_every} reads the loss on held-out rows, but no "
            "held-out problem has a correct and an incorrect row that fit a batch: raise data.valid_problems_frac, "
            "give data.valid_file, or set critic_stage.eval_every=0"
        )
    return index, rows_N


def _pairs_of(index: RowIndex, rows_N: Int64, micro_batch_tokens: int) -> Int64:
    """Keep rows that stand as a correct and an incorrect one of a problem and fit a batch together."""
    pairs_P2 = rows_N[: len(rows_N) - len(rows_N) % 2].reshape(-1, 2)
    is_kept_P = index.problem_R[pairs_P2[:, 0]] == index.problem_R[pairs_P2[:, 1]]
    is_kept_P &= index.is_correct_R[pairs_P2[:, 0]] != index.is_correct_R[pairs_P2[:, 1]]
    is_kept_P &= index.num_tokens_R[pairs_P2].sum(axis=1) <= micro_batch_tokens
    return np.asarray(pairs_P2[is_kept_P].ravel(), dtype=np.int64)
