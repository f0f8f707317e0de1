"""Low-rank adapters on the matrices of a model's blocks, by peft: attached, told apart from the base, merged into it.

A matrix W [out, in] with adapters A [rank, in] and B [out, rank] computes W x + alpha / rank * B A x; B starts at zero,
so that a fresh adapter changes nothing (Hu et al. 2021, equation 3). peft renames the base:

    layers.0.attention.wq.weight   becomes   layers.0.attention.wq.base_layer.weight
                                             layers.0.attention.wq.lora_A.default.weight
                                             layers.0.attention.wq.lora_B.default.weight

A bias of the matrix stays in the base, frozen, as layers.0.attention.wq.base_layer.bias.
Functions from names to tensors know these names and nothing else does. `Policy` decides what
is trained beside the adapters; a checkpoint keeps their `AdapterSpec` beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wmtp_ray.config.schema import PEFT_IS_MISSING, LoraConfig
from wmtp_ray.errors import ConfigError

_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


@dataclass(frozen=True)
class AdapterSpec:
    """The shape of adapters, and the SHA-256 of the weights file that they were trained on."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    base_sha256: str

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank


def attach_adapters(module: nn.Module, lora: LoraConfig, seed: int) -> None:
    """Give every target matrix of `module` an adapter and freeze all that is not one, in place.

    A is drawn from `seed` alone; torch's generator stays where it is. ConfigError when peft is not installed.
    """
    try:
        import peft  # seconds, and an optional package
    except ImportError as error:
        raise ConfigError(PEFT_IS_MISSING) from error
    wanted = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(wanted, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to an adapter, by its name."""
    return name.endswith((_A, _B))


def adapted_matrix(name: str) -> str:
    """Return the base's own name of the matrix that an adapter's tensor belongs to."""
    assert is_adapter(name)
    return f"{name.removesuffix(_A).removesuffix(_B)}.weight"


def adapter_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters among a state's tensors."""
    return {name: tensor for name, tensor in tensors.items() if is_adapter(name)}


def base_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state without its adapters, under the names that the base had before they were attached."""
    return {name.replace(_BASE, "."): tensor for name, tensor in tensors.items() if not is_adapter(name)}


def merge_adapters(base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the base with W + scale * B A for every matrix that has an adapter; nothing is changed in place."""
    merged = dict(base)
    for name, a_RI in adapters.items():
        if name.endswith(_A):
            matrix = adapted_matrix(name)
            b_OR = adapters[name.removesuffix(_A) + _B]
            merged[matrix] = base[matrix] + scale * (b_OR @ a_RI).to(base[matrix].dtype)
    return merged
