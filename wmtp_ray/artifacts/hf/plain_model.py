"""A LLaMA with one horizon as a file of any format offers it: described at once, its tensors read when asked for.

An export of ours may hold the heads of further horizons beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.meta_checkpoint import shape_differences
from wmtp_ray.artifacts.streamed_tensors import DTYPE_NAMES, TensorForm
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


@dataclass(frozen=True)
class PlainModel:
    """`forms` and `read` speak Meta's names, output.weight always among them; rows are in Meta's order.

    `tokenizer_files` are the files that belong beside the model, by name: none where the source has no tokenizer.
    `notes` are sentences for the user: what was decided that the source left open.
    `heads` are the tensors of further horizons that the source holds, `extra_heads.0` on; `read` returns them, too.
    """

    args: ModelSpec
    forms: Mapping[str, TensorForm]
    read: Callable[[str], Tensor]
    tokenizer_files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    heads: Mapping[str, TensorForm] = field(default_factory=dict)

    @property
    def num_heads(self) -> int:
        """How many heads of horizons above 1 there are."""
        return len({name.split(".")[1] for name in self.heads})


def require_forms(source: Path, args: ModelSpec, forms: Mapping[str, TensorForm]) -> None:
    """Refuse tensors that are not exactly those of the model `args` describes; ArtifactError names them."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Transformer(args).state_dict().items()}
    if found := shape_differences({name: form.shape for name, form in forms.items()}, expected):
        raise ArtifactError(
            f"{source} does not hold the model it describes. {found} (Meta's names). "
            f"{_remedy(set(forms), set(expected))}"
        )
    if foreign := {name: form.dtype for name, form in forms.items() if form.dtype not in DTYPE_NAMES}:
        name, dtype = next(iter(foreign.items()))
        raise ArtifactError(
            f"{source}: found {name} (Meta's name) of {dtype}, expected float64, float32, "
            "float16 or bfloat16; give a checkpoint that is not quantised, or a GGUF file"
        )


def _remedy(found: set[str], expected: set[str]) -> str:
    """Return what to do about unexpected names or shapes."""
    if prefixes := sorted(_prefixes(found - expected, expected)):
        return (
            f"The names begin with {prefixes[0]!r}, which a wrapper around the model puts there: save the state_dict "
            "of the model inside it."
        )
    if any(name.endswith("embed_tokens.weight") for name in found):
        return "These are the names of a Hugging Face model: import its directory with wmtp import."
    if found < expected:
        return "The weights are incomplete: fetch every part of them."
    return "Weights and description are of different models: give those of one."


def _prefixes(unexpected: set[str], expected: set[str]) -> set[str]:
    """Return the prefixes that occur before expected names: module.norm.weight -> module."""
    return {
        name.removesuffix(known)
        for name in unexpected
        for known in (EMBEDDING, "norm.weight", OUTPUT)
        if known in expected and name.endswith(f".{known}") and name.removesuffix(known).count("layers.") == 0
    } - {""}
