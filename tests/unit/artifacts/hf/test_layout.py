from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.hf.layout import (
    half_split_rows,
    hf_name,
    interleaved_rows,
    meta_name,
    with_hidden_dim,
)
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

ARGS = ModelSpec(dim=16, n_layers=4, n_heads=2, vocab_size=11, n_future_tokens=3, multiple_of=8)


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


@given(dim=st.integers(1, 20000), hidden_dim=st.integers(1, 100000))
def test_every_width_of_the_feed_forward_is_expressed_exactly(dim: int, hidden_dim: int) -> None:
    args = ModelSpec(dim=2 * dim, n_layers=1, n_heads=1, vocab_size=1)
    assert with_hidden_dim(args, hidden_dim).hidden_dim == hidden_dim


def test_published_widths_get_their_published_numbers() -> None:
    seven, eight = (ModelSpec(dim=4096, n_layers=32, n_heads=32, vocab_size=1) for _ in range(2))
    assert with_hidden_dim(seven, 11008) == seven
    assert with_hidden_dim(eight, 14336) == replace(eight, multiple_of=1024, ffn_dim_multiplier=1.3)
