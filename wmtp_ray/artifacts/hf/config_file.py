"""Translate a LLaMA's config.json (Hugging Face) to our model description and back. It reads no files.

Every key is known: it is read, changes nothing in the forward pass, or has a value with which it changes nothing. Any
other key is an error that names it (`known_keys`), whatever transformers would make of it.
"""

from collections.abc import Mapping
from typing import Any

from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.known_keys import Neutral, deciding_keys
from wmtp_ray.model.spec import ModelSpec

Config = Mapping[str, Any]  # config.json

# What LlamaConfig takes where config.json is silent; files of before a key's time rely on it.
_UNWRITTEN = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False}
_READ = {
    *("model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "max_position_embeddings", "hidden_act"),
    *("tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    *("attention_bias", "mlp_bias", "quantization_config", "layer_types"),
}
_ABOUT_THE_FILE = {
    *("_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "tokenizer_class", "prefix"),
    *(
        "finetuning_task",
        "id2label",
        "label2id",
        "problem_type",
        "task_specific_params",
        "unsloth_version",
        "model_name",
    ),
    *("unsloth_fixed", "unsloth_processed", "transformers.js_config", "use_liger_kernel", "is_llama_config"),
}
_ABOUT_HOW_IT_IS_RUN = {
    *("use_cache", "pretraining_tp", "output_attentions", "output_hidden_states", "return_dict", "torchscript"),
    *("use_return_dict", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "_attn_implementation"),
    *(
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_experts_implementation",
        "keys_to_ignore_at_inference",
    ),
    *("_flash_attn_2_enabled", "use_flash_attn", "use_flash_attention_2", "gradient_checkpointing"),
}
_ABOUT_TRAINING = {"initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"}
_ABOUT_GENERATION = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
    *("max_length", "min_length", "max_new_tokens", "max_sequence_length", "do_sample", "early_stopping", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "use_mambapy"),
}
_HARMLESS = _ABOUT_THE_FILE | _ABOUT_HOW_IT_IS_RUN | _ABOUT_TRAINING | _ABOUT_GENERATION
_NEUTRAL: Neutral = {
    "is_decoder": (True, False),  # a LlamaForCausalLM reads neither
    "is_encoder_decoder": (False,),
    "is_causal": (True,),
    "use_bidirectional_attention": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "use_qk_norm": (False,),
    "qk_norm": (False,),
    "qk_layernorm": (False,),
    "clip_qkv": (),
    "final_logit_softcapping": (),
    "attn_logit_softcapping": (),
    "embedding_multiplier": (1.0,),
    "attention_multiplier": (),
    "residual_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (1.0,),
    "num_experts": (0,),
    "num_local_experts": (0,),
}
_ROPE_PLACES = ("rope_scaling", "rope_parameters")
_ROPE_READ = ("rope_theta", "rope_type", "type", "partial_rotary_factor")
_ROPE_HARMLESS = ("original_max_position_embeddings",)  # says when to scale, and there is no scaling
_ROPE_NEUTRAL: Neutral = {"factor": (1.0,), "attention_factor": (1.0,)}
_ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel")


def params_from_config(config: Config) -> ModelSpec:
    """Describe the model of a config.json as a model of one horizon.

    ArtifactError names everything that this layout cannot express: other architectures, biases, scaled rotary
    positions, heads that do not add up to the width, quantised weights, a missing key, an unknown key.
    """
    if found := _inexpressible(config):
        raise ArtifactError(
            f"config.json describes a model that cannot be imported: found {'; '.join(found)}. Expected a plain "
            "LlamaForCausalLM; choose another checkpoint"
        )
    if unknown := deciding_keys(config, read=_READ, harmless=_HARMLESS, neutral=_NEUTRAL):
        raise ArtifactError(
            f"config.json has keys that this import does not know: {'; '.join(unknown)}. Expected those of a plain "
            "LlamaForCausalLM, since any other may change what the model computes; choose another checkpoint, or take "
            "the key out of config.json if it changes no logit"
        )
    try:
        dim, hidden_dim = config["hidden_size"], config["intermediate_size"]
        args = ModelSpec(
            dim=dim,
            n_layers=config["num_hidden_layers"],
            n_heads=config["num_attention_heads"],
            n_kv_heads=config.get("num_key_value_heads"),
            vocab_size=config["vocab_size"],
            rope_theta=float(_value(_rope(config), "rope_theta")),
            norm_eps=float(_value(config, "rms_norm_eps")),
            max_seq_len=config.get("max_position_embeddings"),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"config.json describes no model: {reason}. Expected the config.json that was published with the weights; "
            "put it beside them"
        ) from error
    return with_hidden_dim(args, hidden_dim)


def config_from_params(args: ModelSpec, *, tied: bool, max_positions: int) -> dict[str, Any]:
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
    """Whether config.json says that the output matrix is the embedding."""
    return bool(_value(config, "tie_word_embeddings"))


def _inexpressible(config: Config) -> list[str]:
    heads, dim, head_dim = (config.get(key) for key in ("num_attention_heads", "hidden_size", "head_dim"))
    architectures = config.get("architectures") or []
    problems = {
        f"model_type {config.get('model_type')!r}, not 'llama'": config.get("model_type") != "llama",
        f"architectures {architectures}": any(name not in _ARCHITECTURES for name in architectures),
        f"hidden_act {config.get('hidden_act')!r}, not 'silu'": _value(config, "hidden_act") not in ("silu", "swish"),
        f"{heads} heads of {head_dim} channels in a width of {dim}": head_dim and heads and head_dim * heads != dim,
        f"layer_types {config.get('layer_types')}": set(config.get("layer_types") or ()) - {"full_attention"},
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "weights quantised by quantization_config": config.get("quantization_config"),
    }
    return [text for text, wrong in problems.items() if wrong] + _rope_problems(config)


def _rope_problems(config: Config) -> list[str]:
    if odd := [key for key in _ROPE_PLACES if not isinstance(config.get(key) or {}, Mapping)]:
        return [f"{odd[0]} {config[odd[0]]!r}"]
    rope = _rope(config)
    kinds = {rope[key] for key in ("rope_type", "type") if rope.get(key) is not None} - {"default"}
    if kinds:
        return [f"rotary positions scaled by {' and '.join(repr(kind) for kind in sorted(kinds, key=str))}"]
    factor = rope.get("partial_rotary_factor")
    partial = [] if factor in (None, 1.0) else [f"partial_rotary_factor {factor}"]
    unknown = deciding_keys(rope, read=_ROPE_READ, harmless=_ROPE_HARMLESS, neutral=_ROPE_NEUTRAL)
    return partial + [f"rotary positions changed by {each}" for each in unknown] + _contradictions(config)


def _contradictions(config: Config) -> list[str]:
    """List the numbers that config.json gives twice, under an older and a newer key, with different values."""
    places = _rope_places(config)
    keys = dict.fromkeys(key for place in places for key in place)
    written = {key: [place[key] for place in places if place.get(key) is not None] for key in keys}
    return [
        f"{key} written as {values[0]} and as {other}"
        for key, values in written.items()
        for other in values[1:]
        if other != values[0]
    ]


def _rope(config: Config) -> Config:
    """Return the rotary settings of config.json, from the older or the newer keys."""
    return {key: value for place in _rope_places(config) for key, value in place.items() if value is not None}


def _rope_places(config: Config) -> list[Config]:
    """`rope_theta` and `rope_scaling` of older files, `rope_parameters` of newer ones."""
    outer = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    return [outer, *(dict(config[key]) for key in _ROPE_PLACES if config.get(key))]


def _value(config: Config, key: str) -> Any:
    written = config.get(key)
    return _UNWRITTEN[key] if written is None else written
