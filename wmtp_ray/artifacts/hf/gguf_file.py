"""A LLaMA in a GGUF file, as llama.cpp and its relatives run it: dequantised as it is read. Needs the package gguf.

GGUF's writers put the rows of LLaMA's wq and wk into the order that Meta's layout has, so rows stay as they are.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vendor.meta_llama.model import ModelArgs
from wmtp_ray.artifacts.hf.gguf_tokenizer import tokenizer_from_metadata
from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT, PlainModel, require_forms
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.errors import ArtifactError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

Metadata = dict[str, Any]

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
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_UNWRITTEN_THETA = 10000.0  # what llama.cpp takes


def open_gguf(path: Path) -> PlainModel:
    """Describe the model of a GGUF file; ArtifactError for a damaged one, another architecture or scaled positions.

    Tensors that are stored as floats keep their dtype, quantised ones become float32.
    """
    reader = _reader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    stored = {_meta_name(tensor.name): tensor for tensor in reader.tensors}
    if EMBEDDING in stored:
        stored.setdefault(OUTPUT, stored[EMBEDDING])
    args = _params(path, metadata, {name: _shape(tensor) for name, tensor in stored.items()})
    forms = {name: TensorForm(_dtype(tensor), _shape(tensor)) for name, tensor in stored.items()}
    require_forms(path, args, forms)
    return PlainModel(
        args,
        forms,
        read=lambda name: _dequantised(stored[name]),
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
    except (ValueError, IndexError, KeyError, OSError) as error:  # what it meets in bytes that are something else
        raise ArtifactError(f"{path} cannot be read as GGUF: {error}. Fetch it again.") from error


def _meta_name(name: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    block = _BLOCK.fullmatch(name)
    if block and block[2] in BLOCK_NAMES:
        return f"layers.{block[1]}.{BLOCK_NAMES[block[2]]}"
    raise ArtifactError(
        f"found the tensor {name}, expected those of a plain LLaMA alone (no biases, no experts, no scaled rotary "
        "positions); choose another checkpoint"
    )


def _params(path: Path, metadata: Metadata, shapes: dict[str, tuple[int, ...]]) -> ModelArgs:
    if (architecture := metadata.get("general.architecture")) != "llama":
        raise ArtifactError(f"{path}: found the architecture {architecture!r}, expected llama; choose another file")
    about = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    try:
        heads, dim = about["attention.head_count"], about["embedding_length"]
        args = ModelArgs(
            dim=dim,
            n_layers=about["block_count"],
            n_heads=heads,
            n_kv_heads=about.get("attention.head_count_kv"),
            vocab_size=shapes.get(EMBEDDING, (0,))[0],
            rope_theta=_decimal(about.get("rope.freq_base", _UNWRITTEN_THETA)),
            norm_eps=_decimal(about["attention.layer_norm_rms_epsilon"]),
            max_seq_len=about.get("context_length"),
        )
        hidden_dim = about["feed_forward_length"]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"llama.{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} describes no model: {reason}. Fetch it again.") from error
    channels = about.get("attention.key_length", args.head_dim)
    rotary_channels = about.get("rope.dimension_count", args.head_dim)
    scaling = about.get("rope.scaling.type", "none")
    problems = {
        f"rotary positions scaled by {scaling!r}": scaling != "none",
        f"heads of {channels} channels, not {args.head_dim}": channels != args.head_dim,
        f"rotary positions on {rotary_channels} of {args.head_dim} channels": rotary_channels != args.head_dim,
        f"{about.get('expert_count')} experts": about.get("expert_count", 0),
    }
    if found := [text for text, wrong in problems.items() if wrong]:
        raise ArtifactError(f"{path}: found {'; '.join(found)}, expected a plain LLaMA; choose another file")
    return with_hidden_dim(args, hidden_dim)


def _decimal(value: float) -> float:
    """The shortest number that is this float32: GGUF stores 1e-5 as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _shape(tensor: "ReaderTensor") -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def _dtype(tensor: "ReaderTensor") -> torch.dtype:
    stored = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    return stored.get(tensor.tensor_type.name, torch.float32)


def _dequantised(tensor: "ReaderTensor") -> Tensor:
    from gguf import dequantize

    if tensor.tensor_type.name in ("F64", "F32", "F16"):
        return torch.from_numpy(tensor.data.copy())
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).to(_dtype(tensor))
