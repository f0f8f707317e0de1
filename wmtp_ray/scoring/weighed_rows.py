"""A step's pair weights as those of single rows, in the form of other trainers: inputs, labels one ahead, weights.

A row of BOS, one prompt token and three response tokens, EOS the last, with two horizons; w_k(x) is the weight of x as
a target of horizon k:

    tokens       [1  7 | 4  9  2]
    input_ids    [1     7     4     9    ]      all but the last
    labels       [-100  4     9     2    ]      the token behind each input; NO_TARGET where it is not trained
    weights, 1   [0     w1(4) w1(9) w1(2)]
    weights, 2   [0     w2(4) w2(9) w2(2)]      label j is predicted from input j - 1; label 0 never is

Shapes: B sequences (1), T positions, H horizons, N inputs of a row.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from wmtp_ray.contracts import Float32, Int32, TokenBatch
from wmtp_ray.data.collate import documents_of

NO_TARGET = -100  # what cross-entropies of other libraries pass over


@dataclass(frozen=True, eq=False)
class WeighedRow:
    """`weights_HN[k - 1, j]` is the weight of label j where horizon k predicts it, 0 where it does not.

    A label of weight 0 that is not NO_TARGET is one that the weighting has dropped.
    """

    row_id: int
    is_correct: bool
    tokens_T: Int32
    labels_N: Int32
    weights_HN: Float32

    @property
    def input_ids_N(self) -> Int32:
        return self.tokens_T[:-1]

    @property
    def target_tokens_N(self) -> Int32:
        """The token behind each input, whether it is trained or not."""
        return self.tokens_T[1:]


def weighed_rows(batch: TokenBatch, pair_weights_BTH: Tensor) -> list[WeighedRow]:
    """Cut a micro-batch and its weights into rows, in its order."""
    weights_TH = pair_weights_BTH[0].float().cpu().numpy()
    supervised_T, tokens_T = batch.supervised_mask_BT[0], batch.tokens_BT[0].astype(np.int32)
    return [
        WeighedRow(
            row_id=int(row),
            is_correct=bool(reward > 0),
            tokens_T=tokens_T[document],
            labels_N=np.where(supervised_T[document], tokens_T[document], NO_TARGET)[1:].astype(np.int32),
            weights_HN=_of_labels(weights_TH[document]),
        )
        for row, reward, document in zip(batch.row_ids_M, batch.rewards_M, documents_of(batch), strict=True)
    ]


def _of_labels(weights_TH: Float32) -> Float32:
    """From pairs (t, k) to labels: the pair's target is token t + k, which is label t + k - 1."""
    num_tokens, num_horizons = weights_TH.shape
    weights_HN = np.zeros((num_horizons, num_tokens - 1), dtype=np.float32)
    for k in range(1, min(num_horizons, num_tokens - 1) + 1):
        weights_HN[k - 1, k - 1 :] = weights_TH[: num_tokens - k, k - 1]
    return weights_HN
