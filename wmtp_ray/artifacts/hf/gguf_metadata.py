"""What the metadata of a GGUF file may say about a LLaMA. It reads no files.

llama.cpp reads the keys of `general.`, `split.`, `tokenizer.` and of the architecture, here `llama.`; other prefixes
are notes of whoever wrote the file. Of `llama.` and `tokenizer.` every key is known: it is read, changes nothing, or
has a value with which it changes nothing. Any other key is an error that names it (`known_keys`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.known_keys import Neutral, deciding_keys
from wmtp_ray.model.spec import ModelSpec

Metadata = Mapping[str, Any]

_UNWRITTEN_THETA = 10000.0  # what llama.cpp takes
_PREFIX, _TOKENIZER_PREFIX = "llama.", "tokenizer."
_UNUSED = (0, 0.0, False)
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "attention.scale"),
}
_HARMLESS = {"rope.scaling.original_context_length", "rope.scaling.finetuned"}  # of scaled positions, which are refused
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
    if (architecture := metadata.get("general.architecture")) != "llama":
        raise ArtifactError(f"{path}: found the architecture {architecture!r}, expected llama; choose another file")


def params_from_metadata(path: Path, metadata: Metadata, num_rows: int) -> ModelSpec:
    """Describe the model of a GGUF file whose embedding has `num_rows` rows, as a model of one horizon.

    ArtifactError names what this layout cannot express, a missing key, and an unknown key.
    """
    about = {key.removeprefix(_PREFIX): _uniform(value) for key, value in metadata.items() if key.startswith(_PREFIX)}
    try:
        args = ModelSpec(
            dim=about["embedding_length"],
            n_layers=about["block_count"],
            n_heads=about["attention.head_count"],
            n_kv_heads=about.get("attention.head_count_kv"),
            vocab_size=num_rows,
            rope_theta=_decimal(about.get("rope.freq_base", _UNWRITTEN_THETA)),
            norm_eps=_decimal(about["attention.layer_norm_rms_epsilon"]),
            max_seq_len=about.get("context_length"),
        )
        hidden_dim = about["feed_forward_length"]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"llama.{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"{path} describes no model: {reason}. Expected the metadata that llama.cpp's convert_hf_to_gguf.py "
            "writes; convert the model again, or choose another file"
        ) from error
    if found := _inexpressible(about, metadata, args):
        raise ArtifactError(f"{path}: found {'; '.join(found)}, expected a plain LLaMA; choose another file")
    return with_hidden_dim(args, hidden_dim)


def _inexpressible(about: Metadata, metadata: Metadata, args: ModelSpec) -> list[str]:
    channels = {key: about.get(f"attention.{key}_length", args.head_dim) for key in ("key", "value")}
    rotary_channels = about.get("rope.dimension_count", args.head_dim)
    scale = about.get("attention.scale") or args.head_dim**-0.5
    rows = about.get("vocab_size", args.vocab_size)
    experts = about.get("expert_count", 0)
    problems = {
        _scaling(about): _scaling(about),
        f"keys of {channels['key']} channels a head, not {args.head_dim}": channels["key"] != args.head_dim,
        f"values of {channels['value']} channels a head, not {args.head_dim}": channels["value"] != args.head_dim,
        f"rotary positions on {rotary_channels} of {args.head_dim} channels": rotary_channels != args.head_dim,
        f"attention.scale = {scale:.6g}, not 1/sqrt({args.head_dim})": abs(scale * args.head_dim**0.5 - 1) > 1e-5,
        f"an embedding of {args.vocab_size} rows for llama.vocab_size = {rows}": rows != args.vocab_size,
        f"{experts} experts": experts,
    }
    unknown = deciding_keys(
        {key: value for key, value in about.items() if key != "expert_count"},
        read=_READ,
        harmless=_HARMLESS,
        neutral=_NEUTRAL,
    )
    known = [text for text, wrong in problems.items() if wrong]
    return known + [f"{_PREFIX}{each}" for each in unknown] + _unknown_of_tokenizer(metadata)


def _scaling(about: Metadata) -> str:
    """Return the scaling of rotary positions, as llama.cpp reads it; "" for none.

    Without a type a factor scales linearly; the factor's older key counts where the younger is absent, and 0 is none.
    """
    kind = about.get("rope.scaling.type", "linear")
    factor = about.get("rope.scaling.factor", about.get("rope.scale_linear", 0.0))
    if kind == "none" or (kind == "linear" and factor in (0, 1)):
        return ""
    return f"rotary positions scaled by {kind!r}" + (f" with the factor {factor:g}" if factor else "")


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
