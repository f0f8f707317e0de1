"""The same model under two layouts: Hugging Face's names and rows of tensors, and Meta's. It reads no files.

Names map one to one. The rows of wq and wk, of their biases and of the norms behind them differ: a rotary pair is two
neighbours in Meta's layout, and in Hugging Face's the first and second half of a head hold its two members. One head of
6 channels, pairs a, b and c:

    Hugging Face  a0 b0 c0 a1 b1 c1
    Meta          a0 a1 b0 b1 c0 c1

Horizon 1 of a multi-token model is an ordinary model of `num_trunk_blocks` + 1 blocks: those of `layers`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

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
_MATRICES = {name.removesuffix(".weight"): ours.removesuffix(".weight") for name, ours in BLOCK_NAMES.items()}
_QUERY_KEY_NORMS = {
    "self_attn.q_norm.weight": "attention.q_norm.weight",
    "self_attn.k_norm.weight": "attention.k_norm.weight",
}
_NORMS_BEFORE = ("input_layernorm.weight", "post_attention_layernorm.weight")
_NORMS_AFTER = {
    "post_attention_layernorm.weight": "attention_norm.weight",
    "post_feedforward_layernorm.weight": "ffn_norm.weight",
}
_FOREIGN = {
    "lora_": " (of an adapter)",
    "q_norm.": " (a norm of queries)",
    "k_norm.": " (a norm of keys)",
    "experts.": " (a mixture of experts)",
    "qweight": " (quantised)",
    "scales": " (quantised)",
    "weight_scale": " (quantised)",
    "absmax": " (quantised)",
    ".bias": " (a bias)",
}
_HF_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_META_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_ROTARY_TABLE = "self_attn.rotary_emb.inv_freq"  # older files store it; it follows from rope_theta

_ROUNDINGS = ((256, None), (1024, 1.3), (4096, 1.3))  # of LLaMA 1 and 2 7B, 3 8B and 3 70B: their own numbers first


def block_names(args: ModelSpec) -> dict[str, str]:
    """Return Meta's names of the tensors of a block by Hugging Face's: a plain LLaMA's, and what `args` adds."""
    names = dict(BLOCK_NAMES)
    if args.norm_after:
        names = {theirs: ours for theirs, ours in names.items() if theirs not in _NORMS_BEFORE} | _NORMS_AFTER
    if args.query_key_norm is not None:
        names |= _QUERY_KEY_NORMS
    biased = args.biased()
    return names | {
        f"{theirs}.bias": f"{ours}.bias" for theirs, ours in _MATRICES.items() if ours.rpartition(".")[2] in biased
    }


def meta_name(
    hf_name: str, names: Mapping[str, str] = BLOCK_NAMES, architecture: str = "LlamaForCausalLM"
) -> str | None:
    """Return Meta's name of a tensor, None for one that holds no weights; ArtifactError for a name that is not known.

    `names` are the `block_names` of the model.
    """
    if hf_name in OUTER_NAMES:
        return OUTER_NAMES[hf_name]
    block = _HF_BLOCK.fullmatch(hf_name)
    if block and block[2] in names:
        return f"layers.{block[1]}.{names[block[2]]}"
    if block and block[2] == _ROTARY_TABLE:
        return None
    found = next((about for part, about in _FOREIGN.items() if part in hf_name), "")
    raise ArtifactError(
        f"found the tensor {hf_name}{found}, expected those of the {architecture} that config.json describes alone (no "
        "adapters, no quantisation); give a checkpoint of it whose config.json and weights belong together"
    )


def hf_name(name: str, names: Mapping[str, str] = BLOCK_NAMES) -> str | None:
    """Return Hugging Face's name of a tensor in Meta's layout, None for the heads of horizons above 1."""
    for theirs, ours in OUTER_NAMES.items():
        if name == ours:
            return theirs
    block = _META_BLOCK.fullmatch(name)
    if block is None:
        assert name.startswith("extra_heads."), name
        return None
    theirs = next(theirs for theirs, ours in names.items() if ours == block[2])
    return f"model.layers.{block[1]}.{theirs}"


def rotary_heads(name: str, args: ModelSpec) -> int | None:
    """Return how many heads the rows of a tensor with Meta's name are, None where rows need no reordering."""
    part = name.rpartition("attention.")[2].partition(".")[0]
    num_heads = {"wq": args.n_heads, "wk": args.num_kv_heads, "q_norm": args.n_heads, "k_norm": args.num_kv_heads}
    by_head = part in ("q_norm", "k_norm") and args.query_key_norm == "head"
    return 1 if by_head else num_heads.get(part)


def interleaved_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of wq or wk, or of a vector with as many, from Hugging Face's order to Meta's."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def half_split_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of wq or wk, or of a vector with as many, from Meta's order to Hugging Face's."""
    return weight.reshape(num_heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def to_meta_rows(name: str, weight: Tensor, args: ModelSpec) -> Tensor:
    """Return a tensor of Hugging Face's layout, by its name in Meta's, with its rows in Meta's order."""
    num_heads = rotary_heads(name, args)
    return weight if num_heads is None else interleaved_rows(weight, num_heads)


def to_hf_rows(name: str, weight: Tensor, args: ModelSpec) -> Tensor:
    """Return a tensor of Meta's layout, by its name there, with its rows in Hugging Face's order."""
    num_heads = rotary_heads(name, args)
    return weight if num_heads is None else half_split_rows(weight, num_heads)


def with_hidden_dim(args: ModelSpec, hidden_dim: int) -> ModelSpec:
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
