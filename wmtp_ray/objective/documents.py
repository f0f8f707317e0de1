"""Which tokens belong together: documents inside rows, and what may cross from one token to the next.

Shape legend: B rows, T positions, M documents. `document_ids_BT` names the document of every token, -1 is padding;
documents are contiguous and never span two rows. `None` means that row b is document b, padding included, which is
harmless because padding is never supervised. So padded and packed batches run through the same lines and give the
same numbers. This module knows nothing of horizons (see `horizon`) and nothing of rewards' meaning (see `td`).
"""

import torch
from torch import Tensor


def document_ids_or_rows(x_BT: Tensor, document_ids_BT: Tensor | None) -> Tensor:
    """Return the document ids, or the row numbers where none are given."""
    if document_ids_BT is not None:
        assert document_ids_BT.shape == x_BT.shape[:2], "document_ids_BT must have one id per token"
        return document_ids_BT
    num_rows, num_positions = x_BT.shape[:2]
    return torch.arange(num_rows, device=x_BT.device).unsqueeze(1).expand(num_rows, num_positions)


def count_documents(x_BT: Tensor, document_ids_BT: Tensor | None) -> int:
    """Return M: the rows, or one more than the largest id (which waits for the device)."""
    return x_BT.shape[0] if document_ids_BT is None else max(0, int(document_ids_BT.max()) + 1)


def at_tokens(x_M: Tensor, like_BT: Tensor, document_ids_BT: Tensor | None) -> Tensor:
    """Spread a per-document tensor over the documents' tokens; padding gets document 0's value, never to be read."""
    return x_M[document_ids_or_rows(like_BT, document_ids_BT).long().clamp(min=0)]


def sums_per_document(
    x_BT: Tensor, mask_BT: Tensor, document_ids_BT: Tensor | None, *, num_documents: int | None = None
) -> Tensor:
    """Sum the masked tokens of every document: [M]. Gradient flows into `x_BT`."""
    num_documents = count_documents(x_BT, document_ids_BT) if num_documents is None else num_documents
    ids_BT = document_ids_or_rows(x_BT, document_ids_BT).long()
    bins_BT = torch.where(ids_BT >= 0, ids_BT, num_documents)
    masked_BT = torch.where(mask_BT, x_BT, torch.zeros_like(x_BT))
    return x_BT.new_zeros(num_documents + 1).index_add(0, bins_BT.reshape(-1), masked_BT.reshape(-1))[:num_documents]


def at_previous(x_BT: Tensor, document_ids_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return `y[t] = x[t - 1]` and whether t - 1 is a token of the same document; y is 0 where it is not.

    Two documents packed in one row: x = [1 2 3 | 4 5] gives y = [0 1 2 | 0 4], exists = [F T T | F T].
    """
    ids_BT = document_ids_or_rows(x_BT, document_ids_BT)
    exists_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    exists_BT[:, 1:] = (ids_BT[:, 1:] == ids_BT[:, :-1]) & (ids_BT[:, 1:] >= 0)
    shifted_BT = torch.cat([torch.zeros_like(x_BT[:, :1]), x_BT[:, :-1]], dim=1)
    return torch.where(exists_BT, shifted_BT, torch.zeros_like(shifted_BT)), exists_BT


def suffix_sums(x_BT: Tensor, decay: float, document_ids_BT: Tensor | None) -> Tensor:
    """Solve `y[t] = x[t] + decay * y[t + 1]` from every document's end backwards; y never crosses into the next one.

    Doubling scan: after round r, y[t] holds the sum over the next 2^r tokens, so log2(T) whole-tensor operations
    replace T sequential ones, and no negative power of `decay` is ever formed.

    decay 0.5, x = [1 1 1 | 4 2] gives y = [1.75 1.5 1 | 5 2].
    """
    ids_BT = document_ids_or_rows(x_BT, document_ids_BT)
    sums_BT = x_BT
    carry_BT = torch.zeros_like(x_BT)
    carry_BT[:, :-1] = decay * ((ids_BT[:, 1:] == ids_BT[:, :-1]) & (ids_BT[:, 1:] >= 0)).to(x_BT)
    reach = 1
    while reach < x_BT.shape[1]:
        sums_BT = sums_BT + carry_BT * _ahead(sums_BT, reach)
        carry_BT = carry_BT * _ahead(carry_BT, reach)
        reach *= 2
    return sums_BT


def _ahead(x_BT: Tensor, reach: int) -> Tensor:
    return torch.cat([x_BT[:, reach:], torch.zeros_like(x_BT[:, :reach])], dim=1)
