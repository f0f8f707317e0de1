"""What is minimised: modules whose `forward` is the loss of one micro-batch, so that DDP or FSDP2 can wrap them.

`PolicyLoss` is stage 2 (weighted multi-token cross-entropy + auxiliary value loss), `CriticLoss` stage 1 (the value
head alone). Denominators are global and passed in; see objective.md, "Losses". Neither knows about optimizers. Every
pass over the policy goes through a method of these modules, since under FSDP2 its weights are whole only there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wmtp_ray.config.critic import CriticConfig
from wmtp_ray.config.schema import LossConfig, RunConfig
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.policy import Policy, PolicyStates
from wmtp_ray.model.value_outputs import ValueScores, ValueStates, scores_of
from wmtp_ray.objective import td, value_losses
from wmtp_ray.objective.fused import fused_signed_loss, token_cross_entropies
from wmtp_ray.objective.horizon import at_horizons, supervised_pairs
from wmtp_ray.scoring.contract import MicroBatch
from wmtp_ray.training.value_reports import Head, disagreement_sums, distance_sums, loss_parts, value_sums

_MIB = 2**20


@dataclass(frozen=True)
class Denominators:
    """Global counts of a step: supervised pairs per horizon (or their weights), and states with a value loss.

    The mean over horizons is over the first `num_horizons`; None: over all of the model's. `of_members_N2` are the
    states and the documents that each member of an ensemble learns from.
    """

    pairs_H: Tensor
    unweighted_pairs_H: Tensor
    num_states: float
    num_documents: float
    num_horizons: int | None = None
    of_members_N2: Tensor | None = None


class MicroLoss(NamedTuple):
    """The loss to differentiate, and this micro-batch's part of every reported sum (already over global counts).

    A tuple, because DDP and FSDP2 look for the tensors in what a forward returns.
    """

    total: Tensor
    parts: dict[str, Tensor]


class StageLoss(nn.Module):
    """A loss over a policy, and the passes over the same policy without gradient: `passes` names them, for FSDP2."""

    passes: tuple[str, ...] = ("pair_losses", "value_scores", "value_states")

    def __init__(self, policy: Policy, config: RunConfig) -> None:
        super().__init__()
        self.policy = policy
        self._loss = config.loss

    def counts_of_members(self, micro_batch: MicroBatch) -> Tensor | None:
        """Return this micro-batch's part of `Denominators.of_members_N2`, float64; None where one critic learns all."""
        return None

    @torch.no_grad()
    def pair_losses(self, tensors: BatchTensors, num_horizons: int) -> Tensor:
        """Return `policy_pair_losses` without dropout."""
        with _without_dropout(self):
            return policy_pair_losses(self.policy, tensors, num_horizons, self._loss.max_logits_mb)

    @torch.no_grad()
    def value_scores(self, tensors: BatchTensors) -> ValueScores:
        """Return values_BT and, of an ensemble, its disagreement, without gradient and without dropout."""
        with _without_dropout(self):
            return scores_of(self.policy.states(tensors).value_outputs_BTO, self.policy.spec)

    @torch.no_grad()
    def value_states(self, tensors: BatchTensors) -> tuple[Tensor, Tensor]:
        """Return `Policy.value_states` without gradient and without dropout."""
        with _without_dropout(self):
            return self.policy.value_states(tensors)


class PolicyLoss(StageLoss):
    """Stage 2: mean over horizons of coef_k * CE_k, plus value_coef * value loss and the anchor."""

    def __init__(self, policy: Policy, config: RunConfig, num_horizons: int) -> None:
        super().__init__(policy, config)
        self._critic = config.critic
        self._gamma = config.weighting.gamma
        self._value_coef = config.train.value_coef
        self._own_head: Head = "critic" if config.critic.source == "policy" else "policy_head"
        self._is_scored = config.uses_critic
        self._horizon_coefs = _horizon_coefs(config.loss, num_horizons)
        self._num_horizons = num_horizons
        # What is dropped is known from the scorer's own pass over the policy, if it makes one.
        self._looks_at_dropped = config.weighting.arm.drops_tokens and not config.weighting.arm.needs_policy_losses

    def forward(self, micro_batch: MicroBatch, pair_weights_BTH: Tensor, denominators: Denominators) -> MicroLoss:
        states = self.policy.states(micro_batch.tensors)
        weighted, ce_H = self._cross_entropies(states, micro_batch.tensors, pair_weights_BTH, denominators)
        parts = _unweighted_parts(ce_H, micro_batch, denominators)
        has_value_loss = self._value_coef > 0.0 or self._critic.anchor_coef > 0.0
        is_scored = self._is_scored and micro_batch.values_BT is not None  # a step of a finish may not be
        if is_scored and not (has_value_loss and self._own_head == "critic"):
            parts |= _scored_parts(micro_batch)
        total = weighted
        if has_value_loss:
            value = value_terms(
                states, micro_batch, self._critic, self._gamma, denominators.num_states, head=self._own_head
            )
            total = weighted + self._value_coef * value.loss + self._critic.anchor_coef * value.anchor
            parts |= value.parts
        return MicroLoss(total, parts | {"loss/policy": weighted.detach(), "loss/total": total.detach()})

    def _cross_entropies(
        self, states: PolicyStates, tensors: BatchTensors, pair_weights_BTH: Tensor, denominators: Denominators
    ) -> tuple[Tensor, Tensor]:
        """All heads over the trunk's one output; the fused loss holds one chunk of logits, one table of gradients.

        Returns the weighted one and the sums of the unweighted ones; dropped pairs count there where they are looked
        at, before the fused loss holds its gradients.
        """
        horizons = range(1, self._num_horizons + 1)
        targets_BTH, _ = at_horizons(tensors.tokens_BT, self._num_horizons, tensors.document_ids_BT)
        hidden_HND = _in_autocast_dtype(
            torch.stack([self.policy.head_hidden(states, k, tensors).flatten(0, 1) for k in horizons])
        )
        targets_HN = targets_BTH.flatten(0, 1).T.contiguous()
        weights_HN = pair_weights_BTH.flatten(0, 1).T.contiguous()
        dropped_ce_H = torch.zeros(self._num_horizons, dtype=torch.float64)
        if self._looks_at_dropped:
            pairs_BTH = supervised_pairs(tensors.supervised_mask_BT, self._num_horizons, tensors.document_ids_BT)
            dropped_HN = pairs_BTH.flatten(0, 1).T & (weights_HN == 0)
            dropped_ce_H = self._sums_of(hidden_HND.detach(), targets_HN, dropped_HN)
        loss, kept_ce_H = fused_signed_loss(
            hidden_HND,
            self.policy.transformer.output.weight,
            targets_HN,
            weights_HN,
            denominators.pairs_H,
            horizon_coefs_H=self._coefs_H(denominators.num_horizons),
            max_logits_bytes=int(self._loss.max_logits_mb * _MIB),
        )
        return loss, kept_ce_H.cpu().double() * denominators.pairs_H + dropped_ce_H

    def _coefs_H(self, num_trained: int | None) -> Tensor:
        """Return the coefficients [H] of a mean over all horizons that is one over those trained.

        The others keep their place with the coefficient 0, since DDP wants a gradient for every weight.
        """
        coefs_H = torch.tensor(self._horizon_coefs)
        if num_trained is None or num_trained == self._num_horizons:
            return coefs_H
        coefs_H[num_trained:] = 0.0
        return coefs_H * (self._num_horizons / num_trained)

    def _sums_of(self, hidden_HND: Tensor, targets_HN: Tensor, chosen_HN: Tensor) -> Tensor:
        """Sum the cross-entropies of the chosen rows of each horizon, float64 [H], without gradient."""
        losses_HN = torch.zeros(chosen_HN.shape, dtype=torch.float64)
        losses_HN[chosen_HN.cpu()] = (
            token_cross_entropies(
                hidden_HND[chosen_HN],
                self.policy.transformer.output.weight,
                targets_HN[chosen_HN],
                max_logits_bytes=int(self._loss.max_logits_mb * _MIB),
            )
            .cpu()
            .double()
        )
        return losses_HN.sum(dim=1)


class CriticLoss(StageLoss):
    """Stage 1: the value loss alone, or its pairwise alternative; no clip, since no critic has scored before."""

    passes = (*StageLoss.passes, "held_out_loss")

    def __init__(self, policy: Policy, config: RunConfig) -> None:
        super().__init__(policy, config)
        self._critic = config.critic
        self._gamma = config.weighting.gamma

    def forward(self, micro_batch: MicroBatch, pair_weights_BTH: Tensor, denominators: Denominators) -> MicroLoss:
        return self._loss_of(micro_batch, denominators, self._critic)

    @torch.no_grad()
    def held_out_loss(self, micro_batch: MicroBatch, denominators: Denominators) -> Tensor:
        """Return the loss without gradient, against R whatever the target: lambda-returns flatter a constant V."""
        with _without_dropout(self):
            against_reward = self._critic.model_copy(update={"value_target": "mc"})
            return self._loss_of(micro_batch, denominators, against_reward).total

    def _loss_of(self, micro_batch: MicroBatch, denominators: Denominators, critic: CriticConfig) -> MicroLoss:
        states = self._value_states(micro_batch.tensors)
        value = value_terms(states, micro_batch, critic, self._gamma, denominators.num_states)
        total = value.loss
        if self._critic.objective == "pairwise":
            total = self._pairwise(states.values_BT, micro_batch, denominators.num_documents / 2)
        return MicroLoss(total, value.parts | {"loss/total": total.detach()})

    def _value_states(self, tensors: BatchTensors) -> PolicyStates | ValueStates:
        return self.policy.states(tensors)

    def _pairwise(
        self, values_BT: Tensor, micro_batch: MicroBatch, num_pairs: float, learns_M: Tensor | None = None
    ) -> Tensor:
        """Pairs stand next to each other in the plan: documents 2i and 2i + 1 answer the same problem."""
        tensors = micro_batch.tensors
        states_BT = td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
        means_M = value_losses.mean_response_value(values_BT, states_BT, document_ids_BT=tensors.document_ids_BT)
        rewards_M = tensors.rewards_M
        if learns_M is not None:
            means_M, rewards_M = means_M[learns_M], rewards_M[learns_M]
        return value_losses.pairwise_loss(*_correct_and_incorrect(means_M, rewards_M), denominator=num_pairs)


@dataclass(frozen=True)
class ValueTerms:
    """The two losses of the value head and what is reported beside them."""

    loss: Tensor
    anchor: Tensor
    parts: dict[str, Tensor]


def value_terms(
    states: PolicyStates | ValueStates,
    micro_batch: MicroBatch,
    critic: CriticConfig,
    gamma: float,
    num_states: float,
    *,
    head: Head = "critic",
    within_BT: Tensor | None = None,
) -> ValueTerms:
    """Return value loss and anchor of one micro-batch over the global number of states, reported as those of `head`.

    `old` is the value that the scoring critic gave; where none scored, the policy's own detached value, which makes
    the clip and the anchor vanish. States outside `within_BT` do not count.
    """
    tensors, values_BT = micro_batch.tensors, states.values_BT
    old_BT = values_BT.detach() if micro_batch.values_BT is None else micro_batch.values_BT
    states_BT = td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
    states_BT = states_BT if within_BT is None else states_BT & within_BT
    targets_BT = _value_targets(old_BT, tensors, critic, gamma)
    loss = _value_loss(states, old_BT, targets_BT, states_BT, critic, num_states)
    anchor = value_losses.anchor_loss(values_BT, old_BT, states_BT, denominator=num_states)
    parts = loss_parts(head, loss, anchor) | value_sums(head, values_BT, targets_BT, states_BT)
    parts |= distance_sums(head, values_BT, old_BT, states_BT, critic.value_clip)
    return ValueTerms(loss, anchor, parts)


def policy_pair_losses(policy: Policy, tensors: BatchTensors, num_horizons: int, max_logits_mb: float) -> Tensor:
    """Return the policy's cross-entropy of every supervised pair, [B, T, H], 0 elsewhere; no gradient."""
    pairs_BTH = supervised_pairs(tensors.supervised_mask_BT, num_horizons, tensors.document_ids_BT)
    targets_BTH, _ = at_horizons(tensors.tokens_BT, num_horizons, tensors.document_ids_BT)
    losses_BTH = torch.zeros(pairs_BTH.shape, dtype=torch.float32, device=pairs_BTH.device)
    with torch.no_grad():
        states = policy.states(tensors)
        for k in range(num_horizons):
            chosen_BT = pairs_BTH[..., k]
            hidden_ND = policy.head_hidden(states, k + 1, tensors)[chosen_BT]
            losses_BTH[..., k][chosen_BT] = token_cross_entropies(
                hidden_ND,
                policy.transformer.output.weight,
                targets_BTH[..., k][chosen_BT],
                max_logits_bytes=int(max_logits_mb * _MIB),
            )
    return losses_BTH


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _in_autocast_dtype(hidden: Tensor) -> Tensor:
    """Cast the operands of the fused loss: autocast does not reach inside a custom autograd function."""
    device = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden


def _unweighted_parts(ce_sums_H: Tensor, micro_batch: MicroBatch, denominators: Denominators) -> dict[str, Tensor]:
    """Unweighted cross-entropy per horizon over ALL supervised pairs.

    `ce_sums_H` sums all of them; where a scorer drops pairs after a pass of its own without gradient (Rho-1), that
    pass knows them all.
    """
    losses_BTH = micro_batch.policy_losses_BTH
    sums_H = ce_sums_H if losses_BTH is None else losses_BTH.sum(dim=(0, 1))
    ce_H = sums_H.cpu().double() / denominators.unweighted_pairs_H
    return {f"loss/ce_h{k}": ce for k, ce in enumerate(ce_H, start=1)} | {"loss/policy_unweighted": ce_H.mean()}


def _horizon_coefs(loss: LossConfig, num_horizons: int) -> tuple[float, ...]:
    coefs = (1.0,) * num_horizons if loss.horizon_coefs is None else loss.horizon_coefs
    assert len(coefs) == num_horizons, "flows/run/prepare.py compares loss.horizon_coefs with the model"
    return coefs


def _value_loss(
    states: PolicyStates | ValueStates,
    old_BT: Tensor,
    targets_BT: Tensor,
    mask_BT: Tensor,
    critic: CriticConfig,
    num_states: float,
) -> Tensor:
    """The value loss that `critic.value_error` names."""
    rest, clip = (old_BT, targets_BT, mask_BT), critic.value_clip
    outputs_BTO = states.value_outputs_BTO
    if critic.value_error == "bce":
        return value_losses.bce_value_loss(outputs_BTO[..., 0], *rest, value_clip=clip, denominator=num_states)
    if critic.value_error == "categorical":
        return value_losses.categorical_value_loss(
            outputs_BTO, *rest, target=critic.bin_target, value_clip=clip, denominator=num_states
        )
    error: value_losses.ErrorFunction = value_losses.squared_error
    if critic.value_error == "huber":
        error = partial(value_losses.huber_error, delta=critic.huber_delta)
    return value_losses.value_loss(states.values_BT, *rest, value_clip=clip, error=error, denominator=num_states)


def _value_targets(old_BT: Tensor, tensors: BatchTensors, critic: CriticConfig, gamma: float) -> Tensor:
    if critic.value_target == "mc":
        return td.monte_carlo_targets(
            old_BT, tensors.rewards_M, tensors.supervised_mask_BT, document_ids_BT=tensors.document_ids_BT
        )
    return td.lambda_returns(
        old_BT,
        tensors.rewards_M,
        tensors.supervised_mask_BT,
        gamma=gamma,
        td_lambda=critic.value_lambda,
        document_ids_BT=tensors.document_ids_BT,
    )


def _scored_parts(micro_batch: MicroBatch) -> dict[str, Tensor]:
    """Compare the values that scored the batch with R."""
    tensors, values_BT = micro_batch.tensors, micro_batch.values_BT
    assert values_BT is not None, "a run that uses a critic has its values"
    targets_BT = td.monte_carlo_targets(
        values_BT, tensors.rewards_M, tensors.supervised_mask_BT, document_ids_BT=tensors.document_ids_BT
    )
    states_BT = td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
    found = value_sums("critic", values_BT, targets_BT, states_BT)
    if micro_batch.disagreements_BT is not None:
        found |= disagreement_sums("critic", micro_batch.disagreements_BT, states_BT)
    return found


def _correct_and_incorrect(means_M: Tensor, rewards_M: Tensor) -> tuple[Tensor, Tensor]:
    first, second = means_M[0::2], means_M[1::2]
    first_is_correct = rewards_M[0::2] > rewards_M[1::2]
    return torch.where(first_is_correct, first, second), torch.where(first_is_correct, second, first)
