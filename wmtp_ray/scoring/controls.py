"""Control arms: weights with the distribution of the method's own, without their placement."""

from collections.abc import Callable, Sequence

from torch import Tensor

from wmtp_ray.objective import weighting
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.advantages import global_moments
from wmtp_ray.scoring.contract import MicroBatch

Control = Callable[[Sequence[Tensor], Sequence[MicroBatch], Ranks], list[Tensor]]


def keep_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """Return the weights unchanged: the method itself."""
    return list(weights)


def shuffle_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """Each response keeps its own weights, at other tokens: the placement is destroyed, the distribution is not."""
    return [
        weighting.shuffled_within_documents(w, m.tensors.supervised_mask_BT, m.tensors.document_ids_BT, m.seeds_M)
        for w, m in zip(weights, micro_batches, strict=True)
    ]


def draw_matched_weights(weights: Sequence[Tensor], micro_batches: Sequence[MicroBatch], ranks: Ranks) -> list[Tensor]:
    """Random weights with the mean and standard deviation of the global batch's own weights."""
    moments = global_moments(weights, [m.tensors.supervised_mask_BT for m in micro_batches], ranks)
    return [
        weighting.matched_random(
            moments.mean, moments.std, m.tensors.supervised_mask_BT, m.tensors.document_ids_BT, m.seeds_M
        )
        for m in micro_batches
    ]
