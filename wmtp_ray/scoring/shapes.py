"""How an advantage becomes a weight: one shape for each kind of arm that is made from an advantage."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wmtp_ray.config.schema import WeightingConfig
from wmtp_ray.objective import weighting


@dataclass(frozen=True)
class WeightShape:
    """From advantages and the mask of their targets, equal shapes, to weights: 0 outside the mask, detached.

    `clips` are the bounds that the statistics count weights at. `whitens`: the advantage may be whitened first.
    `divides_by_kept`: the loss is a mean over the pairs with a weight, not over all supervised ones.
    """

    weights: Callable[[Tensor, Tensor, WeightingConfig], Tensor]
    clips: Callable[[WeightingConfig], tuple[float, float]] = lambda config: (0.0, math.inf)
    whitens: bool = False
    divides_by_kept: bool = False


def _exponential(advantage: Tensor, mask: Tensor, config: WeightingConfig) -> Tensor:
    return weighting.td_token_weights(
        advantage, mask, beta=config.beta, clip_min=config.clip_min, clip_max=config.clip_max
    )


def _kept_or_dropped(advantage: Tensor, mask: Tensor, config: WeightingConfig) -> Tensor:
    return weighting.kept_weights(advantage, mask, drop_below=config.drop_below)


def _probability(log_probability: Tensor, mask: Tensor, config: WeightingConfig) -> Tensor:
    return weighting.td_token_weights(log_probability, mask, beta=1.0, clip_min=0.0, clip_max=1.0)


def _heavier_where_different(marks: Tensor, mask: Tensor, config: WeightingConfig) -> Tensor:
    return weighting.difference_weights(marks, mask, diff_weight=config.diff_weight)


def _without_marked(marks: Tensor, mask: Tensor, config: WeightingConfig) -> Tensor:
    return weighting.unmarked_weights(marks, mask)


BETA = WeightShape(_exponential, clips=lambda config: (config.clip_min, config.clip_max), whitens=True)
THRESHOLD = WeightShape(_kept_or_dropped, divides_by_kept=True)
PROBABILITY = WeightShape(_probability)
DIFFERENCE = WeightShape(_heavier_where_different)
MASK = WeightShape(_without_marked, divides_by_kept=True)
