"""Translate a config.json (Hugging Face) to our model description and back. It reads no files.

Which families there are, and what makes them differ, stands in `families.py`; how rotary positions are spelled in
`rope_settings.py`. Every key is known: it is read, changes nothing in the forward pass, or has a value with which it
changes nothing. Any other key is an error that names it (`known_keys`), whatever transformers would make of it.
"""

from dataclasses import fields, replace
from typing import Any

from wmtp_ray.artifacts.hf.families import FAMILIES, Config, Family
from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.artifacts.hf.rope_settings import ROPE_KEYS, rope_fields, rope_problems, written_rope
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.known_keys import Neutral, deciding_keys
from wmtp_ray.model.spec import ModelSpec

NATIVE_HEADS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")  # multi-token layers: left out

_READ = {
    *("model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "max_position_embeddings", "hidden_act"),
    *("tie_word_embeddings", "use_sliding_window", "quantization_config", "layer_types", *ROPE_KEYS, *NATIVE_HEADS),
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
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (),
    "use_mrope": (False,),
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
_KNOWN = f"a model of {', '.join(FAMILIES)}, rotary positions default, linear or llama3, no experts, not quantised"


def params_from_config(config: Config) -> ModelSpec:
    """Describe the model of a config.json as a model of one horizon.

    ArtifactError names everything that cannot be expressed: other families and architectures, other scalings of rotary
    positions, windows in some layers, quantised weights, a missing key, an unknown key.
    """
    family = _family(config)
    if found := _inexpressible(config, family):
        raise ArtifactError(
            f"config.json describes a model that cannot be imported: found {'; '.join(found)}. Expected {_KNOWN}; "
            "choose another checkpoint"
        )
    read, harmless = _READ | family.option_keys, _HARMLESS | set(family.harmless)
    if unknown := deciding_keys(config, read=read, harmless=harmless, neutral={**_NEUTRAL, **family.unread}):
        raise ArtifactError(
            f"config.json has keys that this import does not know: {'; '.join(unknown)}. Expected those of a "
            f"{family.architectures[0]}, since any other may change what the model computes; choose another "
            "checkpoint, or take the key out of config.json if it changes no logit"
        )
    try:
        return _spec(config, family)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"config.json describes no model: {reason}. Expected the config.json that was published with the weights; "
            "put it beside them"
        ) from error


def config_from_params(args: ModelSpec, *, tied: bool, max_positions: int) -> dict[str, Any]:
    """Describe horizon 1 as the config.json of its family; `tied` says that it has no output matrix of its own.

    The keys are those that readers of every age know: `rope_theta` rather than `rope_parameters`, and so on.
    ArtifactError for a model that its family cannot express.
    """
    family = FAMILIES[args.family]
    config = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_type,
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
        **{option.keys[0]: option.write(args) for option in family.options},
        **family.written,
        **written_rope(args),
    }
    _require_expressed(args, params_from_config(config))
    return config


def is_tied(config: Config) -> bool:
    """Whether config.json says that the output matrix is the embedding."""
    return bool(_family(config).settled(config)["tie_word_embeddings"])


def native_heads(config: Config) -> dict[str, int]:
    """Return what config.json says of native multi-token layers, by key; ArtifactError where it is no number."""
    told = {key: config[key] for key in NATIVE_HEADS if config.get(key) is not None}
    if odd := [key for key, number in told.items() if type(number) is not int or number < 0]:
        raise ArtifactError(
            f"config.json: found {odd[0]} = {told[odd[0]]!r}, expected a whole number; restore the file"
        )
    return told


def architecture_of(args: ModelSpec) -> str:
    """Return the name of the class that computes horizon 1 in transformers."""
    return FAMILIES[args.family].architectures[0]


def _family(config: Config) -> Family:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ArtifactError(
            f"config.json describes a model that cannot be imported: found model_type {model_type!r}, expected one of "
            f"{', '.join(FAMILIES)}; choose another checkpoint"
        )
    return FAMILIES[model_type]


def _spec(config: Config, family: Family) -> ModelSpec:
    settled = family.settled(config)
    dim, num_heads, head_dim = settled["hidden_size"], settled["num_attention_heads"], settled["head_dim"]
    options = {name: value for option in family.options for name, value in option.read(settled).items()}
    args = ModelSpec(
        dim=dim,
        n_layers=settled["num_hidden_layers"],
        n_heads=num_heads,
        n_kv_heads=settled["num_key_value_heads"],
        vocab_size=settled["vocab_size"],
        norm_eps=float(settled["rms_norm_eps"]),
        max_seq_len=settled["max_position_embeddings"],
        family=family.model_type,
        attention_head_dim=None if head_dim is None or head_dim * num_heads == dim else head_dim,
        **rope_fields(config, settled),
        **family.always,
        **options,
    )
    return with_hidden_dim(args, settled["intermediate_size"])


def _inexpressible(config: Config, family: Family) -> list[str]:
    settled = family.settled(config)
    architectures, activation = config.get("architectures") or [], settled["hidden_act"]
    layer_types = set(config.get("layer_types") or ())
    window = "sliding_window" in family.option_keys and settled["sliding_window"] is not None
    problems = {
        f"architectures {architectures}": any(name not in family.architectures for name in architectures),
        f"hidden_act {activation!r}, not 'silu'": activation not in ("silu", "swish"),
        f"layer_types {config.get('layer_types')}": layer_types - {"sliding_attention" if window else "full_attention"},
        f"use_sliding_window {config.get('use_sliding_window')}": config.get("use_sliding_window"),
        "weights quantised by quantization_config": config.get("quantization_config"),
    }
    return [text for text, wrong in problems.items() if wrong] + rope_problems(config)


def _require_expressed(args: ModelSpec, read_back: ModelSpec) -> None:
    """Raise an ArtifactError that names what the config.json of the family does not say of a model."""
    num_blocks = args.num_trunk_blocks + 1
    kept = tuple(block for block in args.blocks_without_rope if block < num_blocks)
    plain = replace(args, n_layers=num_blocks, n_future_tokens=1, blocks_without_rope=kept)
    open_keys = ("multiple_of", "ffn_dim_multiplier", "max_seq_len", "max_batch_size", "n_kv_heads")
    names = [each.name for each in fields(ModelSpec) if each.name not in open_keys]
    lost = [name for name in names if _resolved(plain, name) != _resolved(read_back, name)]
    if lost:
        raise ArtifactError(
            f"params.json describes a model that {architecture_of(args)} cannot express: found "
            f"{', '.join(f'{name}={getattr(plain, name)!r}' for name in lost)} with family={args.family!r}; write the "
            "family that the model is of into params.json"
        )


def _resolved(args: ModelSpec, name: str) -> Any:
    return args.head_dim if name == "attention_head_dim" else getattr(args, name)
