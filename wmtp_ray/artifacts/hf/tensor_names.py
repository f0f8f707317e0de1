"""Prefixes that wrappers put before the names of a model's tensors.

A wrapper around a whole model or a part of it (DistributedDataParallel, torch.compile, FSDP, activation checkpointing)
computes what the model computes: its prefix is dropped, and the user is told. Any other prefix means that the file
holds a part of a larger model, or lacks a part of this one: it is refused by its name.
"""

import re
from pathlib import Path

from torch import Tensor

from wmtp_ray.errors import ArtifactError

_WRAPPERS = {
    "module.": "DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning Fabric",
}
_WRAPPER = re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, _WRAPPERS))})")
_EMBEDDING = "embed_tokens.weight"
_EXPECTED_PREFIX = "model."


def without_wrappers(tensors: dict[str, Tensor], source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by the names of a LlamaForCausalLM, and notes for the user.

    ArtifactError for a prefix that no wrapper explains, and for two tensors of one name.
    """
    found = sorted({prefix for name in tensors for prefix in _WRAPPER.findall(name)})
    named = {_WRAPPER.sub("", name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise ArtifactError(
            f"{source}: found the same tensor with and without the prefix {' or '.join(found)}, expected one; save the "
            "model without its wrapper"
        )
    _require_prefix(named, source)
    notes = [f"the prefix {prefix} of {_WRAPPERS[prefix]} was taken off the names of tensors" for prefix in found]
    return named, notes


def _require_prefix(names: dict[str, Tensor], source: Path) -> None:
    embeddings = [name for name in names if name == _EMBEDDING or name.endswith(f".{_EMBEDDING}")]
    prefixes = [name.removesuffix(_EMBEDDING) for name in embeddings]
    if not prefixes or _EXPECTED_PREFIX in prefixes:
        return
    prefix = prefixes[0]
    found = f"that begin with {prefix!r}" if prefix else f"without the prefix {_EXPECTED_PREFIX!r}"
    raise ArtifactError(
        f"{source}: found names of tensors {found} ({embeddings[0]}), expected {_EXPECTED_PREFIX + _EMBEDDING}: the "
        "file holds a part of another model. Load it with the library that wrote it and save its LlamaForCausalLM with "
        "save_pretrained"
    )
