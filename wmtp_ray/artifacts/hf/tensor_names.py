"""Names in a file of weights that are not a model's own: prefixes of wrappers, and native multi-token layers.

A wrapper around a whole model or a part of it (DistributedDataParallel, torch.compile, FSDP, activation checkpointing)
computes what the model computes: its prefix is dropped, and the user is told. Any other prefix means that the file
holds a part of a larger model, or lacks a part of this one: it is refused by its name.

Native multi-token layers, which some models were trained with, are of another form than ours (they read the embedding
of the next token as well): they are left out, and the user is told.
"""

import re
from collections.abc import Mapping
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
_NATIVE = re.compile(r"(?:model\.)?mtp[._].+")
_BLOCK = re.compile(r"model\.layers\.(\d+)\..+")
_EMBEDDING = "embed_tokens.weight"
_EXPECTED_PREFIX = "model."


def without_wrappers(tensors: dict[str, Tensor], source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by the names of a model in transformers, and notes for the user.

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


def without_native_heads(
    tensors: dict[str, Tensor], announced: Mapping[str, int], num_blocks: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a model of `num_blocks` blocks without its native multi-token layers, and notes.

    `announced` are the keys of config.json that count such layers. Where there are any, blocks behind the model's own
    are such layers as well (DeepSeek's names); otherwise these stay, for whoever compares names with the model.
    """
    counted = {key: number for key, number in announced.items() if number}
    native = [name for name in tensors if _NATIVE.fullmatch(name) or (counted and _block(name) >= num_blocks)]
    if not native and not counted:
        return tensors, []
    says = f" ({', '.join(f'config.json: {key} = {number}' for key, number in counted.items())})" if counted else ""
    shown = f"{len(native)} tensors, {native[0]} among them" if native else "which the weights do not hold either"
    note = (
        f"left out: native multi-token layers{says}: {shown}; they are of another form than the prediction heads here, "
        "which start as copies of the last block"
    )
    return {name: tensor for name, tensor in tensors.items() if name not in set(native)}, [note]


def _block(name: str) -> int:
    block = _BLOCK.fullmatch(name)
    return int(block[1]) if block else -1


def _require_prefix(names: dict[str, Tensor], source: Path) -> None:
    embeddings = [name for name in names if name == _EMBEDDING or name.endswith(f".{_EMBEDDING}")]
    prefixes = [name.removesuffix(_EMBEDDING) for name in embeddings]
    if not prefixes or _EXPECTED_PREFIX in prefixes:
        return
    prefix = prefixes[0]
    found = f"that begin with {prefix!r}" if prefix else f"without the prefix {_EXPECTED_PREFIX!r}"
    raise ArtifactError(
        f"{source}: found names of tensors {found} ({embeddings[0]}), expected {_EXPECTED_PREFIX + _EMBEDDING}: the "
        "file holds a part of another model. Load it with the library that wrote it and save its ...ForCausalLM with "
        "save_pretrained"
    )
