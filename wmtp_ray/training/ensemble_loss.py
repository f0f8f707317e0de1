"""Stage 1 of an ensemble of critics: the mean over members of the stage's loss on the half that a member learns from.

Each member's loss is a mean over the global batch's states (or pairs) of its own half. A member without a row in a
step has the loss 0, with a gradient of 0 for all that it trains: ranks that split a model run the same modules.

Reported are loss and explained variance of the members on the rows that they learn, each member counted by itself. The
held-out loss is that of the mean V. Shapes: N members, B sequences, T positions, M documents, O outputs of one head.
"""

from collections import defaultdict

import torch
from torch import Tensor

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.policy import Policy, PolicyStates
from wmtp_ray.model.value_outputs import ValueStates, states_of_mean, states_of_members
from wmtp_ray.objective import td
from wmtp_ray.objective.documents import at_tokens
from wmtp_ray.plan.problem_halves import ProblemHalves
from wmtp_ray.scoring.contract import MicroBatch
from wmtp_ray.training.losses import CriticLoss, Denominators, MicroLoss, value_terms


class EnsembleLoss(CriticLoss):
    """The members' losses; rows outside a member's half give it none."""

    def __init__(self, policy: Policy, config: RunConfig, halves: ProblemHalves) -> None:
        super().__init__(policy, config)
        self._halves = halves

    def forward(self, micro_batch: MicroBatch, pair_weights_BTH: Tensor, denominators: Denominators) -> MicroLoss:
        learns_NM, counts_N2 = self._learns(micro_batch), denominators.of_members_N2
        assert counts_N2 is not None, "the step counts what each member learns from"
        outputs = self.policy.value_outputs(micro_batch.tensors, learns_NM)
        members = states_of_members(outputs, self.policy.spec)
        losses = [
            self._member_loss(states, micro_batch, learns_M, *counts_2)
            for states, learns_M, counts_2 in zip(members, learns_NM, counts_N2.tolist(), strict=True)
        ]
        total = torch.stack([loss.total for loss in losses]).mean()
        return MicroLoss(total, _parts_of_all(losses) | {"loss/total": total.detach()})

    def counts_of_members(self, micro_batch: MicroBatch) -> Tensor:
        """Return the states and documents of each member's half."""
        learns_NM = self._learns(micro_batch)
        states_BT = _states_of(micro_batch.tensors)
        counts = [
            torch.stack([(states_BT & self._within(micro_batch, own_M)).sum(), own_M.sum()]) for own_M in learns_NM
        ]
        return torch.stack(counts).cpu().double()

    def _member_loss(
        self, states: ValueStates, micro_batch: MicroBatch, learns_M: Tensor, num_states: float, num_documents: float
    ) -> MicroLoss:
        value = value_terms(
            states,
            micro_batch,
            self._critic,
            self._gamma,
            num_states,
            within_BT=self._within(micro_batch, learns_M),
        )
        if self._critic.objective == "pairwise":
            return MicroLoss(self._pairwise(states.values_BT, micro_batch, num_documents / 2, learns_M), value.parts)
        return MicroLoss(value.loss, value.parts)

    def _value_states(self, tensors: BatchTensors) -> PolicyStates | ValueStates:
        return states_of_mean(self.policy.value_outputs(tensors), self.policy.spec)

    def _learns(self, micro_batch: MicroBatch) -> Tensor:
        learns_NM = torch.from_numpy(self._halves.learns(micro_batch.row_ids_M))
        return learns_NM.to(micro_batch.tensors.tokens_BT.device)

    @staticmethod
    def _within(micro_batch: MicroBatch, learns_M: Tensor) -> Tensor:
        tensors = micro_batch.tensors
        return at_tokens(learns_M, tensors.tokens_BT, tensors.document_ids_BT)


def _states_of(tensors: BatchTensors) -> Tensor:
    return td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)


def _parts_of_all(losses: list[MicroLoss]) -> dict[str, Tensor]:
    """Add up the members' sums over states; average their losses."""
    parts: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    for loss in losses:
        for name, part in loss.parts.items():
            parts[name] = parts[name] + part.cpu().double() / (1 if name.startswith("sum/") else len(losses))
    return dict(parts)
