"""What a scorer is given, what it returns, and the protocol between training and weighting.

A scorer sees all micro-batches of a step on this rank at once, because whitening, the matched controls and Rho-1 speak
about the whole global batch. Shapes: B sequences, T positions, M documents, H horizons (index k - 1 holds horizon k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wmtp_ray.contracts import BatchEdits, Float32, Int64, ScoredBatch, Scores
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_outputs import ValueScores
from wmtp_ray.ranks import Ranks


@dataclass(frozen=True)
class EditTensors:
    """`BatchEdits` on the rank's device.

    `is_first_BT` marks the first token that differs, of each document that `has_other_M`, a row of the other class.
    """

    differs_BT: Tensor
    is_first_BT: Tensor
    correct_frac_M: Tensor
    has_other_M: Tensor

    @classmethod
    def from_edits(cls, edits: BatchEdits, device: torch.device) -> "EditTensors":
        has_other_M = edits.first_M >= 0
        is_first_BT = np.zeros_like(edits.differs_BT)
        is_first_BT[0, edits.first_M[has_other_M]] = True
        arrays = (edits.differs_BT, is_first_BT, edits.correct_frac_M, has_other_M)
        return cls(*(torch.tensor(array, device=device) for array in arrays))


@dataclass(frozen=True)
class MicroBatch:
    """One forward's worth of documents with everything that is known about them before the forward.

    `seeds_M` keys the random controls by (seed, step, row), so that they do not depend on ranks or packing.
    `policy_losses_BTH` is the policy's own detached cross-entropy of every pair, where the scorer asked for it;
    `edits` are there where the weighting asks for them, `disagreements_BT` where an ensemble has scored.
    """

    tensors: BatchTensors
    row_ids_M: Int64
    seeds_M: Tensor
    values_BT: Tensor | None = None
    reference_losses_BT: Tensor | None = None
    incorrect_losses_BT: Tensor | None = None
    policy_losses_BTH: Tensor | None = None
    edits: EditTensors | None = None
    disagreements_BT: Tensor | None = None


@dataclass(frozen=True)
class StepWeights:
    """Weights of a step: one [B, T, H] tensor a micro-batch (0 = not a target), and the loss's denominators.

    `denominators_H` are global: the same on every rank, whatever the split. A pair is trained unless its weight is 0;
    one of negative weight -|w| p is pushed down, and then `magnitudes_BTH` holds |w| of every pair (None: no pair is).
    """

    pair_weights_BTH: list[Tensor]
    denominators_H: Tensor
    metrics: dict[str, float]
    magnitudes_BTH: list[Tensor] | None = None

    @property
    def own_totals_H(self) -> Tensor:
        """This rank's sum of |w| over the pairs of each horizon, float64, without the probability of a push.

        So that a mean over the weights never divides by a sum that pushes have taken to 0, or below it.
        """
        magnitudes = self.pair_weights_BTH if self.magnitudes_BTH is None else self.magnitudes_BTH
        return torch.stack([w.cpu().double().sum(dim=(0, 1)) for w in magnitudes]).sum(dim=0)


class Scorer(Protocol):
    """What the training step asks of a weighting. `config/arms.py` names the source of the scores."""

    @property
    def needs_policy_losses(self) -> bool:
        """Whether a pass without gradient must fill `policy_losses_BTH` first."""
        ...

    def weigh(self, micro_batches: Sequence[MicroBatch], ranks: Ranks) -> StepWeights: ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


def document_seeds(seed: int, step: int, row_ids_M: Int64) -> Int64:
    """Return one 63-bit seed a document, a hash of (seed, step, row); the same whatever the batch it stands in."""
    words = [
        np.random.SeedSequence([seed & (2**63 - 1), step, int(row)]).generate_state(1, np.uint64)[0]
        for row in row_ids_M
    ]
    return (np.array(words, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)


def to_micro_batch(scored: ScoredBatch, step: int, seed: int, device: torch.device) -> MicroBatch:
    """Move a scored batch to the rank's device."""
    scores = scored.scores
    return MicroBatch(
        tensors=BatchTensors.from_batch(scored.batch, device),
        row_ids_M=scored.batch.row_ids_M,
        seeds_M=torch.from_numpy(document_seeds(seed, step, scored.batch.row_ids_M)),
        values_BT=_on_device(scores.values_BT if scores else None, device),
        reference_losses_BT=_on_device(scores.losses_BT if scores else None, device),
        incorrect_losses_BT=_on_device(scores.incorrect_losses_BT if scores else None, device),
        edits=None if scored.batch.edits is None else EditTensors.from_edits(scored.batch.edits, device),
        disagreements_BT=_on_device(scores.disagreements_BT if scores else None, device),
    )


def critic_scores(found: ValueScores, version: int) -> Scores:
    """Return what a critic has found about a batch as it travels."""
    disagreements_BT = None if found.disagreements_BT is None else _array(found.disagreements_BT)
    return Scores(version=version, values_BT=_array(found.values_BT), disagreements_BT=disagreements_BT)


def _array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.float().cpu().numpy()
    return array


def _on_device(array: Float32 | None, device: torch.device) -> Tensor | None:
    """Copy an array to the device; arrays of the object store are read-only."""
    return None if array is None else torch.tensor(array, device=device)
