"""The policy of a step as it is handed over for evaluation, and the model that decodes with it elsewhere.

Handed over is what training changes of the transformer: all of it, or the adapters, whose base lies in `model.path`.
The value head answers nothing and stays.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.meta_checkpoint import TRANSFORMER, load_transformer, weights_file, without_prefix
from wmtp_ray.artifacts.stored_weights import read_tensors
from wmtp_ray.config.schema import ModelConfig
from wmtp_ray.model.lora import adapted_matrix, is_adapter, merge_adapters
from wmtp_ray.model.policy import Policy


def evaluated_state(policy: Policy) -> dict[str, Tensor]:
    """Return the tensors to hand over, by the transformer's names; they share the policy's memory."""
    return without_prefix(policy.learned_state(), TRANSFORMER)


class EvaluatedPolicy:
    """A transformer on one device that becomes one policy after the other; it begins as the model in `model.path`."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.transformer = load_transformer(model.path, dtype=dtype).to(device).eval().requires_grad_(False)
        self._model = model

    @torch.no_grad()
    def load(self, snapshot: Path) -> None:
        """Take the weights of a file with what `evaluated_state` returned; one matrix at a time."""
        learned = read_tensors(snapshot)
        adapters = _by_matrix(learned)
        base = read_tensors(weights_file(self._model.path)) if adapters else learned
        own = self.transformer.state_dict()
        assert own.keys() == base.keys(), "a snapshot is of the model that the run trains"
        for name, tensor in own.items():
            tensor.copy_(self._merged(name, base[name], adapters.get(name, {})))

    def _merged(self, name: str, matrix: Tensor, adapters: Mapping[str, Tensor]) -> Tensor:
        if not adapters:
            return matrix
        lora = self._model.lora
        assert lora is not None, "a snapshot with adapters is of a run with model.lora"
        return merge_adapters({name: matrix.float()}, adapters, lora.alpha / lora.rank)[name]


def _by_matrix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The adapters among these tensors, by the matrix that they belong to."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if is_adapter(name):
            found.setdefault(adapted_matrix(name), {})[name] = tensor
    return found
