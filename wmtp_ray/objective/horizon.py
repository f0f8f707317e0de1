"""The one place where anything is shifted by horizon.

Shape legend: B rows, T positions, H horizons. Index t of any `*_BT` tensor speaks about token t. Horizon k (1 = the
next token) is stored at index k - 1. Targets, masks and weights all pass through `at_horizons`, so they cannot
disagree about which token a prediction head at position t is asked for.
"""

import torch
from torch import Tensor

from wmtp_ray.objective.documents import document_ids_or_rows


def at_horizons(
    x_BT: Tensor, num_horizons: int, document_ids_BT: Tensor | None = None, *, fill: float = 0
) -> tuple[Tensor, Tensor]:
    """Return `y_BTH[t, k - 1] = x[t + k]` and `exists_BTH`: whether t + k is a token of t's own document.

    `y` is `fill` where the pair does not exist. Two documents packed in one row, two horizons:

        x          [ 5  6  7 |  8  9]
        documents  [ 0  0  0 |  1  1]
        y[:, k=1]  [ 6  7  0 |  9  0]   exists  [T T F | T F]
        y[:, k=2]  [ 7  0  0 |  0  0]   exists  [T F F | F F]
    """
    ids_BT = document_ids_or_rows(x_BT, document_ids_BT)
    exists_BTH = (_windows(ids_BT, num_horizons, -1) == ids_BT.unsqueeze(-1)) & (ids_BT >= 0).unsqueeze(-1)
    y_BTH = _windows(x_BT, num_horizons, fill)
    return torch.where(exists_BTH, y_BTH, torch.full_like(y_BTH, fill)), exists_BTH


def supervised_pairs(supervised_mask_BT: Tensor, num_horizons: int, document_ids_BT: Tensor | None = None) -> Tensor:
    """Return the pairs that are trained, bool [B, T, H]: t + k is supervised and in t's document."""
    supervised_BTH, _ = at_horizons(supervised_mask_BT, num_horizons, document_ids_BT, fill=False)
    return supervised_BTH


def _windows(x_BT: Tensor, num_horizons: int, fill: float) -> Tensor:
    beyond = x_BT.new_full((x_BT.shape[0], num_horizons), fill)
    return torch.cat([x_BT, beyond], dim=1).unfold(1, num_horizons, 1)[:, 1:]
