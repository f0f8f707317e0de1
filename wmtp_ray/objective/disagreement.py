"""How far an ensemble disagrees about the values that a token's weight rests on (objective.md, "Ensembles of critics").

Shape legend: B rows, T positions, H horizons, M documents. `disagreements_BT[t]` speaks of V(x_0..x_t), so the TD error
of token j rests on those at j - 1 and j, but for the last supervised token, whose second end is the reward.
"""

import torch
from torch import Tensor

from wmtp_ray.objective import td
from wmtp_ray.objective.documents import at_previous, at_tokens
from wmtp_ray.objective.horizon import at_horizons


def td_disagreements(disagreements_BT: Tensor, supervised_BT: Tensor, document_ids_BT: Tensor | None = None) -> Tensor:
    """Return the larger disagreement at the two ends of each supervised token's TD error, 0 elsewhere: [B, T].

    Prompt of 2 tokens, response of 3:

        disagreements  [.1 .2 | .0 .3 .9]
        td             [ 0  0 | .2 .3 .3]     what stands after the last token is not read
    """
    before_BT, _ = at_previous(disagreements_BT, document_ids_BT)
    is_last_BT = td.last_supervised_mask(supervised_BT, document_ids_BT)
    after_BT = torch.where(is_last_BT, torch.zeros_like(disagreements_BT), disagreements_BT)
    return torch.where(supervised_BT, torch.maximum(before_BT, after_BT), torch.zeros_like(before_BT))


def horizon_td_disagreements(
    disagreements_BT: Tensor, supervised_BT: Tensor, num_horizons: int, document_ids_BT: Tensor | None = None
) -> Tensor:
    """Return `td_disagreements` of the horizon reading, [B, T, H]: the pair (t, H) ends in the reward."""
    errors_BT = td_disagreements(disagreements_BT, supervised_BT, document_ids_BT)
    before_BT, _ = at_previous(disagreements_BT, document_ids_BT)
    before_BT = torch.where(supervised_BT, before_BT, torch.zeros_like(before_BT))
    errors_BTH, _ = at_horizons(errors_BT, num_horizons, document_ids_BT)
    terminal_BTH, _ = at_horizons(before_BT, num_horizons, document_ids_BT)
    return torch.cat([errors_BTH[..., :-1], terminal_BTH[..., -1:]], dim=-1)


def prompt_disagreements(
    disagreements_BT: Tensor, supervised_BT: Tensor, num_documents: int, document_ids_BT: Tensor | None = None
) -> Tensor:
    """Return the disagreement about V(prompt) at each supervised token of the document, 0 elsewhere: [B, T]."""
    prompt_M = td.prompt_value(
        disagreements_BT, supervised_BT, document_ids_BT=document_ids_BT, num_documents=num_documents
    )
    at_BT = at_tokens(prompt_M, disagreements_BT, document_ids_BT)
    return torch.where(supervised_BT, at_BT, torch.zeros_like(at_BT))
