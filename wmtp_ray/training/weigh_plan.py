"""The weights of a plan's steps, in one process: read, score, weigh, without a step of training.

What a run would do with the same scores: the same rows together in a step, the same scorer, the same denominators. H
horizons.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import TokenBatch
from wmtp_ray.data.collate import collate
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.plan.run_plan import PlannedBatch, RunPlan, rank_batches
from wmtp_ray.ranks import OneRank
from wmtp_ray.scoring.contract import Scorer
from wmtp_ray.scoring.scorers import FinishScorer, build_scorer
from wmtp_ray.scoring.weighed_rows import WeighedRow, weighed_rows
from wmtp_ray.training.row_scores import RowScores
from wmtp_ray.training.step import loss_denominators


@dataclass(frozen=True, eq=False)
class WeighedStep:
    """The rows of one step in plan order, and what each horizon's weighted cross-entropies are divided by."""

    step: int
    rows: list[WeighedRow]
    denominators_H: Tensor


@dataclass(frozen=True, eq=False)
class PlanToWeigh:
    """A plan of stage 2 with all that its weights are made from. `config.weighting` is what the run runs with."""

    config: RunConfig
    plan: RunPlan
    rows: TrainedRows
    tokenizer: CodeTokenizer
    scores: RowScores
    num_horizons: int

    def steps(self, first: int, stop: int) -> Iterator[WeighedStep]:
        """Weigh the steps from `first` to before `stop`.

        Where weights depend on the steps before (weighting.advantage_norm=ema) these are weighed too.
        """
        arm = build_scorer(self.config, self.num_horizons)
        finish = FinishScorer(self.num_horizons, self.config.weighting)
        begin = 0 if self.config.weighting.advantage_norm == "ema" else first
        for step, planned in groupby(self._planned(begin), key=lambda batch: batch.step):
            if step >= stop:
                return
            is_finish = self.plan.finish is not None and step >= self.plan.finish.start_step
            weighed = self._weigh(step, list(planned), finish if is_finish else arm)
            if step >= first:
                yield weighed

    def _planned(self, first: int) -> Iterator[PlannedBatch]:
        budget = self.config.train.micro_batch_tokens
        return rank_batches(
            self.plan, self.rows.index, rank=0, num_ranks=1, start_step=first, micro_batch_tokens=budget
        )

    def _weigh(self, step: int, planned: list[PlannedBatch], scorer: Scorer) -> WeighedStep:
        batches = [self._read(each) for each in planned]
        needs_losses, seed = scorer.needs_policy_losses, self.config.seed
        micros = [
            self.scores.micro_batch(batch, step=step, seed=seed, with_policy_losses=needs_losses) for batch in batches
        ]
        weights = scorer.weigh(micros, OneRank())
        found = [
            row for batch, w in zip(batches, weights.pair_weights_BTH, strict=True) for row in weighed_rows(batch, w)
        ]
        in_order = _in_order(found, self.plan.step_row_ids(step).tolist())
        return WeighedStep(step, in_order, loss_denominators(weights, self.config.loss, OneRank()).double())

    def _read(self, planned: PlannedBatch) -> TokenBatch:
        examples = self.rows.read(planned.row_ids_N, self.tokenizer)
        return collate(examples, step=planned.step, micro_step=planned.micro_step)


def _in_order(rows: list[WeighedRow], row_ids: list[int]) -> list[WeighedRow]:
    """Micro-batches take a step's rows in another order; a row that a step holds twice weighs the same both times."""
    by_id: dict[int, deque[WeighedRow]] = defaultdict(deque)
    for row in rows:
        by_id[row.row_id].append(row)
    return [by_id[row_id].popleft() for row_id in row_ids]
