"""Examples to one flat TokenBatch and back to its documents. Does not choose, order, cut or pad: that is the plan's.

Two examples, of 2 prompt + 1 response and 1 prompt + 2 response tokens, the first correct:

    tokens_BT          [[1 7 2 | 1 5 2]]
    document_ids_BT    [[0 0 0 | 1 1 1]]
    positions_BT       [[0 1 2 | 0 1 2]]
    supervised_mask_BT [[. . x | . x x]]
    document_lengths_M [3 3]
    rewards_M          [1. 0.]
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmtp_ray.contracts import BatchEdits, Example, Int32, RowEdits, TokenBatch


def collate(examples: Sequence[Example], *, step: int, micro_step: int) -> TokenBatch:
    """Lay examples behind one another, in the order given, without padding (see the module's example)."""
    assert examples, "a micro-batch has at least one document"
    for example in examples:
        assert 0 < example.prompt_tokens < len(example.tokens_T), "BOS precedes the response and EOS ends it"
    lengths_M = np.array([len(example.tokens_T) for example in examples], dtype=np.int32)
    prompt_tokens_M = np.array([example.prompt_tokens for example in examples], dtype=np.int32)
    starts_M = np.cumsum(lengths_M, dtype=np.int32) - lengths_M
    document_ids_T = np.repeat(np.arange(len(examples), dtype=np.int32), lengths_M)
    positions_T = np.arange(lengths_M.sum(), dtype=np.int32) - starts_M[document_ids_T]
    return TokenBatch(
        step=step,
        micro_step=micro_step,
        tokens_BT=np.concatenate([example.tokens_T for example in examples]).astype(np.int64)[None],
        document_ids_BT=document_ids_T[None],
        positions_BT=positions_T[None],
        supervised_mask_BT=(positions_T >= prompt_tokens_M[document_ids_T])[None],
        document_lengths_M=lengths_M,
        rewards_M=np.array([example.is_correct for example in examples], dtype=np.float32),
        row_ids_M=np.array([example.row_id for example in examples], dtype=np.int64),
        edits=_lay_edits(examples, lengths_M),
    )


def _lay_edits(examples: Sequence[Example], lengths_M: Int32) -> BatchEdits | None:
    """All examples have edits, or none has."""
    edits = [example.edits for example in examples if example.edits is not None]
    if not edits:
        return None
    assert len(edits) == len(examples), "a batch has the edits of all of its rows"
    starts_M = np.cumsum(lengths_M, dtype=np.int64) - lengths_M
    first_M = np.array([each.first for each in edits], dtype=np.int64)
    return BatchEdits(
        differs_BT=np.concatenate([each.differs_T for each in edits])[None],
        first_M=np.where(first_M < 0, first_M, first_M + starts_M),
        correct_frac_M=np.array([each.correct_frac for each in edits], dtype=np.float32),
    )


def examples_of(batch: TokenBatch) -> list[Example]:
    """Return the examples that a batch was laid of, without their edits."""
    return [
        Example(
            row_id=int(row),
            tokens_T=batch.tokens_BT[0, document].astype(np.int32),
            prompt_tokens=int((~batch.supervised_mask_BT[0, document]).sum()),
            is_correct=bool(reward > 0),
        )
        for row, reward, document in zip(batch.row_ids_M, batch.rewards_M, documents_of(batch), strict=True)
    ]


def with_edits(batch: TokenBatch, edits: Sequence[RowEdits]) -> TokenBatch:
    """Return the batch with the edits of its documents, in their order."""
    examples = [replace(each, edits=own) for each, own in zip(examples_of(batch), edits, strict=True)]
    return replace(batch, edits=_lay_edits(examples, batch.document_lengths_M))


def documents_of(batch: TokenBatch) -> list[slice]:
    """Slices of the T axis, one per document: lengths [3 2] -> [slice(0, 3), slice(3, 5)]."""
    ends_M = np.cumsum(batch.document_lengths_M)
    return [slice(int(end - length), int(end)) for end, length in zip(ends_M, batch.document_lengths_M, strict=True)]
