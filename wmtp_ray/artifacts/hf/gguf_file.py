"""A model in a GGUF file, as llama.cpp and similar tools run it: dequantised as it is read. Needs the package gguf.

GGUF's writers put the rows of LLaMA's wq and wk into the order that Meta's layout has, so rows stay as they are; those
of other architectures are in Hugging Face's order.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.gguf_metadata import params_from_metadata, require_whole_model, with_rope_divisors
from wmtp_ray.artifacts.hf.gguf_tokenizer import tokenizer_from_metadata
from wmtp_ray.artifacts.hf.layout import to_meta_rows
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT, PlainModel, require_forms
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

OUTER_NAMES = {"token_embd.weight": EMBEDDING, "output_norm.weight": "norm.weight", "output.weight": OUTPUT}
BLOCK_NAMES = {
    "attn_q.weight": "attention.wq.weight",
    "attn_k.weight": "attention.wk.weight",
    "attn_v.weight": "attention.wv.weight",
    "attn_output.weight": "attention.wo.weight",
    "ffn_gate.weight": "feed_forward.w1.weight",
    "ffn_down.weight": "feed_forward.w2.weight",
    "ffn_up.weight": "feed_forward.w3.weight",
    "attn_norm.weight": "attention_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
}
_QUERY_KEY_NORMS = {
    "attn_q_norm.weight": "attention.q_norm.weight",
    "attn_k_norm.weight": "attention.k_norm.weight",
}
_ROPE_DIVISORS = "rope_freqs.weight"
_META_ROWS = ("llama",)  # architectures whose writers put rows into Meta's order
_FOREIGN = {
    "_exps.": " (a mixture of experts)",
    "ffn_gate_inp": " (a mixture of experts)",
    "_norm.weight": " (a norm that this architecture does not have)",
    ".bias": " (a bias)",
}
_FLOATS = ("F64", "F32", "F16")  # numpy has these
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def open_gguf(path: Path) -> PlainModel:
    """Describe the model of a GGUF file; ArtifactError if it is damaged, partial or of no known architecture.

    Tensors that are stored as floats keep their dtype, quantised ones become float32.
    """
    reader = _reader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    require_whole_model(path, metadata)
    _require_readable_types(path, reader.tensors)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    embedding, divisors = tensors.get("token_embd.weight"), tensors.pop(_ROPE_DIVISORS, None)
    if embedding is None:
        raise ArtifactError(
            f"{path}: found {len(tensors)} tensors and no token_embd.weight, expected a whole model; fetch it again"
        )
    args = params_from_metadata(path, metadata, _shape(embedding)[0], tensors)
    if divisors is not None:
        args = with_rope_divisors(path, args, _dequantised(divisors))
    names = _block_names(args)
    stored = {_meta_name(name, names, args.family): tensor for name, tensor in tensors.items()}
    if EMBEDDING in stored:
        stored.setdefault(OUTPUT, stored[EMBEDDING])
    forms = {name: TensorForm(_dtype(tensor), _shape(tensor)) for name, tensor in stored.items()}
    require_forms(path, args, forms)
    return PlainModel(
        args,
        forms,
        read=lambda name: _in_meta_rows(name, _dequantised(stored[name]), args),
        tokenizer_files=tokenizer_from_metadata(path, metadata),
    )


def _reader(path: Path) -> "GGUFReader":
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ArtifactError(
            f"{path}: found no package gguf, expected it for a GGUF file; run pip install 'wmtp_ray[hf]'"
        ) from error
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:  # what it meets in a damaged file
        raise ArtifactError(f"{path} cannot be read as GGUF: {error}. {_why_unreadable(str(error))}") from error


def _why_unreadable(reason: str) -> str:
    if "GGMLQuantizationType" in reason:
        return (
            "It stores tensors in a type that the package gguf does not know: run pip install -U gguf, or take the "
            "model in another type (Q8_0, F16)."
        )
    if "version" in reason:
        return "It is of another version of GGUF: convert the model again with a current llama.cpp."
    return "The file is cut short or damaged: compare its size with the published one and fetch it again."


def _in_meta_rows(name: str, tensor: Tensor, args: ModelSpec) -> Tensor:
    return tensor if args.family in _META_ROWS else to_meta_rows(name, tensor, args)


def _block_names(args: ModelSpec) -> dict[str, str]:
    """Return Meta's names of the tensors of a block by GGUF's: a plain LLaMA's, and what `args` adds."""
    names, biased = dict(BLOCK_NAMES), args.biased()
    if args.query_key_norm is not None:
        names |= _QUERY_KEY_NORMS
    return names | {
        theirs.replace(".weight", ".bias"): ours.replace(".weight", ".bias")
        for theirs, ours in BLOCK_NAMES.items()
        if ours.split(".")[-2] in biased
    }


def _meta_name(name: str, names: Mapping[str, str], architecture: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    block = _BLOCK.fullmatch(name)
    if block and block[2] in names:
        return f"layers.{block[1]}.{names[block[2]]}"
    found = next((about for part, about in _FOREIGN.items() if part in name), "")
    raise ArtifactError(
        f"found the tensor {name}{found}, expected those of a plain {architecture} alone (no experts); choose another "
        "checkpoint"
    )


def _require_readable_types(path: Path, tensors: "list[ReaderTensor]") -> None:
    """Refuse quantisation types that the package gguf cannot dequantise, before any tensor is read."""
    from gguf import GGML_QUANT_SIZES, dequantize

    stored = dict.fromkeys(tensor.tensor_type for tensor in tensors)
    for kind in [each for each in stored if each.name not in _FLOATS]:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
        except NotImplementedError as error:
            raise ArtifactError(
                f"{path}: found tensors of the type {kind.name}, expected floats or a type that the package gguf can "
                "dequantise; take the model in another type (Q8_0, F16)"
            ) from error


def _shape(tensor: "ReaderTensor") -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def _dtype(tensor: "ReaderTensor") -> torch.dtype:
    stored = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    return stored.get(tensor.tensor_type.name, torch.float32)


def _dequantised(tensor: "ReaderTensor") -> Tensor:
    from gguf import dequantize

    if tensor.tensor_type.name in _FLOATS:
        return torch.from_numpy(tensor.data.copy())
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).to(_dtype(tensor))
