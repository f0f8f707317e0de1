"""Tokens whose weight rests on values that an ensemble disagrees about: they weigh 1 (`weighting.max_disagreement`).

One function an advantage says what the advantage rests on. Shapes: B sequences, T positions, H horizons.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wmtp_ray.objective import disagreement
from wmtp_ray.ranks import Ranks
from wmtp_ray.scoring.advantages import TokenView

RestsOn = Callable[[TokenView], Tensor]


def of_td_errors(view: TokenView) -> Tensor:
    """The larger disagreement at the ends of a token's own TD error, whatever td_lambda adds to it: [B, T]."""
    return disagreement.td_disagreements(view.disagreements_BT, view.supervised_BT, view.document_ids_BT)


def of_horizon_td_errors(view: TokenView) -> Tensor:
    """As `of_td_errors`, for each pair of the horizon reading: [B, T, H]."""
    return disagreement.horizon_td_disagreements(
        view.disagreements_BT, view.supervised_BT, view.num_horizons, view.document_ids_BT
    )


def of_prompt(view: TokenView) -> Tensor:
    """That about V(prompt), for every token of the response: [B, T]."""
    return disagreement.prompt_disagreements(
        view.disagreements_BT, view.supervised_BT, len(view.rewards_M), view.document_ids_BT
    )


def doubtful_targets(views: Sequence[TokenView], rests_on: RestsOn) -> list[Tensor] | None:
    """Mark the targets above `max_disagreement`, shaped as the advantage; None where nothing is asked for.

    A disagreement that is no number marks nothing, so that a broken critic stops the run.
    """
    limit = views[0].config.max_disagreement
    if limit is None or views[0].config.arm.source != "critic":
        return None
    return [rests_on(view) > limit for view in views]


def without_doubtful(advantages: Sequence[Tensor], doubtful: Sequence[Tensor] | None) -> list[Tensor]:
    """Return advantages that are 0 at doubtful targets: these are neither pushed down nor dropped."""
    if doubtful is None:
        return list(advantages)
    return [torch.where(d, torch.zeros_like(a), a) for a, d in zip(advantages, doubtful, strict=True)]


def neutral_where(weights: Sequence[Tensor], doubtful: Sequence[Tensor] | None) -> list[Tensor]:
    """Return weights that are 1 at doubtful targets, whatever the clips are."""
    if doubtful is None:
        return list(weights)
    return [torch.where(d, torch.ones_like(w), w) for w, d in zip(weights, doubtful, strict=True)]


def disagreement_metrics(doubtful: Sequence[Tensor] | None, masks: Sequence[Tensor], ranks: Ranks) -> dict[str, float]:
    """Return `weight/doubtful_frac`, the share of the global batch's targets that are doubtful."""
    if doubtful is None:
        return {}
    counts = [torch.stack([d.sum(), mask.sum()]).cpu().double() for d, mask in zip(doubtful, masks, strict=True)]
    num_doubtful, num_targets = ranks.sum(torch.stack(counts).sum(dim=0)).tolist()
    return {"weight/doubtful_frac": num_doubtful / max(num_targets, 1.0)}
