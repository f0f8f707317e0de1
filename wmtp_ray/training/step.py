"""One optimizer step, in a straight line: weigh, forward and backward each micro-batch, clip, update, report.

Everything global (denominators, whitening, metrics) goes through `Ranks`, so the loss and its gradient do not depend
on how the global batch is split into ranks and micro-batches. No Ray, no I/O.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from wmtp_ray.config.schema import LossConfig, RunConfig
from wmtp_ray.errors import TrainingError
from wmtp_ray.model.policy import Policy
from wmtp_ray.objective import td
from wmtp_ray.objective.horizon import supervised_pairs
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.contract import MicroBatch, Scorer, StepWeights
from wmtp_ray.training.losses import Denominators, MicroLoss
from wmtp_ray.training.optim import clip_gradients, set_learning_rate
from wmtp_ray.training.parallel import module_precision, reduce_gradients_when, unwrapped
from wmtp_ray.training.value_reports import derive_metrics


class TrainingStep:
    """Owns the loss module (as `parallel.distribute` left it), the optimizer and the scorer; `run` makes one step."""

    def __init__(
        self,
        loss_module: nn.Module,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        scorer: Scorer,
        config: RunConfig,
        ranks: Ranks,
    ) -> None:
        self.loss_module = loss_module
        self.loss = unwrapped(loss_module)
        self.policy = policy
        self.optimizer = optimizer
        self.scorer = scorer
        self._config = config
        self._ranks = ranks
        self._num_horizons = policy.transformer.args.n_future_tokens

    def run(
        self,
        micro_batches: Sequence[MicroBatch],
        learning_rate: float,
        *,
        scorer: Scorer | None = None,
        num_horizons: int | None = None,
    ) -> dict[str, float]:
        """Make one step on this rank's part of the global batch; return metrics, the same on every rank.

        `scorer` weighs this step in place of the stage's own; only the first `num_horizons` are trained, None: all.
        """
        scorer = scorer or self.scorer
        if scorer.needs_policy_losses:
            micro_batches = [self._with_policy_losses(m) for m in micro_batches]
        weights = scorer.weigh(micro_batches, self._ranks)
        denominators = replace(self._denominators(micro_batches, weights), num_horizons=num_horizons)
        sums = self._backward(micro_batches, weights, denominators)
        set_learning_rate(self.optimizer, learning_rate)
        grad_norm = clip_gradients(self.policy.parameters(), self._config.train.max_grad_norm)
        _require_finite(sums["loss/total"], grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        own = {"train/learning_rate": learning_rate, "train/grad_norm": grad_norm}
        own |= {} if num_horizons is None else {"train/horizons": float(num_horizons)}
        return derive_metrics(sums) | weights.metrics | own

    def _with_policy_losses(self, micro_batch: MicroBatch) -> MicroBatch:
        with self._precision():
            losses_BTH = self.loss.pair_losses(micro_batch.tensors, self._num_horizons)
        return replace(micro_batch, policy_losses_BTH=losses_BTH)

    def _precision(self) -> AbstractContextManager[object]:
        device = next(self.policy.parameters()).device
        return module_precision(self.loss_module, self._config.train.dtype, device)

    def _denominators(self, micro_batches: Sequence[MicroBatch], weights: StepWeights) -> Denominators:
        """Count the global batch's pairs, states and documents in one reduction."""
        num_horizons = self._num_horizons
        of_members = [self.loss.counts_of_members(m) for m in micro_batches]
        counts = [_counts(m, num_horizons, extra) for m, extra in zip(micro_batches, of_members, strict=True)]
        totals = self._ranks.sum(torch.stack(counts).sum(dim=0))
        at_least_one = totals.clamp(min=1.0)
        return Denominators(
            pairs_H=loss_denominators(weights, self._config.loss, self._ranks),
            unweighted_pairs_H=at_least_one[:num_horizons],
            num_states=float(at_least_one[num_horizons]),
            num_documents=float(at_least_one[num_horizons + 1]),
            of_members_N2=None if of_members[0] is None else at_least_one[num_horizons + 2 :].reshape(-1, 2),
        )

    def _backward(
        self, micro_batches: Sequence[MicroBatch], weights: StepWeights, denominators: Denominators
    ) -> dict[str, float]:
        """Accumulate gradients over the micro-batches; return the reported sums over all ranks."""
        parts: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        every, last = self._config.train.reduce_gradients == "micro_batch", len(micro_batches) - 1
        for position, (micro, pair_weights_BTH) in enumerate(zip(micro_batches, weights.pair_weights_BTH, strict=True)):
            with reduce_gradients_when(self.loss_module, every or position == last):
                with self._precision():
                    loss: MicroLoss = self.loss_module(micro, pair_weights_BTH, denominators)
                (loss.total * self._ranks.world_size).backward()  # type: ignore[no-untyped-call]
            for name, part in loss.parts.items():
                parts[name] = parts[name] + part.cpu().double()
        return _sum_over_ranks(parts, self._ranks)


def loss_denominators(weights: StepWeights, loss: LossConfig, ranks: Ranks) -> Tensor:
    """Return what each horizon's weighted cross-entropies are summed over, [H]: N_k of objective.md, never 0."""
    pairs_H = ranks.sum(weights.own_totals_H) if loss.normalizer == "weights" else weights.denominators_H
    return pairs_H.clamp(min=1e-12)


def _require_finite(loss: float, grad_norm: float) -> None:
    """Stop before a bad gradient reaches the weights; every rank holds the same two numbers, so all of them stop."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainingError(
            f"The loss is {loss} and its gradient norm {grad_norm}: the step was not taken and the last checkpoint is "
            "good. Lower train.learning_rate or train.max_grad_norm, or look at the rows of this step in the plan"
        )


def _counts(micro_batch: MicroBatch, num_horizons: int, of_members_N2: Tensor | None) -> Tensor:
    """[pairs of horizon 1, ..., pairs of horizon H, states with a value loss, documents, those of members], float64."""
    tensors = micro_batch.tensors
    pairs_BTH = supervised_pairs(tensors.supervised_mask_BT, num_horizons, tensors.document_ids_BT)
    states_BT = td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
    documents = torch.tensor([len(tensors.document_lengths)], dtype=torch.float64)
    counts = [pairs_BTH.sum(dim=(0, 1)).cpu().double(), states_BT.sum().cpu().double()[None], documents]
    return torch.cat(counts if of_members_N2 is None else [*counts, of_members_N2.flatten()])


def _sum_over_ranks(parts: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Reduce all reported sums at once, in name order."""
    names = sorted(parts)
    totals = ranks.sum(torch.stack([parts[name] for name in names]))
    return dict(zip(names, totals.tolist(), strict=True))
