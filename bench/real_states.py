"""What value heads read of rows, computed once by one pass of a frozen model and kept in a file."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vendor.meta_llama.model import RMSNorm
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.data.collate import documents_of
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.training.measure_critic import batches_of_rows

MIDDLE = 0.67
Depth = Literal["middle", "end"]


@dataclass(frozen=True)
class RowStates:
    """What heads read of one row, float16 [T, D] before the norm, and the surprisals, float32 [T]."""

    middle_TD: Tensor
    end_TD: Tensor
    surprisal_T: Tensor


class States:
    """The states of all rows of an index, by row, computed by one pass of the model and kept in a file."""

    def __init__(self, config: RunConfig, index: RowIndex, rows: Int64, file: Path) -> None:
        self.norm = _norm(config)
        self._of_row: dict[int, RowStates] = {}
        if file.exists():
            saved = torch.load(file, weights_only=True)
            self._of_row = {row: RowStates(*tensors) for row, tensors in saved.items()}
        missing = np.array([row for row in rows if int(row) not in self._of_row], dtype=np.int64)
        if len(missing):
            self._compute(config, index, missing)
            torch.save({row: (s.middle_TD, s.end_TD, s.surprisal_T) for row, s in self._of_row.items()}, file)

    def read(self, rows: Iterable[int], depth: Depth) -> tuple[Tensor, Tensor]:
        """Normed states [1, T, D] and surprisals [1, T, 1] of rows one behind the other."""
        found = [self._of_row[int(row)] for row in rows]
        states = torch.cat([each.middle_TD if depth == "middle" else each.end_TD for each in found])
        with torch.no_grad():
            return self.norm(states.float())[None], torch.cat([each.surprisal_T for each in found])[None, :, None]

    def likelihoods(self, row: int) -> Tensor:
        """The log-likelihood of each token of a row, float32 [T]."""
        return -self._of_row[row].surprisal_T

    @torch.no_grad()
    def _compute(self, config: RunConfig, index: RowIndex, rows: Int64) -> None:
        model = load_transformer(config.model.path).eval().requires_grad_(False)
        middle = max(1, round(MIDDLE * model.num_trunk_blocks))
        outputs: dict[int, Tensor] = {}
        for depth in (middle, model.num_trunk_blocks):
            model.layers[depth - 1].register_forward_hook(lambda _, __, h, depth=depth: outputs.update({depth: h}))
        done = 0
        for batch in batches_of_rows(index, rows, config):
            tensors = BatchTensors.from_batch(batch, torch.device("cpu"))
            losses_T = reference_losses(model, tensors)[0]
            for document, row in zip(documents_of(batch), batch.row_ids_M, strict=True):
                states = [outputs[depth][0, document].half().clone() for depth in (middle, model.num_trunk_blocks)]
                self._of_row[int(row)] = RowStates(*states, losses_T[document].clone())
            done += len(batch.row_ids_M)
            print(f"  states of {done} of {len(rows)} rows", end="\r", file=sys.stderr, flush=True)


def _norm(config: RunConfig) -> RMSNorm:
    """The model's last norm, which value heads read through."""
    return load_transformer(config.model.path).norm.requires_grad_(False)
