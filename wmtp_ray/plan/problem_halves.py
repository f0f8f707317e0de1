"""Which half of the problems each member of an ensemble of critics learns from. Numpy only.

Members 2j and 2j + 1 share split j: a seeded hash of the problem's name puts it into the first half, member 2j's, or
into the second, member 2j + 1's. The last member of an odd number has the first half of its split. So all rows of a
problem go together, and a problem keeps its half whatever other rows, ranks or micro-batches there are.

Suffixes: N members, P problems, R rows of the index, M documents of a batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Bool, Int32, Int64, RowIndex
from wmtp_ray.errors import PlanError


def learned_problems(problem_names: Sequence[str], num_members: int, seed: int) -> Bool:
    """Return learns_NP: whether a member learns from a problem."""
    halves = [[_half(name, split, seed) for name in problem_names] for split in range((num_members + 1) // 2)]
    is_second_SP = np.array(halves, dtype=np.bool_).reshape(len(halves), len(problem_names))
    return np.stack([is_second_SP[member // 2] == bool(member % 2) for member in range(num_members)])


def _half(problem: str, split: int, seed: int) -> int:
    name = "\x1f".join((str(seed), "half", str(split), problem))
    return hashlib.sha256(name.encode()).digest()[0] & 1


@dataclass(frozen=True, eq=False)
class ProblemHalves:
    """The halves of an index's problems."""

    problem_R: Int32
    learns_NP: Bool

    @classmethod
    def of(cls, index: RowIndex, config: RunConfig) -> "ProblemHalves":
        """Return those of a run's ensemble, which its seed draws."""
        return cls(index.problem_R, learned_problems(index.problem_names, config.critic.ensemble, config.seed))

    def learns(self, row_ids_M: Int64) -> Bool:
        """Return learns_NM: whether a member learns from a row."""
        return np.asarray(self.learns_NP[:, self.problem_R[row_ids_M]], dtype=np.bool_)


def require_rows_for_all(halves: ProblemHalves, index: RowIndex, row_ids_P: Int64) -> str:
    """Describe from how many of the planned rows each member learns; PlanError where one has not both classes."""
    rows = np.unique(row_ids_P)
    learns_NR, is_correct_R = halves.learns(rows), index.is_correct_R[rows]
    counts = [(int((own & is_correct_R).sum()), int((own & ~is_correct_R).sum())) for own in learns_NR]
    poorest = min(range(len(counts)), key=lambda member: min(counts[member]))
    if min(counts[poorest]) == 0:
        correct, incorrect = counts[poorest]
        raise PlanError(
            f"critic.ensemble={len(counts)}: of {len(rows)} planned rows of stage 1, member {poorest} would learn from "
            f"{correct} correct and {incorrect} incorrect ones, expected both; give more problems (data.train_file, "
            "critic_stage.sampling), set critic.ensemble=1, or draw other halves with another seed"
        )
    learned = ", ".join(str(correct + incorrect) for correct, incorrect in counts)
    return f"critic.ensemble={len(counts)}: the members learn from {learned} of the {len(rows)} rows that stage 1 draws"
