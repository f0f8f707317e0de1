"""The tokens that are made less likely: the signed arm's bounded push (objective.md, `signed`; TOPR, arXiv 2503.14286).

Shapes: B sequences, T positions, H horizons.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wmtp_ray.config.schema import WeightingConfig
from wmtp_ray.objective import td, weighting
from wmtp_ray.objective.documents import at_tokens
from wmtp_ray.objective.horizon import at_horizons
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.contract import MicroBatch, StepWeights


def push_down(
    step: StepWeights,
    advantages: Sequence[Tensor],
    micro_batches: Sequence[MicroBatch],
    ranks: Ranks,
    config: WeightingConfig,
) -> StepWeights:
    """Give each pair whose target an incorrect row should unlearn the weight -|w| p, |w| its weight in `step`.

    These are the targets whose advantage ([B, T]) is below -`push_below`, but for the terminal one where it is not
    weighed; the others keep their weight. p is the policy's own probability of the target at that horizon. The metrics
    of `step` stay those of |w|; beside them stand the share of tokens that are pushed down and the mean p of their
    pairs: a push ends as p goes to 0.
    """
    pushed = [_pushed_tokens(a, m, config) for a, m in zip(advantages, micro_batches, strict=True)]
    at_pairs = [
        at_horizons(chosen_BT, w.shape[-1], m.tensors.document_ids_BT)[0]
        for chosen_BT, w, m in zip(pushed, step.pair_weights_BTH, micro_batches, strict=True)
    ]
    signed = [
        weighting.pushed_down(w, chosen_BTH, _losses(m))
        for w, chosen_BTH, m in zip(step.pair_weights_BTH, at_pairs, micro_batches, strict=True)
    ]
    metrics = step.metrics | _push_metrics(pushed, at_pairs, micro_batches, ranks)
    return replace(step, pair_weights_BTH=signed, metrics=metrics, magnitudes_BTH=step.pair_weights_BTH)


def _pushed_tokens(advantage_BT: Tensor, micro_batch: MicroBatch, config: WeightingConfig) -> Tensor:
    tensors = micro_batch.tensors
    is_incorrect_BT = at_tokens(tensors.rewards_M == 0.0, advantage_BT, tensors.document_ids_BT)
    chosen_BT = tensors.supervised_mask_BT & is_incorrect_BT & (advantage_BT < -config.push_below)
    if config.weigh_terminal:
        return chosen_BT
    return chosen_BT & ~td.last_supervised_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)


def _losses(micro_batch: MicroBatch) -> Tensor:
    assert micro_batch.policy_losses_BTH is not None, "a push needs the policy's losses"
    return micro_batch.policy_losses_BTH


def _push_metrics(
    pushed: Sequence[Tensor], at_pairs: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks
) -> dict[str, float]:
    own = torch.zeros(4, dtype=torch.float64)
    for chosen_BT, chosen_BTH, micro in zip(pushed, at_pairs, micro_batches, strict=True):
        probabilities_P = torch.exp(-_losses(micro)[chosen_BTH])
        counts = [micro.tensors.supervised_mask_BT.sum(), chosen_BT.sum(), chosen_BTH.sum(), probabilities_P.sum()]
        own += torch.stack([count.cpu().double() for count in counts])
    tokens, num_pushed, num_pairs, probability = ranks.sum(own).tolist()
    metrics = {"weight/negative_frac": num_pushed / tokens}
    return metrics | ({"weight/negative_probability": probability / num_pairs} if num_pairs else {})
