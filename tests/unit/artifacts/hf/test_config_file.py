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
        ({"model_type": "qwen2"}, "model_type 'qwen2', not 'llama'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "scaled by 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "scaled by 'linear'"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "scaled by 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias; mlp_bias"),
        ({"head_dim": 128}, "32 heads of 128 channels in a width of 2048"),
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
