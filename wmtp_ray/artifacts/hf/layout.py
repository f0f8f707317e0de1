"""The same LLaMA under two layouts: Hugging Face's names, rows and config.json, and Meta's. It reads no files.

Names map one to one. The rows of wq and wk differ: a rotary pair is two neighbours in Meta's layout, and in Hugging
Face's the first and second half of a head hold its two members. One head of 6 channels, pairs a, b and c:

    Hugging Face  a0 b0 c0 a1 b1 c1
    Meta          a0 a1 b0 b1 c0 c1

Horizon 1 of a multi-token model is an ordinary LLaMA of `num_trunk_blocks` + 1 blocks: those of `layers`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vendor.meta_llama.model import ModelArgs
from wmtp_ray.errors import ArtifactError

Config = Mapping[str, Any]  # config.json

OUTER_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
BLOCK_NAMES = {
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
_HF_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_META_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_ROTARY_TABLE = "self_attn.rotary_emb.inv_freq"  # older files store it; it follows from rope_theta

# What LlamaConfig takes where config.json is silent; files of before a key's time rely on it.
_UNWRITTEN = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False}
_ROUNDINGS = ((256, None), (1024, 1.3), (4096, 1.3))  # of LLaMA 1 and 2 7B, 3 8B and 3 70B: their own numbers first


def meta_name(hf_name: str) -> str | None:
    """Return Meta's name of a tensor, None for one that carries nothing; ArtifactError for one LLaMA does not have."""
    if hf_name in OUTER_NAMES:
        return OUTER_NAMES[hf_name]
    block = _HF_BLOCK.fullmatch(hf_name)
    if block and block[2] in BLOCK_NAMES:
        return f"layers.{block[1]}.{BLOCK_NAMES[block[2]]}"
    if block and block[2] == _ROTARY_TABLE:
        return None
    raise ArtifactError(
        f"found the tensor {hf_name}, expected those of LlamaForCausalLM alone (no biases, no adapters, no "
        "quantisation); give a plain LLaMA checkpoint"
    )


def hf_name(name: str) -> str | None:
    """Return Hugging Face's name of a tensor in Meta's layout, None for the heads of horizons above 1."""
    for theirs, ours in OUTER_NAMES.items():
        if name == ours:
            return theirs
    block = _META_BLOCK.fullmatch(name)
    if block is None:
        assert name.startswith("extra_heads."), name
        return None
    theirs = next(theirs for theirs, ours in BLOCK_NAMES.items() if ours == block[2])
    return f"model.layers.{block[1]}.{theirs}"


def rotary_heads(name: str, args: ModelArgs) -> int | None:
    """Return how many heads the rows of a tensor with Meta's name are, None where rows need no reordering."""
    if name.endswith("attention.wq.weight"):
        return args.n_heads
    return args.num_kv_heads if name.endswith("attention.wk.weight") else None


def interleaved_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of wq or wk from Hugging Face's order to Meta's."""
    width = weight.shape[1]
    return weight.reshape(num_heads, 2, -1, width).transpose(1, 2).reshape(-1, width)


def half_split_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of wq or wk from Meta's order to Hugging Face's."""
    width = weight.shape[1]
    return weight.reshape(num_heads, -1, 2, width).transpose(1, 2).reshape(-1, width)


def to_meta_rows(name: str, weight: Tensor, args: ModelArgs) -> Tensor:
    """Return a tensor of Hugging Face's layout, by its name in Meta's, with its rows in Meta's order."""
    num_heads = rotary_heads(name, args)
    return weight if num_heads is None else interleaved_rows(weight, num_heads)


def to_hf_rows(name: str, weight: Tensor, args: ModelArgs) -> Tensor:
    """Return a tensor of Meta's layout, by its name there, with its rows in Hugging Face's order."""
    num_heads = rotary_heads(name, args)
    return weight if num_heads is None else half_split_rows(weight, num_heads)


def params_from_config(config: Config) -> ModelArgs:
    """Describe the model of a config.json as a model of one horizon.

    ArtifactError names everything that this layout cannot express: other architectures, biases, scaled rotary
    positions, heads that do not add up to the width, quantised weights, a missing key.
    """
    if found := _inexpressible(config):
        raise ArtifactError(
            f"config.json describes a model that cannot be imported: found {'; '.join(found)}. Expected a plain "
            "LlamaForCausalLM; choose another checkpoint"
        )
    try:
        dim, hidden_dim = config["hidden_size"], config["intermediate_size"]
        args = ModelArgs(
            dim=dim,
            n_layers=config["num_hidden_layers"],
            n_heads=config["num_attention_heads"],
            n_kv_heads=config.get("num_key_value_heads"),
            vocab_size=config["vocab_size"],
            rope_theta=float(_rope(config).get("rope_theta", _UNWRITTEN["rope_theta"])),
            norm_eps=float(_value(config, "rms_norm_eps")),
            max_seq_len=config.get("max_position_embeddings"),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"config.json describes no model: {reason}. Restore the file.") from error
    return with_hidden_dim(args, hidden_dim)


def with_hidden_dim(args: ModelArgs, hidden_dim: int) -> ModelArgs:
    """Return `args` with `multiple_of` and `ffn_dim_multiplier` such that the feed-forward is exactly that wide.

    Published numbers are preferred; any other width is its ratio to 8/3 of `dim`. ArtifactError for a width below 1.
    """
    for multiple_of, multiplier in _ROUNDINGS:
        candidate = replace(args, multiple_of=multiple_of, ffn_dim_multiplier=multiplier)
        if candidate.hidden_dim == hidden_dim:
            return candidate
    if not isinstance(hidden_dim, int) or hidden_dim < 1:
        raise ArtifactError(f"found a feed-forward of width {hidden_dim!r}, expected at least 1; restore the file")
    half_a_channel_up = (hidden_dim + 0.5) / (2 * 4 * args.dim // 3)  # is cut down to hidden_dim, however it is rounded
    exact = replace(args, multiple_of=1, ffn_dim_multiplier=half_a_channel_up)
    assert exact.hidden_dim == hidden_dim
    return exact


def config_from_params(args: ModelArgs, *, tied: bool, max_positions: int) -> dict[str, Any]:
    """Describe horizon 1 as the config.json of a LlamaForCausalLM; `tied` says that it has no output matrix of its own.

    The keys are those that readers of every age know: `rope_theta` rather than `rope_parameters`, and so on.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": args.dim,
        "intermediate_size": args.hidden_dim,
        "num_hidden_layers": args.num_trunk_blocks + 1,
        "num_attention_heads": args.n_heads,
        "num_key_value_heads": args.num_kv_heads,
        "head_dim": args.head_dim,
        "vocab_size": args.vocab_size,
        "rope_theta": args.rope_theta,
        "rms_norm_eps": args.norm_eps,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def is_tied(config: Config) -> bool:
    """Whether the output matrix is the embedding."""
    return bool(_value(config, "tie_word_embeddings"))


def _inexpressible(config: Config) -> list[str]:
    heads, dim, head_dim = (config.get(key) for key in ("num_attention_heads", "hidden_size", "head_dim"))
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    problems = {
        f"model_type {config.get('model_type')!r}, not 'llama'": config.get("model_type") != "llama",
        f"rotary positions scaled by {kind!r}": kind != "default",
        f"partial_rotary_factor {rope.get('partial_rotary_factor')}": rope.get("partial_rotary_factor", 1.0) != 1.0,
        f"hidden_act {config.get('hidden_act')!r}, not 'silu'": _value(config, "hidden_act") != "silu",
        f"{heads} heads of {head_dim} channels in a width of {dim}": head_dim and heads and head_dim * heads != dim,
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "weights quantised by quantization_config": config.get("quantization_config"),
    }
    return [text for text, wrong in problems.items() if wrong]


def _rope(config: Config) -> Config:
    """Return `rope_parameters`, or what older files say in `rope_theta` and `rope_scaling`."""
    if config.get("rope_parameters"):
        return dict(config["rope_parameters"])
    theta = {"rope_theta": config["rope_theta"]} if config.get("rope_theta") is not None else {}
    partial = {key: config[key] for key in ("partial_rotary_factor",) if config.get(key) is not None}
    return theta | partial | dict(config.get("rope_scaling") or {})


def _value(config: Config, key: str) -> Any:
    written = config.get(key)
    return _UNWRITTEN[key] if written is None else written
