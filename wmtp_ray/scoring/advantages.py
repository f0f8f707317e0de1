"""What a token's weight is made from: one function an arm, and whitening over the global batch.

Shapes: B sequences, T positions, H horizons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wmtp_ray.config.schema import WeightingConfig
from wmtp_ray.objective import td, weighting
from wmtp_ray.objective.documents import at_tokens, sums_per_document
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.contract import EditTensors, MicroBatch

_WHITEN_EPS = 1e-8


@dataclass(frozen=True)
class TokenView:
    """A micro-batch as an advantage sees it."""

    micro_batch: MicroBatch
    config: WeightingConfig
    num_horizons: int

    @property
    def supervised_BT(self) -> Tensor:
        return self.micro_batch.tensors.supervised_mask_BT

    @property
    def document_ids_BT(self) -> Tensor:
        return self.micro_batch.tensors.document_ids_BT

    @property
    def rewards_M(self) -> Tensor:
        return self.micro_batch.tensors.rewards_M

    @property
    def edits(self) -> EditTensors:
        assert self.micro_batch.edits is not None, "this weighting needs the nearest row of the other class"
        return self.micro_batch.edits

    @property
    def values_BT(self) -> Tensor:
        assert self.micro_batch.values_BT is not None, "this weighting needs the critic's values"
        return self.micro_batch.values_BT

    @property
    def disagreements_BT(self) -> Tensor:
        assert self.micro_batch.disagreements_BT is not None, "this weighting needs the disagreement of an ensemble"
        return self.micro_batch.disagreements_BT


def td_advantage(view: TokenView) -> Tensor:
    """TD errors of the sequence reading, or their lambda-sums: [B, T]."""
    errors_BT = td.td_errors(
        view.values_BT,
        view.rewards_M,
        view.supervised_BT,
        gamma=view.config.gamma,
        document_ids_BT=view.document_ids_BT,
    )
    return _summed_ahead(errors_BT, view)


def oracle_advantage(view: TokenView) -> Tensor:
    """TD errors of a critic that knows where a row leaves those that it shares its first tokens with: [B, T].

    V is b, the share of correct rows among these, up to the first token that differs, and R from there on: R - b at
    that token, 0 elsewhere; a row without another class has none. Or their lambda-sums.
    """
    edits = view.edits
    jumps_M = view.rewards_M - edits.correct_frac_M
    jumps_BT = at_tokens(jumps_M, view.supervised_BT, view.document_ids_BT)
    return _summed_ahead(torch.where(edits.is_first_BT, jumps_BT, torch.zeros_like(jumps_BT)), view)


def reference_log_ratio(view: TokenView) -> Tensor:
    """log p_plus - log p_minus of each supervised token, by the references of correct and of incorrect rows: [B, T]."""
    plus_BT, minus_BT = view.micro_batch.reference_losses_BT, view.micro_batch.incorrect_losses_BT
    assert plus_BT is not None, "a contrast needs the losses of the reference of correct rows"
    assert minus_BT is not None, "a contrast needs the losses of the reference of incorrect rows"
    return torch.where(view.supervised_BT, minus_BT - plus_BT, torch.zeros_like(plus_BT))


def edit_marks(view: TokenView) -> Tensor:
    """1 at a correct row's tokens that differ from the nearest incorrect row, -1 the other way round, else 0: [B, T].

    An incorrect row's first token that differs is always marked: where it lacks a token, the next one stands wrong.
    """
    edits = view.edits
    is_correct_BT = at_tokens(view.rewards_M > 0, view.supervised_BT, view.document_ids_BT)
    is_wrong_BT = ~is_correct_BT & (edits.differs_BT | edits.is_first_BT)
    return (is_correct_BT & edits.differs_BT).float() - is_wrong_BT.float()


def _summed_ahead(errors_BT: Tensor, view: TokenView) -> Tensor:
    return td.advantages(
        errors_BT,
        view.supervised_BT,
        gamma=view.config.gamma,
        td_lambda=view.config.td_lambda,
        document_ids_BT=view.document_ids_BT,
    )


def horizon_td_advantage(view: TokenView) -> Tensor:
    """TD errors of the horizon reading, one for each pair: [B, T, H]."""
    return td.horizon_td_errors(
        view.values_BT,
        view.rewards_M,
        view.supervised_BT,
        view.num_horizons,
        gamma=view.config.gamma,
        document_ids_BT=view.document_ids_BT,
    )


def sequence_reward_advantage(view: TokenView) -> Tensor:
    """R - V(prompt) at every supervised token: [B, T]."""
    return weighting.sequence_reward_advantages(
        view.values_BT, view.rewards_M, view.supervised_BT, document_ids_BT=view.document_ids_BT
    )


def surprisal_advantage(view: TokenView) -> Tensor:
    """The policy's own next-token loss of each supervised token: [B, T]. Token t is predicted from t - 1."""
    losses_BTH = view.micro_batch.policy_losses_BTH
    assert losses_BTH is not None, "surprisal needs the policy's losses"
    losses_BT = torch.zeros_like(losses_BTH[..., 0])
    losses_BT[:, 1:] = losses_BTH[:, :-1, 0]
    return torch.where(view.supervised_BT, losses_BT, 0.0)


def own_log_probability(view: TokenView) -> Tensor:
    """The policy's own log-probability of each pair's target, from that horizon: [B, T, H]."""
    losses_BTH = view.micro_batch.policy_losses_BTH
    assert losses_BTH is not None, "the policy's own probability needs the policy's losses"
    return -losses_BTH


def edit_metrics(micro_batches: Sequence[MicroBatch], ranks: Ranks) -> dict[str, float]:
    """Describe the edits of the global batch; what no row has is absent.

    `edits/partner_frac`: the share of rows whose problem has a row of the other class; `edits/differing_frac`: the mean
    over these of the share of their targets that differ, which says how near the nearest row is.
    """
    own = torch.zeros(3, dtype=torch.float64)
    for micro in micro_batches:
        tensors, edits = micro.tensors, micro.edits
        assert edits is not None, "this weighting needs the nearest row of the other class"
        mask_BT, ids_BT, count = tensors.supervised_mask_BT, tensors.document_ids_BT, len(tensors.rewards_M)
        targets_M, differing_M = (
            sums_per_document(each_BT.double(), mask_BT, ids_BT, num_documents=count)
            for each_BT in (mask_BT, edits.differs_BT)
        )
        shares_M = (differing_M / targets_M)[edits.has_other_M]
        own += torch.tensor([count, len(shares_M), float(shares_M.sum())], dtype=torch.float64)
    num_rows, num_partners, differing = ranks.sum(own).tolist()
    metrics = {"edits/partner_frac": num_partners / num_rows}
    return metrics | ({"edits/differing_frac": differing / num_partners} if num_partners else {})


def global_moments(values: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> weighting.Moments:
    """Return count, mean and standard deviation of the masked elements of all ranks and micro-batches."""
    own = weighting.Moments(0.0, 0.0, 0.0)
    for value, mask in zip(values, masks, strict=True):
        own = own + weighting.Moments.from_masked(value, mask)
    return weighting.Moments.from_tensor(ranks.sum(own.to_tensor()))


class NoWhitening:
    """Advantages as they are."""

    def __call__(self, advantages: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
        return list(advantages)

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        assert not state, f"this weighting keeps no state, the checkpoint has {sorted(state)}"


class BatchWhitening(NoWhitening):
    """Mean 0 and standard deviation 1 over all targets of the global batch."""

    def __call__(self, advantages: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
        moments = self._moments(advantages, masks, ranks)
        return [weighting.whiten(a, mask, moments, _WHITEN_EPS) for a, mask in zip(advantages, masks, strict=True)]

    def _moments(self, advantages: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> weighting.Moments:
        return global_moments(advantages, masks, ranks)


class EmaWhitening(BatchWhitening):
    """As BatchWhitening, with statistics averaged over steps; the average is part of a checkpoint."""

    def __init__(self, decay: float) -> None:
        self._ema = weighting.EmaMoments(decay)

    def _moments(self, advantages: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> weighting.Moments:
        return self._ema.update(global_moments(advantages, masks, ranks))

    def state_dict(self) -> dict[str, float]:
        return self._ema.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._ema.load_state_dict(state)


def build_whitening(config: WeightingConfig) -> NoWhitening:
    """Return what `weighting.advantage_norm` names."""
    kinds: dict[str, Callable[[], NoWhitening]] = {
        "none": NoWhitening,
        "batch": BatchWhitening,
        "ema": lambda: EmaWhitening(config.ema_decay),
    }
    return kinds[config.advantage_norm]()
