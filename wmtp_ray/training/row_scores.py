"""All that a weighting may ask about rows, from models in this process: V, references' losses, the policy's own losses.

A run has the same from its actors and from the rank's own pass. Here stands what needs no Ray: token evidence at the
end of stage 2, and weights exported for other trainers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from wmtp_ray.contracts import ScoredBatch, Scores, TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import Critic
from wmtp_ray.model.value_outputs import ValueScores
from wmtp_ray.scoring.contract import MicroBatch, critic_scores, to_micro_batch
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.references import References

ValuesOf = Callable[[TokenBatch], ValueScores]


@dataclass(frozen=True)
class RowScores:
    """Each is None where nothing asks for it. Micro-batches are made on `device`, which is that of `loss`."""

    device: torch.device
    values_of: ValuesOf | None = None
    references: References | None = None
    loss: StageLoss | None = None

    def micro_batch(self, batch: TokenBatch, *, step: int, seed: int, with_policy_losses: bool) -> MicroBatch:
        """Return one forward's worth with its scores; `with_policy_losses` also with the policy's own of every pair."""
        scores = Scores(0) if self.references is None else self.references.scores(batch)
        if self.values_of is not None:
            found = critic_scores(self.values_of(batch), version=0)
            scores = replace(scores, values_BT=found.values_BT, disagreements_BT=found.disagreements_BT)
        micro = to_micro_batch(ScoredBatch(batch, scores, 0, 0.0), step, seed, self.device)
        if not with_policy_losses:
            return micro
        assert self.loss is not None, "the policy's losses need the policy"
        num_horizons = self.loss.policy.transformer.args.n_future_tokens
        return replace(micro, policy_losses_BTH=self.loss.pair_losses(micro.tensors, num_horizons))


def values_of_policy(loss: StageLoss) -> ValuesOf:
    """Return V by the policy's own value path, on its device."""
    device = next(loss.parameters()).device
    return lambda batch: loss.value_scores(BatchTensors.from_batch(batch, device))


def values_of_critic(critic: Critic, device: torch.device) -> ValuesOf:
    """Return V by a critic, which is moved to `device` and no longer trained."""
    frozen = critic.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def values_of(batch: TokenBatch) -> ValueScores:
        return frozen.scores(BatchTensors.from_batch(batch, device))

    return values_of
