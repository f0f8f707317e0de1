"""The drift of the critic in stage 2: its value path on fixed held-out rows, now against the start of the stage.

The start is read when a rank has built the policy and before it restores a checkpoint: a policy is built from the same
files and seeds at every start of the ranks, so a resumed run has the same start without a file of its own. Nothing here
draws a random number or keeps a gradient: training does not notice. Formulas: `objective/critic_drift.py`.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, TokenBatch
from wmtp_ray.data.collate import documents_of
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.objective import td
from wmtp_ray.objective.critic_drift import ValueReading, drift
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.measure_critic import batches_of_rows, held_out_rows
from wmtp_ray.training.parallel import module_precision

_PARTS = (0.25, 0.5, 0.75, 1.0)  # of a response, after which hidden states are kept: all of them would be gigabytes


class CriticDrift:
    """Measures the drift every `critic.drift_every` steps. Every rank makes one and calls it."""

    def __init__(self, loss: StageLoss, config: RunConfig, batches: list[TokenBatch]) -> None:
        self._loss = loss
        self._dtype = config.train.dtype
        self._every = config.critic.drift_every
        self._device = next(loss.parameters()).device
        self._batches = [BatchTensors.from_batch(batch, self._device) for batch in batches]
        self._kept = [torch.as_tensor(_kept_positions(batch)) for batch in batches]
        self._start = self._read()

    def metrics_after(self, done: int, num_steps: int) -> dict[str, float]:
        """Return the metrics after `done` of `num_steps` steps: empty but every `critic.drift_every` and at the end."""
        if done % self._every and done != num_steps:
            return {}
        started = time.perf_counter()
        distances = drift(self._start, self._read())
        named = {f"critic/{name}": distance for name, distance in distances.items()}
        return named | {"perf/drift_s": time.perf_counter() - started}

    def _read(self) -> ValueReading:
        values, hidden = [], []
        for tensors, kept_N in zip(self._batches, self._kept, strict=True):
            with module_precision(self._loss, self._dtype, self._device):
                values_BT, states_BTD = self._loss.value_states(tensors)
            states_BT = td.value_state_mask(tensors.supervised_mask_BT, tensors.document_ids_BT)
            values.append(values_BT[states_BT].float().cpu())
            hidden.append(states_BTD[0, kept_N.to(self._device)].float().cpu())
        if isinstance(self._loss, FSDPModule):
            self._loss.reshard()  # a forward leaves the root's weights whole; a checkpoint is restored into shards
        return ValueReading(torch.cat(values), torch.cat(hidden))


def build_critic_drift(loss: StageLoss, config: RunConfig) -> CriticDrift | None:
    """Return the watch over the policy's value path where it scores; None elsewhere, and without held-out rows.

    A frozen critic does not move.
    """
    if config.critic.drift_every == 0 or not config.uses_critic or config.critic.source != "policy":
        return None
    index, rows_N = held_out_rows(config)
    rows_N = rows_N[: config.critic.drift_rows]
    return CriticDrift(loss, config, list(batches_of_rows(index, rows_N, config))) if len(rows_N) else None


def _kept_positions(batch: TokenBatch) -> Int64:
    """Positions of the states after a quarter, half, three quarters and all of each response's states.

    A prompt of 3 and a response of 8 tokens at positions 0..10: the states before targets are 2..9, kept are 3 5 7 9.
    """
    return np.array(list(_positions(batch)), dtype=np.int64)


def _positions(batch: TokenBatch) -> Iterator[int]:
    for document in documents_of(batch):
        num_states = int(batch.supervised_mask_BT[0, document].sum())
        for part in _PARTS:
            yield document.stop - 1 - num_states + max(0, int(np.ceil(part * num_states)) - 1)
