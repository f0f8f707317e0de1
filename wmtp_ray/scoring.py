"""Scorers: from what a model says about a step's batches to the weight of every (token, horizon) pair.

The recipes differ here and nowhere else: they walk the same line with another Scorer. A scorer sees all micro-batches
of a step on this rank at once, because whitening, the matched controls and Rho-1 speak about the whole global batch.
The formulas are in `wmtp_ray/objective`; here they are put together. It runs no model and starts no actor.

Shapes: B sequences, T positions, M documents, H horizons (index k - 1 holds horizon k).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from wmtp_ray.config.schema import Rho1Config, RunConfig, WeightingConfig
from wmtp_ray.contracts import Float32, Int64, ScoredBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.objective import rho1, td, weighting
from wmtp_ray.objective.horizon import at_horizons, supervised_pairs
from wmtp_ray.training.parallel import Ranks

ScoreSource = Literal["none", "critic", "reference"]
_WHITEN_EPS = 1e-8


@dataclass(frozen=True)
class MicroBatch:
    """One forward's worth of documents with everything that is known about them before the forward.

    `seeds_M` keys the random controls by (seed, step, row), so that they do not depend on ranks or packing.
    `policy_losses_BTH` is the policy's own detached cross-entropy of every pair, where the scorer asked for it.
    """

    tensors: BatchTensors
    row_ids_M: Int64
    seeds_M: Tensor
    values_BT: Tensor | None = None
    reference_losses_BT: Tensor | None = None
    policy_losses_BTH: Tensor | None = None


@dataclass(frozen=True)
class StepWeights:
    """Weights of a step: one [B, T, H] tensor a micro-batch (0 = not a target), and the loss's denominators.

    `denominators_H` are global: the same on every rank, whatever the split.
    """

    pair_weights_BTH: list[Tensor]
    denominators_H: Tensor
    metrics: dict[str, float]


class Scorer(Protocol):
    """What the training step asks of a weighting."""

    @property
    def source(self) -> ScoreSource:
        """Whose scores must be present in the micro-batches."""
        ...

    @property
    def needs_policy_losses(self) -> bool:
        """Whether a pass without gradient must fill `policy_losses_BTH` first."""
        ...

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights: ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


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
    def values_BT(self) -> Tensor:
        assert self.micro_batch.values_BT is not None, "this weighting needs the critic's values"
        return self.micro_batch.values_BT


def document_seeds(seed: int, step: int, row_ids_M: Int64) -> Int64:
    """Return one 63-bit seed a document, a hash of (seed, step, row); the same whatever the batch it stands in."""
    words = [
        np.random.SeedSequence([seed & (2**63 - 1), step, int(row)]).generate_state(1, np.uint64)[0]
        for row in row_ids_M
    ]
    return (np.array(words, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)


def to_micro_batch(scored: ScoredBatch, step: int, seed: int, device: torch.device) -> MicroBatch:
    """Move a scored batch to the rank's device."""
    scores = scored.scores
    return MicroBatch(
        tensors=BatchTensors.from_batch(scored.batch, device),
        row_ids_M=scored.batch.row_ids_M,
        seeds_M=torch.from_numpy(document_seeds(seed, step, scored.batch.row_ids_M)),
        values_BT=_on_device(scores.values_BT if scores else None, device),
        reference_losses_BT=_on_device(scores.losses_BT if scores else None, device),
    )


# ---------------------------------------------------------------------------------------------------- advantages


def td_advantage(view: TokenView) -> Tensor:
    """TD errors of the sequence reading, or their lambda-sums: [B, T]."""
    errors_BT = td.td_errors(
        view.values_BT,
        view.rewards_M,
        view.supervised_BT,
        gamma=view.config.gamma,
        document_ids_BT=view.document_ids_BT,
    )
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


# ------------------------------------------------------------------------------------------------------ whitening


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
        return _global_moments(advantages, masks, ranks)


class EmaWhitening(BatchWhitening):
    """As BatchWhitening, with statistics averaged over steps; the average is part of a checkpoint."""

    def __init__(self, decay: float) -> None:
        self._ema = weighting.EmaMoments(decay)

    def _moments(self, advantages: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> weighting.Moments:
        return self._ema.update(_global_moments(advantages, masks, ranks))

    def state_dict(self) -> dict[str, float]:
        return self._ema.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._ema.load_state_dict(state)


# ------------------------------------------------------------------------------------------------------- controls

Control = Callable[[Sequence[Tensor], Sequence[MicroBatch], Ranks], list[Tensor]]


def keep_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """The method itself: no control."""
    return list(weights)


def shuffle_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """Each response keeps its own weights, at other tokens: the placement is destroyed, the distribution is not."""
    return [
        weighting.shuffled_within_documents(w, m.tensors.supervised_mask_BT, m.tensors.document_ids_BT, m.seeds_M)
        for w, m in zip(weights, micro_batches, strict=True)
    ]


def draw_matched_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """Random weights with the mean and standard deviation of the global batch's own weights."""
    moments = _global_moments(weights, [m.tensors.supervised_mask_BT for m in micro_batches], ranks)
    return [
        weighting.matched_random(
            moments.mean, moments.std, m.tensors.supervised_mask_BT, m.tensors.document_ids_BT, m.seeds_M
        )
        for m in micro_batches
    ]


# -------------------------------------------------------------------------------------------------------- scorers


class UniformScorer:
    """Every target counts the same: ordinary multi-token training."""

    source: ScoreSource = "none"
    needs_policy_losses = False

    def __init__(self, num_horizons: int, config: WeightingConfig) -> None:
        self._num_horizons = num_horizons
        self._config = config

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        weights = [m.tensors.supervised_mask_BT.float() for m in micro_batches]
        return _spread_over_horizons(weights, micro_batches, ranks, self._num_horizons, self._config)

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        assert not state


class AdvantageScorer:
    """clip(exp(advantage / beta)): the method and its controls, put together from an advantage and a control."""

    def __init__(
        self,
        config: WeightingConfig,
        num_horizons: int,
        *,
        source: ScoreSource,
        advantage: Callable[[TokenView], Tensor],
        control: Control = keep_weights,
        needs_policy_losses: bool = False,
    ) -> None:
        self.source = source
        self.needs_policy_losses = needs_policy_losses
        self._config = config
        self._num_horizons = num_horizons
        self._advantage = advantage
        self._control = control
        self._whitening = _whitening(config)

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        views = [TokenView(m, self._config, self._num_horizons) for m in micro_batches]
        raw = [self._advantage(view) for view in views]
        masks = [_target_mask(a, view) for a, view in zip(raw, views, strict=True)]
        moments = _global_moments(raw, masks, ranks)
        whitened = self._whitening(raw, masks, ranks)
        weights = [self._weights(a, mask, m) for a, mask, m in zip(whitened, masks, micro_batches, strict=True)]
        weights = self._control(weights, micro_batches, ranks)
        step = _spread_over_horizons(weights, micro_batches, ranks, self._num_horizons, self._config)
        metrics = step.metrics | {"advantage/mean": moments.mean, "advantage/std": moments.std}
        return StepWeights(step.pair_weights_BTH, step.denominators_H, metrics)

    def _weights(self, advantage: Tensor, mask: Tensor, micro_batch: MicroBatch) -> Tensor:
        """[B, T] or [B, T, H], as the advantage."""
        c = self._config
        weights = weighting.td_token_weights(advantage, mask, beta=c.beta, clip_min=c.clip_min, clip_max=c.clip_max)
        if c.weigh_terminal:
            return weights
        return weighting.without_terminal(weights, _terminal_mask(weights, micro_batch))

    def state_dict(self) -> dict[str, float]:
        return self._whitening.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._whitening.load_state_dict(state)


class Rho1Scorer:
    """Excess loss over a reference model, ranked or softened per horizon over the global batch (Rho-1)."""

    source: ScoreSource = "reference"
    needs_policy_losses = True

    def __init__(self, config: WeightingConfig, rho1_config: Rho1Config, num_horizons: int) -> None:
        self._config = config
        self._rho1 = rho1_config
        self._num_horizons = num_horizons

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        pairs = [
            supervised_pairs(m.tensors.supervised_mask_BT, self._num_horizons, m.tensors.document_ids_BT)
            for m in micro_batches
        ]
        excess = [_excess(m) for m in micro_batches]
        ties = [_tie_breaks(m, self._num_horizons) for m in micro_batches]
        horizons = [
            self._weigh_horizon(_at(excess, h), _at(ties, h), _at(pairs, h), ranks) for h in range(self._num_horizons)
        ]
        weights = [torch.stack(of_micro_batch, dim=-1) for of_micro_batch in zip(*horizons, strict=True)]
        terminals = [_terminal_mask(w, m) for w, m in zip(weights, micro_batches, strict=True)]
        metrics = _weight_metrics(weights, pairs, terminals, ranks, self._config)
        return StepWeights(weights, _kept_pairs(weights, ranks), metrics)

    def _weigh_horizon(
        self, excess: Sequence[Tensor], ties: Sequence[Tensor], pairs: Sequence[Tensor], ranks: Ranks
    ) -> list[Tensor]:
        """Return one horizon's weights, [B, T] a micro-batch, made from the pairs of the whole global batch."""
        own_P, own_ties_P = (
            torch.cat([x[chosen] for x, chosen in zip(each, pairs, strict=True)]) for each in (excess, ties)
        )
        parts = torch.split(self._weights_of_own(own_P, own_ties_P, ranks), [int(chosen.sum()) for chosen in pairs])
        return [
            torch.zeros_like(e).masked_scatter(chosen, part)
            for e, chosen, part in zip(excess, pairs, parts, strict=True)
        ]

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        assert not state

    def _weights_of_own(self, own_P: Tensor, own_ties_P: Tensor, ranks: Ranks) -> Tensor:
        """Weigh all ranks' pairs of one horizon together and return this rank's part."""
        parts = ranks.gather(own_P)
        start = sum(len(part) for part in parts[: ranks.rank])
        all_P, all_ties_P = torch.cat(parts), torch.cat(ranks.gather(own_ties_P))
        if self._rho1.mode == "topk":
            weights_P = rho1.keep_top(all_P, self._rho1.keep_ratio, all_ties_P).float()
        else:
            weights_P = rho1.excess_weights(
                all_P, self._rho1.temperature, clip_min=self._config.clip_min, clip_max=self._config.clip_max
            )
        return weights_P[start : start + len(own_P)]


def build_scorer(config: RunConfig, num_horizons: int) -> Scorer:
    """Return the scorer that `weighting.type` names."""
    w = config.weighting
    td_source = td_advantage if w.terminal == "sequence" else horizon_td_advantage
    builders: dict[str, Callable[[], Scorer]] = {
        "uniform": lambda: UniformScorer(num_horizons, w),
        "td": lambda: AdvantageScorer(w, num_horizons, source="critic", advantage=td_source),
        "shuffled": lambda: AdvantageScorer(
            w, num_horizons, source="critic", advantage=td_advantage, control=shuffle_weights
        ),
        "matched_random": lambda: AdvantageScorer(
            w, num_horizons, source="critic", advantage=td_advantage, control=draw_matched_weights
        ),
        "sequence_reward": lambda: AdvantageScorer(
            w, num_horizons, source="critic", advantage=sequence_reward_advantage
        ),
        "surprisal": lambda: AdvantageScorer(
            w, num_horizons, source="none", advantage=surprisal_advantage, needs_policy_losses=True
        ),
        "rho1": lambda: Rho1Scorer(w, config.rho1, num_horizons),
    }
    return builders[w.type]()


# ----------------------------------------------------------------------------------------------------------- parts


def _on_device(array: Float32 | None, device: torch.device) -> Tensor | None:
    """Arrays from the object store are read-only, hence the copy."""
    return None if array is None else torch.tensor(array, device=device)


def _whitening(config: WeightingConfig) -> NoWhitening:
    kinds: dict[str, Callable[[], NoWhitening]] = {
        "none": NoWhitening,
        "batch": BatchWhitening,
        "ema": lambda: EmaWhitening(config.ema_decay),
    }
    return kinds[config.advantage_norm]()


def _global_moments(values: Sequence[Tensor], masks: Sequence[Tensor], ranks: Ranks) -> weighting.Moments:
    own = weighting.Moments(0.0, 0.0, 0.0)
    for value, mask in zip(values, masks, strict=True):
        own = own + weighting.Moments.from_masked(value, mask)
    return weighting.Moments.from_tensor(ranks.sum(own.to_tensor()))


def _target_mask(advantage: Tensor, view: TokenView) -> Tensor:
    """The mask of an advantage's targets: tokens [B, T], or pairs where the advantage speaks of pairs [B, T, H]."""
    if advantage.ndim == 2:
        return view.supervised_BT
    return supervised_pairs(view.supervised_BT, view.num_horizons, view.document_ids_BT)


def _terminal_mask(weights: Tensor, micro_batch: MicroBatch) -> Tensor:
    """Where the weights speak about a document's last supervised token; [B, T] or [B, T, H] like the weights."""
    tensors = micro_batch.tensors
    last_BT = td.last_supervised_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
    if weights.ndim == 2:
        return last_BT
    return at_horizons(last_BT, weights.shape[-1], tensors.document_ids_BT)[0]


def _spread_over_horizons(
    weights: Sequence[Tensor],
    micro_batches: Sequence[MicroBatch],
    ranks: Ranks,
    num_horizons: int,
    config: WeightingConfig,
) -> StepWeights:
    """Turn token weights into pair weights, count the global pairs, and describe the weights."""
    pairs = [
        supervised_pairs(m.tensors.supervised_mask_BT, num_horizons, m.tensors.document_ids_BT) for m in micro_batches
    ]
    pair_weights = [_pair_weights(w, m, num_horizons) for w, m in zip(weights, micro_batches, strict=True)]
    count_H = torch.stack([p.sum(dim=(0, 1)) for p in pairs]).sum(dim=0).cpu().double()
    masks = [
        m.tensors.supervised_mask_BT if w.ndim == 2 else p
        for w, m, p in zip(weights, micro_batches, pairs, strict=True)
    ]
    terminals = [_terminal_mask(w, m) for w, m in zip(weights, micro_batches, strict=True)]
    metrics = _weight_metrics(weights, masks, terminals, ranks, config)
    return StepWeights(pair_weights, ranks.sum(count_H), metrics)


def _pair_weights(weights: Tensor, micro_batch: MicroBatch, num_horizons: int) -> Tensor:
    if weights.ndim == 3:
        return weights
    return at_horizons(weights, num_horizons, micro_batch.tensors.document_ids_BT)[0]


def _weight_metrics(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    terminals: Sequence[Tensor],
    ranks: Ranks,
    config: WeightingConfig,
) -> dict[str, float]:
    sums = torch.stack(
        [
            weighting.weight_sums(w, mask, terminal, clip_min=config.clip_min, clip_max=config.clip_max)
            for w, mask, terminal in zip(weights, masks, terminals, strict=True)
        ]
    ).sum(dim=0)
    return weighting.weight_statistics(ranks.sum(sums))


def _kept_pairs(weights: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Global number of pairs with a weight, per horizon: the denominators of Rho-1."""
    return ranks.sum(torch.stack([(w > 0).sum(dim=(0, 1)) for w in weights]).sum(dim=0).cpu().double())


def _excess(micro_batch: MicroBatch) -> Tensor:
    """Signed excess loss of every pair."""
    assert micro_batch.policy_losses_BTH is not None, "rho1 needs the policy's losses"
    assert micro_batch.reference_losses_BT is not None, "rho1 needs the reference's losses"
    return rho1.excess_losses(
        micro_batch.policy_losses_BTH, micro_batch.reference_losses_BT, micro_batch.tensors.document_ids_BT
    )


def _at(tensors_BTH: Sequence[Tensor], horizon_index: int) -> list[Tensor]:
    return [tensor_BTH[..., horizon_index] for tensor_BTH in tensors_BTH]


def _tie_breaks(micro_batch: MicroBatch, num_horizons: int) -> Tensor:
    """An int64 order of the pairs that no split into ranks or micro-batches changes: (row, position of the target)."""
    tensors = micro_batch.tensors
    # A copy: arrays from the object store are read-only.
    rows_M = torch.tensor(micro_batch.row_ids_M, device=tensors.tokens_BT.device)
    order_BT = rows_M[tensors.document_ids_BT.long()] * 2**24 + tensors.positions_BT.long()
    return at_horizons(order_BT, num_horizons, tensors.document_ids_BT)[0]
