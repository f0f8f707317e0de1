"""A `TokenBatch` as torch tensors on one device. Nothing is computed and nothing is padded here.

Shape suffixes: B sequences (always 1: the batch is flat), T positions, M documents, K kept tokens.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wmtp_ray.contracts import TokenBatch


@dataclass(frozen=True)
class BatchTensors:
    """One flat micro-batch: int64 tokens, positions and document ids, bool supervised mask, float32 rewards."""

    tokens_BT: Tensor
    positions_BT: Tensor
    document_ids_BT: Tensor
    supervised_mask_BT: Tensor
    rewards_M: Tensor
    document_lengths: tuple[int, ...]

    @classmethod
    def from_batch(cls, batch: TokenBatch, device: torch.device | str) -> Self:
        """Copy the batch's arrays to the device, so that neither side sees the other's later changes."""
        assert int(batch.document_lengths_M.sum()) == batch.num_tokens == batch.tokens_BT.shape[1]
        return cls(
            tokens_BT=torch.tensor(batch.tokens_BT, dtype=torch.int64, device=device),
            positions_BT=torch.tensor(batch.positions_BT, dtype=torch.int64, device=device),
            document_ids_BT=torch.tensor(batch.document_ids_BT, dtype=torch.int64, device=device),
            supervised_mask_BT=torch.tensor(batch.supervised_mask_BT, dtype=torch.bool, device=device),
            rewards_M=torch.tensor(batch.rewards_M, dtype=torch.float32, device=device),
            document_lengths=tuple(int(length) for length in batch.document_lengths_M),
        )

    def part(self, is_kept_M: Tensor) -> tuple[Self, Tensor]:
        """Return the batch of some of the documents, and the places [K] of their tokens in this one.

        Documents of 3, 2 and 4 tokens, of which the first and the last are kept: places 0 1 2 5 6 7 8.
        """
        places_K = is_kept_M[self.document_ids_BT[0]].nonzero()[:, 0]
        numbers_M = is_kept_M.cumsum(0) - 1
        kept = is_kept_M.tolist()
        part = replace(
            self,
            tokens_BT=self.tokens_BT[:, places_K],
            positions_BT=self.positions_BT[:, places_K],
            document_ids_BT=numbers_M[self.document_ids_BT[:, places_K]],
            supervised_mask_BT=self.supervised_mask_BT[:, places_K],
            rewards_M=self.rewards_M[is_kept_M],
            document_lengths=tuple(n for n, is_kept in zip(self.document_lengths, kept, strict=True) if is_kept),
        )
        return part, places_K
