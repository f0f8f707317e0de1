from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.hf.layout import (
    config_from_params,
    half_split_rows,
    hf_name,
    interleaved_rows,
    is_tied,
    meta_name,
    params_from_config,
    with_hidden_dim,
)
from wmtp_ray.errors import ArtifactError

ARGS = ModelArgs(dim=16, n_layers=4, n_heads=2, vocab_size=11, n_future_tokens=3, multiple_of=8)
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


def test_rows_of_a_head_change_places_as_the_page_says() -> None:
    theirs = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])  # a0 b0 c0 a1 b1 c1
    assert interleaved_rows(theirs, num_heads=1)[:, 0].tolist() == [0, 10, 1, 11, 2, 12]
    two_heads = torch.cat([theirs, theirs + 100])
    assert interleaved_rows(two_heads, num_heads=2)[6:, 0].tolist() == [100, 110, 101, 111, 102, 112]


@given(num_heads=st.integers(1, 4), pairs=st.integers(1, 5), width=st.integers(1, 3))
def test_reordering_there_and_back_changes_nothing(num_heads: int, pairs: int, width: int) -> None:
    weight = torch.arange(num_heads * pairs * 2 * width).reshape(-1, width)
    assert torch.equal(half_split_rows(interleaved_rows(weight, num_heads), num_heads), weight)


def test_names_of_horizon_1_map_one_to_one() -> None:
    names = list(Transformer(ARGS).state_dict())
    theirs = {name: hf_name(name) for name in names}
    assert {name for name, other in theirs.items() if other is None} == {n for n in names if n.startswith("extra_")}
    assert all(meta_name(other) == name for name, other in theirs.items() if other is not None)


def test_a_stored_rotary_table_carries_nothing() -> None:
    assert meta_name("model.layers.3.self_attn.rotary_emb.inv_freq") is None


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "score.weight", "model.layers.x.mlp"])
def test_a_tensor_that_llama_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match=name):
        meta_name(name)


def test_a_config_becomes_the_model_it_describes() -> None:
    expected = ModelArgs(
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
        ({"num_attention_heads": 31}, "n_heads 31 does not divide dim 2048"),
        ({"intermediate_size": 0}, "feed-forward of width 0"),
    ],
)
def test_what_the_layout_cannot_express_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        params_from_config(CONFIG | change)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ArtifactError, match="intermediate_size is missing"):
        params_from_config({key: value for key, value in CONFIG.items() if key != "intermediate_size"})


@given(dim=st.integers(1, 20000), hidden_dim=st.integers(1, 100000))
def test_every_width_of_the_feed_forward_is_expressed_exactly(dim: int, hidden_dim: int) -> None:
    args = ModelArgs(dim=2 * dim, n_layers=1, n_heads=1, vocab_size=1)
    assert with_hidden_dim(args, hidden_dim).hidden_dim == hidden_dim


def test_published_widths_get_their_published_numbers() -> None:
    seven, eight = (ModelArgs(dim=4096, n_layers=32, n_heads=32, vocab_size=1) for _ in range(2))
    assert with_hidden_dim(seven, 11008) == seven
    assert with_hidden_dim(eight, 14336) == replace(eight, multiple_of=1024, ffn_dim_multiplier=1.3)


def test_a_described_horizon_1_is_read_back_as_the_same_model() -> None:
    args = replace(ARGS, n_kv_heads=1, rope_theta=5e5, max_seq_len=64)
    config = config_from_params(args, tied=True, max_positions=64)
    plain = params_from_config(config)
    assert is_tied(config)
    assert plain.hidden_dim == args.hidden_dim
    assert replace(plain, multiple_of=8, ffn_dim_multiplier=None) == replace(args, n_layers=2, n_future_tokens=1)
