from dataclasses import replace
from typing import Any

import pytest

from wmtp_ray.artifacts.hf.config_file import config_from_params, is_tied, params_from_config
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

ARGS = ModelSpec(dim=16, n_layers=4, n_heads=2, vocab_size=11, n_future_tokens=3, multiple_of=8)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def test_a_config_becomes_the_model_it_describes() -> None:
    expected = ModelSpec(
        dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, vocab_size=32000, norm_eps=1e-5, max_seq_len=2048
    )
    assert params_from_config(CONFIG) == expected
    assert params_from_config(CONFIG | {"num_key_value_heads": None}).num_kv_heads == 32


@pytest.mark.parametrize(
    "written",
    [{"rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 5e5}}],
)
def test_the_base_of_rotary_positions_is_read_wherever_it_stands(written: dict[str, object]) -> None:
    assert params_from_config(CONFIG | written).rope_theta == 5e5


def test_what_old_files_leave_out_is_what_transformers_takes() -> None:
    silent = params_from_config({key: value for key, value in CONFIG.items() if key != "rms_norm_eps"})
    assert (silent.norm_eps, silent.rope_theta) == (1e-6, 10000.0)
    assert not is_tied(CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral', expected one of llama, qwen2, qwen3, mistral, smollm3"),
        ({"model_type": "ministral3"}, "model_type 'ministral3'"),
        ({"model_type": "qwen3_next"}, "model_type 'qwen3_next'"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\]"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "kind 'llama3' without factor"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": "1"}}, "low_freq_factor is '1', no number"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "rope_high_freq_factor 1.0 is not above"),
        ({"rope_scaling": LLAMA3 | {"beta_fast": 32.0}}, r"rotary positions changed by beta_fast = 32\.0"),
        ({"rope_scaling": {"type": "linear"}}, "kind 'linear' without factor"),
        ({"rope_scaling": {"type": "linear", "factor": -4.0}}, r"rope_scaling_factor -4\.0 is not above 0"),
        ({"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 4.0}}, "by 'llama3' and by 'linear'"),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 512}, "written as 512 and as 1024"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "changed by full_attention = "),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "scaled by 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes', neither true nor false"),
        ({"head_dim": 63}, "the head dimension 63 is odd"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"sliding_window": 1024}, "sliding_window = 1024"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ({"rope_interleaved": True}, "rope_interleaved = True"),
        ({"is_causal": False}, "is_causal = False"),
        ({"embedding_multiplier": 12.0, "logits_scaling": 8.0}, r"embedding_multiplier = 12\.0; logits_scaling = 8"),
        ({"nobody_knows": "x" * 99}, "nobody_knows = 'x"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Other"}}, "auto_map"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures .*SequenceClassification"),
        ({"rope_scaling": {"factor": 4.0}}, r"rotary positions changed by factor = 4\.0"),
        ({"rope_scaling": {"rope_type": "default", "type": "dynamic"}}, "scaled by 'dynamic'"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta written as 10000.0 and as 500000.0"),
        ({"rope_scaling": "linear"}, "rope_scaling 'linear'"),
        ({"num_attention_heads": 31}, "n_heads 31 does not divide dim 2048"),
        ({"intermediate_size": 0}, "feed-forward of width 0"),
    ],
)
def test_what_the_layout_cannot_express_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        params_from_config(CONFIG | change)


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": None, "nobody_knows": None, "use_qk_norm": False, "num_local_experts": 0},
        {"torch_dtype": "bfloat16", "use_cache": True, "pretraining_tp": 1, "transformers_version": "4.31.0"},
        {"attention_dropout": 0.1, "initializer_range": 0.02, "eos_token_id": [1, 2], "temperature": 0.7},
        {"rope_scaling": {"rope_type": "default", "factor": 1.0}},
        {"layer_types": ["full_attention"] * 22},
    ],
)
def test_keys_that_change_no_logit_are_read_over(change: dict[str, object]) -> None:
    assert params_from_config(CONFIG | change) == params_from_config(CONFIG)


SCALED = {
    "rope_scaling_factor": 8.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_seq_len": 1024,
}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"rope_scaling": LLAMA3, "rope_theta": 500000}, SCALED | {"rope_theta": 500000.0}),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, SCALED | {"rope_theta": 500000.0}),
        ({"rope_scaling": LLAMA3 | {"type": "llama3", "factor": 8, "low_freq_factor": 1}}, SCALED),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": None}},
            SCALED | {"rope_original_seq_len": 2048},
        ),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": None}, "max_position_embeddings": 4096},
            SCALED | {"rope_original_seq_len": 4096, "max_seq_len": 4096},
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, {"rope_scaling_factor": 4.0}),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.5}}, {"rope_scaling_factor": 2.5}),
        ({"rope_scaling": LLAMA3 | {"factor": 1.0}}, {}),
        ({"rope_scaling": {"rope_type": "linear", "factor": 1}}, {}),
        ({"rope_scaling": {"rope_type": "default", "original_max_position_embeddings": 64}}, {}),
        ({"head_dim": 64, "attention_bias": False, "mlp_bias": None}, {}),
        ({"head_dim": 128}, {"attention_head_dim": 128}),
        ({"attention_bias": True}, {"qkv_bias": True, "attention_output_bias": True}),
        ({"mlp_bias": True}, {"mlp_bias": True}),
        ({"model_type": "qwen2", "sliding_window": 32768, "max_window_layers": 21}, {"qkv_bias": True}),
        ({"model_type": "qwen3"}, {"attention_head_dim": 128, "query_key_norm": "head"}),
        ({"model_type": "mistral"}, {"attention_window": 4096}),
        ({"model_type": "mistral", "sliding_window": None}, {}),
        ({"model_type": "mistral", "sliding_window": 7, "layer_types": ["sliding_attention"]}, {"attention_window": 7}),
        ({"model_type": "smollm3"}, {"rope_theta": 2e6, "blocks_without_rope": (3, 7, 11, 15, 19)}),
        ({"model_type": "smollm3", "no_rope_layer_interval": 10, "rope_theta": 1e4}, {"blocks_without_rope": (9, 19)}),
        (
            {"model_type": "smollm3", "no_rope_layers": [1] * 21 + [0, 1, 0], "rope_theta": 1e4},
            {"blocks_without_rope": (21,)},
        ),
        ({"model_type": "olmo2"}, {"query_key_norm": "width", "norm_after": True}),
    ],
)
def test_what_differs_between_families_becomes_a_field(written: dict[str, Any], expected: dict[str, Any]) -> None:
    family = {"family": written.get("model_type", "llama")}
    assert params_from_config(CONFIG | written) == replace(params_from_config(CONFIG), **family, **expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window True"),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window True"),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias = True"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias = True"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0, neither null nor"),
        ({"model_type": "mistral", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers is .* for each of 22 blocks"),
        ({"model_type": "smollm3", "no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ({"model_type": "smollm3", "use_sliding_window": True}, "use_sliding_window True"),
        ({"model_type": "olmo2", "clip_qkv": 8.0}, r"clip_qkv = 8\.0"),
        ({"model_type": "qwen2", "architectures": ["LlamaForCausalLM"]}, "architectures"),
        ({"no_rope_layers": [0] * 22}, "no_rope_layers = "),
        ({"num_experts": 8}, "num_experts = 8"),
    ],
)
def test_what_a_family_does_not_have_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        params_from_config(CONFIG | change)


def test_a_model_that_its_family_cannot_express_is_not_exported() -> None:
    for changes, message in (
        ({"family": "qwen2"}, "Qwen2ForCausalLM cannot express: found qkv_bias=False with family='qwen2'"),
        ({"qkv_bias": True}, "LlamaForCausalLM cannot express: found qkv_bias=True"),
        ({"family": "mistral", "norm_after": True}, "norm_after=True"),
    ):
        with pytest.raises(ArtifactError, match=message):
            config_from_params(replace(ARGS, **changes), tied=True, max_positions=64)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ArtifactError, match="intermediate_size is missing"):
        params_from_config({key: value for key, value in CONFIG.items() if key != "intermediate_size"})


def test_a_described_horizon_1_is_read_back_as_the_same_model() -> None:
    args = replace(ARGS, n_kv_heads=1, rope_theta=5e5, max_seq_len=64)
    config = config_from_params(args, tied=True, max_positions=64)
    plain = params_from_config(config)
    assert is_tied(config)
    assert plain.hidden_dim == args.hidden_dim
    assert replace(plain, multiple_of=8, ffn_dim_multiplier=None) == replace(args, n_layers=2, n_future_tokens=1)
