"""The scorers, and which of them a configuration names.

Shapes: B sequences, T positions, H horizons, P supervised pairs of one horizon in the global batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wmtp_ray.config.schema import Rho1Config, RunConfig, WeightingConfig
from wmtp_ray.contracts import IN_FINISH
from wmtp_ray.objective import rho1, td, weighting
from wmtp_ray.objective.horizon import at_horizons, supervised_pairs
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.advantages import (
    NoWhitening,
    TokenView,
    build_whitening,
    edit_marks,
    edit_metrics,
    global_moments,
    horizon_td_advantage,
    oracle_advantage,
    own_log_probability,
    reference_log_ratio,
    sequence_reward_advantage,
    surprisal_advantage,
    td_advantage,
)
from wmtp_ray.scoring.contract import MicroBatch, Scorer, StepWeights
from wmtp_ray.scoring.controls import Control, draw_matched_weights, keep_weights, shuffle_weights
from wmtp_ray.scoring.doubtful_tokens import (
    RestsOn,
    disagreement_metrics,
    doubtful_targets,
    neutral_where,
    of_horizon_td_errors,
    of_prompt,
    of_td_errors,
    without_doubtful,
)
from wmtp_ray.scoring.push import push_down
from wmtp_ray.scoring.shapes import BETA, DIFFERENCE, MASK, PROBABILITY, THRESHOLD, WeightShape


class UniformScorer:
    """Every target counts the same: ordinary multi-token training."""

    needs_policy_losses = False

    def __init__(self, num_horizons: int, config: WeightingConfig) -> None:
        self._num_horizons = num_horizons
        self._config = config

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        weights = [m.tensors.supervised_mask_BT.float() for m in micro_batches]
        clips = self._config.clip_min, self._config.clip_max
        return _spread_over_horizons(weights, micro_batches, ranks, self._num_horizons, clips)

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        assert not state


class FinishScorer(UniformScorer):
    """The weights of the finish (`train.finish_correct_frac`), which its steps' metrics name."""

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        weights = super().weigh(micro_batches, ranks)
        return replace(weights, metrics=weights.metrics | {IN_FINISH: 1.0})


class AdvantageScorer:
    """The method, its rivals and its controls, put together from an advantage, what it becomes, and a control."""

    def __init__(
        self,
        config: WeightingConfig,
        num_horizons: int,
        *,
        advantage: Callable[[TokenView], Tensor],
        shape: WeightShape = BETA,
        control: Control = keep_weights,
        rests_on: RestsOn = of_td_errors,
    ) -> None:
        self.needs_policy_losses = config.arm.needs_policy_losses
        self._config = config
        self._num_horizons = num_horizons
        self._advantage = advantage
        self._shape = shape
        self._control = control
        self._rests_on = rests_on
        self._whitening = build_whitening(config) if shape.whitens else NoWhitening()

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights:
        views = [TokenView(m, self._config, self._num_horizons) for m in micro_batches]
        raw = [self._advantage(view) for view in views]
        masks = [_target_mask(a, view) for a, view in zip(raw, views, strict=True)]
        moments = global_moments(raw, masks, ranks)
        doubtful = doubtful_targets(views, self._rests_on)
        whitened = without_doubtful(self._whitening(raw, masks, ranks), doubtful)
        weights = [self._weights(a, mask, m) for a, mask, m in zip(whitened, masks, micro_batches, strict=True)]
        weights = neutral_where(weights, doubtful)
        weights = self._control(weights, micro_batches, ranks)
        clips = self._shape.clips(self._config)
        step = _spread_over_horizons(weights, micro_batches, ranks, self._num_horizons, clips)
        if self._shape.divides_by_kept:
            step = replace(step, denominators_H=_kept_pairs(step.pair_weights_BTH, ranks))
        if self._config.arm.pushes_down:
            step = push_down(step, whitened, micro_batches, ranks, self._config)
        metrics = step.metrics | {"advantage/mean": moments.mean, "advantage/std": moments.std}
        metrics |= disagreement_metrics(doubtful, masks, ranks)
        if self._config.arm.needs_edits:
            metrics |= edit_metrics(micro_batches, ranks)
        return replace(step, metrics=metrics)

    def _weights(self, advantage: Tensor, mask: Tensor, micro_batch: MicroBatch) -> Tensor:
        """[B, T] or [B, T, H], as the advantage."""
        weights = self._shape.weights(advantage, mask, self._config)
        if self._config.weigh_terminal:
            return weights
        return weighting.without_terminal(weights, _terminal_mask(weights, micro_batch))

    def state_dict(self) -> dict[str, float]:
        return self._whitening.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._whitening.load_state_dict(state)


class Rho1Scorer:
    """Excess loss over a reference model, ranked or softened per horizon over the global batch (Rho-1)."""

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
        metrics = _weight_metrics(weights, pairs, terminals, ranks, (self._config.clip_min, self._config.clip_max))
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


Formula = Callable[[RunConfig, int], Scorer]  # configuration, number of horizons


def _from(
    advantage: Callable[[TokenView], Tensor],
    control: Control = keep_weights,
    *,
    shape: WeightShape = BETA,
    rests_on: RestsOn = of_td_errors,
) -> Formula:
    """clip(exp(advantage / beta)), or another shape, then the control; `rests_on` says whose V the advantage is of."""
    return lambda config, num_horizons: AdvantageScorer(
        config.weighting, num_horizons, advantage=advantage, shape=shape, control=control, rests_on=rests_on
    )


def _from_td_errors(config: RunConfig, num_horizons: int) -> Scorer:
    if config.weighting.terminal == "sequence":
        return _from(td_advantage)(config, num_horizons)
    return _from(horizon_td_advantage, rests_on=of_horizon_td_errors)(config, num_horizons)


# What makes each arm's weights; `config/arms.py` says what else is known of it.
FORMULAS: dict[str, Formula] = {
    "uniform": lambda config, num_horizons: UniformScorer(num_horizons, config.weighting),
    "td": _from_td_errors,
    "rho1": lambda config, num_horizons: Rho1Scorer(config.weighting, config.rho1, num_horizons),
    "drop": _from(td_advantage, shape=THRESHOLD),
    "signed": _from(td_advantage),
    "dft": _from(own_log_probability, shape=PROBABILITY),
    "contrast": _from(reference_log_ratio),
    "diff": _from(edit_marks, shape=DIFFERENCE),
    "oracle": _from(oracle_advantage),
    "oracle_drop": _from(edit_marks, shape=MASK),
    "sequence_reward": _from(sequence_reward_advantage, rests_on=of_prompt),
    "surprisal": _from(surprisal_advantage),
    "shuffled": _from(td_advantage, shuffle_weights),
    "matched_random": _from(td_advantage, draw_matched_weights),
}


def build_scorer(config: RunConfig, num_horizons: int) -> Scorer:
    """Return the scorer that `weighting.type` names."""
    return FORMULAS[config.weighting.type](config, num_horizons)


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
    clips: tuple[float, float],
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
    metrics = _weight_metrics(weights, masks, terminals, ranks, clips)
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
    clips: tuple[float, float],
) -> dict[str, float]:
    clip_min, clip_max = clips
    sums = torch.stack(
        [
            weighting.weight_sums(w, mask, terminal, clip_min=clip_min, clip_max=clip_max)
            for w, mask, terminal in zip(weights, masks, terminals, strict=True)
        ]
    ).sum(dim=0)
    return weighting.weight_statistics(ranks.sum(sums))


def _kept_pairs(weights: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Global number of pairs with a weight, per horizon: the denominators where pairs are dropped."""
    return ranks.sum(torch.stack([(w != 0).sum(dim=(0, 1)) for w in weights]).sum(dim=0).cpu().double())


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
