"""What the metadata of a GGUF file may say about a model of a known family. It reads no files.

llama.cpp reads the keys of `general.`, `split.`, `tokenizer.` and of the architecture, here `llama.`, `qwen2.` or
`qwen3.`; other prefixes are notes of whoever wrote the file. Of the architecture and of `tokenizer.` every key is
known: it is read, changes nothing, or has a value with which it changes nothing. Any other key is an error that names
it (`known_keys`). An architecture is the family of its name (`families.py`); a Mistral is of the architecture llama.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vendor.meta_llama.attention import RopeScaling
from wmtp_ray.artifacts.hf.families import FAMILIES
from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.known_keys import Neutral, deciding_keys
from wmtp_ray.model.spec import ModelSpec

Metadata = Mapping[str, Any]

_UNWRITTEN_THETA = 10000.0  # what llama.cpp takes
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_TOKENIZER_PREFIX = "tokenizer."
# Tensors of the first block that say which biases a model has.
_BIASES = {
    "qkv_bias": "blk.0.attn_q.bias",
    "attention_output_bias": "blk.0.attn_output.bias",
    "mlp_bias": "blk.0.ffn_up.bias",
}
# LLaMA 3.1 and 3.3, and 3.2.
_LLAMA_3_FACTORS = (8.0, 32.0)
_LLAMA_3_BANDS: dict[str, Any] = {
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_seq_len": 8192,
}
_UNUSED = (0, 0.0, False)
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "attention.scale"),
}
_HARMLESS = {"rope.scaling.original_context_length", "rope.scaling.finetuned"}  # notes about scaled positions
_NEUTRAL: Neutral = {
    "attention.causal": (True,),
    "attention.sliding_window": _UNUSED,
    "attention.clamp_kqv": _UNUSED,
    "attention.max_alibi_bias": _UNUSED,
    "attn_logit_softcapping": _UNUSED,
    "final_logit_softcapping": _UNUSED,
    "embedding_scale": (*_UNUSED, 1),
    "residual_scale": (*_UNUSED, 1),
    "logit_scale": (*_UNUSED, 1),
    "expert_count": _UNUSED,
    "expert_used_count": _UNUSED,
    "rope.scaling.attn_factor": (1,),
    "pooling_type": _UNUSED,
    "use_parallel_residual": _UNUSED,
    "tensor_data_layout": ("Meta AI original pth",),  # the order of rows that every LLaMA in GGUF has
}
_TOKENIZER_READ = {
    *("ggml.model", "ggml.pre", "ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.merges"),
    *("ggml.add_space_prefix", "ggml.remove_extra_whitespaces", "ggml.precompiled_charsmap"),
    *("chat_template", "chat_templates"),
}
_TOKENIZER_HARMLESS = {
    *("ggml.token_type_count", "ggml.add_bos_token", "ggml.add_eos_token", "ggml.add_sep_token", "huggingface.json"),
}


def require_whole_model(path: Path, metadata: Metadata) -> None:
    """Refuse a file that does not hold a whole model: a shard, an adapter, a projector."""
    if metadata.get("split.count", 0) > 1:
        number, count = metadata.get("split.no", 0) + 1, metadata["split.count"]
        raise ArtifactError(
            f"{path}: found part {number} of a model in {count} GGUF files, expected one file; join the parts first: "
            f"llama-gguf-split --merge FIRST_PART merged.gguf (part 1 of {count}; all parts in one folder)"
        )
    if (kind := metadata.get("general.type", "model")) != "model":
        raise ArtifactError(f"{path}: found a GGUF file of type {kind!r}, expected a model; give the model's file")
    if (architecture := metadata.get("general.architecture")) not in ARCHITECTURES:
        raise ArtifactError(
            f"{path}: found the architecture {architecture!r}, expected {', '.join(ARCHITECTURES)}; choose another "
            "file, or import the model's Hugging Face directory"
        )


def params_from_metadata(
    path: Path, metadata: Metadata, num_rows: int, tensor_names: Collection[str] = ()
) -> ModelSpec:
    """Describe the model of a GGUF file whose embedding has `num_rows` rows, as a model of one horizon.

    `tensor_names` say which biases it has. ArtifactError names what this layout cannot express, a missing key, and an
    unknown key.
    """
    architecture = metadata["general.architecture"]
    prefix = f"{architecture}."
    about = {key.removeprefix(prefix): _uniform(value) for key, value in metadata.items() if key.startswith(prefix)}
    try:
        args, hidden_dim = _spec(architecture, about, num_rows, tensor_names), about["feed_forward_length"]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{prefix}{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"{path} describes no model: {reason}. Expected the metadata that llama.cpp's convert_hf_to_gguf.py "
            "writes; convert the model again, or choose another file"
        ) from error
    if found := _inexpressible(about, metadata, args):
        raise ArtifactError(
            f"{path}: found {'; '.join(found)}, expected a plain {args.family}; choose another file, or import the "
            "model's Hugging Face directory"
        )
    return with_hidden_dim(args, hidden_dim)


def with_rope_divisors(path: Path, args: ModelSpec, divisors_F: Tensor) -> ModelSpec:
    """Return the description with the scaling that a file's rope_freqs.weight comes from.

    GGUF holds what each frequency is divided by, not the numbers behind it; LLaMA 3's published ones are tried.
    ArtifactError for any other.
    """
    for scaled in (replace(args, rope_scaling_factor=factor, **_LLAMA_3_BANDS) for factor in _LLAMA_3_FACTORS):
        scaling = RopeScaling.of(scaled)
        assert scaling is not None
        frequencies_F = args.rope_theta ** -(torch.arange(0, args.head_dim, 2, dtype=torch.float64) / args.head_dim)
        expected_F = frequencies_F / scaling.scaled(frequencies_F)
        if divisors_F.shape == expected_F.shape and torch.allclose(divisors_F.double(), expected_F, rtol=1e-4):
            return scaled
    raise ArtifactError(
        f"{path}: found the tensor rope_freqs.weight (scaled rotary positions) of other numbers than LLaMA 3.1 to 3.3 "
        "have, expected theirs or none; import the model's Hugging Face directory, whose config.json names the numbers"
    )


def _spec(architecture: str, about: Metadata, num_rows: int, tensor_names: Collection[str]) -> ModelSpec:
    dim, num_heads = about["embedding_length"], about["attention.head_count"]
    head_dim = about.get("attention.key_length")
    fields: dict[str, Any] = {field: tensor in tensor_names for field, tensor in _BIASES.items()}
    return ModelSpec(
        dim=dim,
        n_layers=about["block_count"],
        n_heads=num_heads,
        n_kv_heads=about.get("attention.head_count_kv"),
        vocab_size=num_rows,
        rope_theta=_decimal(about.get("rope.freq_base", _UNWRITTEN_THETA)),
        norm_eps=_decimal(about["attention.layer_norm_rms_epsilon"]),
        max_seq_len=about.get("context_length"),
        family=architecture,
        attention_head_dim=None if head_dim is None or head_dim * num_heads == dim else head_dim,
        rope_scaling_factor=_linear_factor(about),
        **(fields | dict(FAMILIES[architecture].always)),
    )


def _inexpressible(about: Metadata, metadata: Metadata, args: ModelSpec) -> list[str]:
    values = about.get("attention.value_length", args.dim // args.n_heads)
    rotary_channels = about.get("rope.dimension_count", args.head_dim)
    scale = about.get("attention.scale") or args.head_dim**-0.5
    rows = about.get("vocab_size", args.vocab_size)
    experts = about.get("expert_count", 0)
    problems = {
        _scaling(about): _scaling(about),
        f"values of {values} channels a head for keys of {args.head_dim}": values != args.head_dim,
        f"rotary positions on {rotary_channels} of {args.head_dim} channels": rotary_channels != args.head_dim,
        f"attention.scale = {scale:.6g}, not 1/sqrt({args.head_dim})": abs(scale * args.head_dim**0.5 - 1) > 1e-5,
        f"an embedding of {args.vocab_size} rows for {args.family}.vocab_size = {rows}": rows != args.vocab_size,
        f"{experts} experts": experts,
    }
    unknown = deciding_keys(
        {key: value for key, value in about.items() if key != "expert_count"},
        read=_READ,
        harmless=_HARMLESS,
        neutral=_NEUTRAL,
    )
    known = [text for text, wrong in problems.items() if wrong]
    return known + [f"{args.family}.{each}" for each in unknown] + _unknown_of_tokenizer(metadata)


def _scaling(about: Metadata) -> str:
    """Return the scaling of rotary positions that is not known here; "" for none, and for a linear one."""
    kind, factor = about.get("rope.scaling.type", "linear"), about.get("rope.scaling.factor", 0.0)
    if kind in ("none", "linear"):
        return ""
    return f"rotary positions scaled by {kind!r}" + (f" with the factor {factor:g}" if factor else "")


def _linear_factor(about: Metadata) -> float:
    """Return what llama.cpp divides all rotary frequencies by.

    Without a type a factor scales linearly; the factor's older key counts where the younger is absent, and 0 is none.
    """
    factor = about.get("rope.scaling.factor", about.get("rope.scale_linear", 0.0))
    is_linear = about.get("rope.scaling.type", "linear") == "linear"
    return _decimal(factor) if is_linear and factor else 1.0


def _unknown_of_tokenizer(metadata: Metadata) -> list[str]:
    about = {
        key.removeprefix(_TOKENIZER_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_TOKENIZER_PREFIX) and not key.endswith("_token_id") and ".chat_template." not in key
    }
    unknown = deciding_keys(about, read=_TOKENIZER_READ, harmless=_TOKENIZER_HARMLESS, neutral={})
    return [f"{_TOKENIZER_PREFIX}{each}" for each in unknown]


def _uniform(value: Any) -> Any:
    """Reduce a list with the same number for each block to that number."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


def _decimal(value: float) -> float:
    """Return the shortest decimal that rounds to this float32: GGUF stores 1e-5 as 9.999999747378752e-06."""
    return float(str(np.float32(value)))
