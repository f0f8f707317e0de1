import numpy as np
import torch

from wmtp_ray.contracts import TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors


def _batch() -> TokenBatch:
    return TokenBatch(
        step=3,
        micro_step=0,
        tokens_BT=np.array([[1, 7, 2, 1, 2, 1, 5, 6, 2]], dtype=np.int64),
        document_ids_BT=np.array([[0, 0, 0, 1, 1, 2, 2, 2, 2]], dtype=np.int32),
        positions_BT=np.array([[0, 1, 2, 0, 1, 0, 1, 2, 3]], dtype=np.int32),
        supervised_mask_BT=np.array([[0, 0, 1, 0, 1, 0, 0, 1, 1]], dtype=np.bool_),
        document_lengths_M=np.array([3, 2, 4], dtype=np.int32),
        rewards_M=np.array([1.0, 0.0, 1.0], dtype=np.float32),
        row_ids_M=np.array([10, 11, 12], dtype=np.int64),
    )


def test_arrays_become_tensors_of_the_types_torch_indexes_with() -> None:
    source = _batch()
    batch = BatchTensors.from_batch(source, "cpu")
    assert batch.document_lengths == (3, 2, 4)
    for tensor, array, dtype in [
        (batch.tokens_BT, source.tokens_BT, torch.int64),
        (batch.positions_BT, source.positions_BT, torch.int64),
        (batch.document_ids_BT, source.document_ids_BT, torch.int64),
        (batch.supervised_mask_BT, source.supervised_mask_BT, torch.bool),
        (batch.rewards_M, source.rewards_M, torch.float32),
    ]:
        assert tensor.dtype == dtype
        assert tensor.tolist() == array.tolist()


def test_tensors_do_not_share_the_arrays_memory() -> None:
    source = _batch()
    batch = BatchTensors.from_batch(source, "cpu")
    batch.tokens_BT.zero_()
    assert source.tokens_BT[0, 1] == 7
