"""What other families add to a block: windows, scaled rotary positions, blocks without them, norms, biases."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.model.shapes import model_specs
from vendor.meta_llama import KVCache, ModelArgs, Transformer
from vendor.meta_llama.attention import RopeScaling, Window, causal_attention, windowed_attention
from wmtp_ray.model.spec import ModelSpec

ARGS = ModelArgs(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=23, n_future_tokens=3, multiple_of=8)
WINDOW = replace(ARGS, attention_window=3)


def random_model(args: ModelArgs) -> Transformer:
    """A model whose parameters all show in its output: no bias is zero, no norm is one."""
    model, generator = Transformer(args).requires_grad_(False), torch.Generator().manual_seed(0)
    model.init_weights(generator)
    for parameter in model.parameters():
        parameter.mul_(5.0).add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def random_tokens(args: ModelArgs, num_rows: int, length: int) -> Tensor:
    return torch.randint(args.vocab_size, (num_rows, length), generator=torch.Generator().manual_seed(1))


@settings(max_examples=30, deadline=None)
@given(args=model_specs(), chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_cached_decoding_in_any_chunks_equals_the_full_forward(args: ModelSpec, chunks: list[int]) -> None:
    model, tokens_BT = random_model(args).double(), random_tokens(args, 2, sum(chunks))
    cache = KVCache(args, batch_size=2, max_length=sum(chunks), num_horizons=args.n_future_tokens, dtype=torch.float64)
    parts = [model(chunk, cache.lengths[0], True, cache) for chunk in tokens_BT.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens_BT, return_all_heads=True))


@settings(max_examples=20, deadline=None)
@given(args=model_specs(), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_documents_of_a_flat_batch_are_rows(args: ModelSpec, lengths: list[int]) -> None:
    model, tokens_BT = random_model(args).double(), random_tokens(args, 1, sum(lengths))
    flat_BTD = model.trunk(tokens_BT, document_lengths=lengths)
    rows = [model.trunk(document_BT) for document_BT in tokens_BT.split(lengths, dim=1)]
    torch.testing.assert_close(flat_BTD, torch.cat(rows, dim=1))


@settings(max_examples=20, deadline=None)
@given(kept=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4))
def test_rows_that_keep_different_parts_of_each_pass_see_their_own_window(kept: list[list[int]]) -> None:
    model, tokens_BT = random_model(WINDOW).double(), random_tokens(WINDOW, 3, 16)
    full_BTHV = model(tokens_BT, return_all_heads=True)
    cache = KVCache(WINDOW, batch_size=3, max_length=16, num_horizons=3, dtype=torch.float64)
    for rows in kept:
        starts = list(cache.lengths)
        fed_BT = torch.stack([row[start : start + 3] for row, start in zip(tokens_BT, starts, strict=True)])
        h_BTD = model.trunk(fed_BT, cache=cache)
        last_B1 = torch.tensor([[2], [0], [1]])
        read_BHV = model.output(model.heads_hidden_at(last_B1, h_BTD, (1, 2, 3), cache=cache))
        for row, (start, position) in enumerate(zip(starts, (2, 0, 1), strict=True)):
            torch.testing.assert_close(read_BHV[row], full_BTHV[row, start + position])
        cache.advance(rows)


@given(window=st.integers(1, 7), length=st.integers(1, 23), kv_heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_window_is_itself_and_the_positions_before_it(window: int, length: int, kv_heads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (
        torch.randn(2, heads, length, 6, dtype=torch.float64, generator=generator) for heads in (4, kv_heads, kv_heads)
    )
    expected = torch.stack(
        [
            causal_attention(
                queries[:, :, position : position + 1],
                keys[:, :, max(0, position - window + 1) : position + 1],
                values[:, :, max(0, position - window + 1) : position + 1],
            )[:, :, 0]
            for position in range(length)
        ],
        dim=2,
    )
    torch.testing.assert_close(windowed_attention(queries, keys, values, Window(window)), expected)


def test_the_picture_of_a_window_is_its_mask() -> None:
    sees = Window(3).mask_TK(torch.float32, torch.device("cpu")) == 0
    assert sees.int().tolist() == [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_a_window_that_nothing_is_longer_than_is_none() -> None:
    model, plain = (random_model(args) for args in (replace(ARGS, attention_window=6), ARGS))
    tokens_BT, lengths = random_tokens(ARGS, 1, 12), (6, 6)
    assert torch.equal(
        model.trunk(tokens_BT, document_lengths=lengths), plain.trunk(tokens_BT, document_lengths=lengths)
    )
    assert not torch.allclose(model.trunk(tokens_BT), plain.trunk(tokens_BT), atol=1e-2)


def test_scaled_frequencies_are_those_of_a_loop() -> None:
    """LLaMA 3.1's rule, spelled out: 8 times slower below one turn in 64 positions, as before above 4 turns."""
    scaling = RopeScaling(factor=8.0, bands=(1.0, 4.0, 64))
    frequencies = [1.0, 0.5, 0.3, 0.1, 0.05, 0.01]
    expected = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < 64 / 4.0:
            expected.append(frequency)
        elif wavelength > 64 / 1.0:
            expected.append(frequency / 8.0)
        else:
            smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    kinds = [found / frequency for found, frequency in zip(expected, frequencies, strict=True)]
    assert kinds[0] == kinds[1] == 1.0
    assert 0.125 < kinds[2] < 1.0
    assert kinds[-1] == 0.125
    found = scaling.scaled(torch.tensor(frequencies, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    linear = RopeScaling(factor=4.0, bands=None).scaled(torch.tensor([1.0, 0.5]))
    assert linear.tolist() == [0.25, 0.125]


def test_a_block_without_rotary_positions_sees_an_order_and_no_distances() -> None:
    args = replace(ARGS, blocks_without_rope=tuple(range(ARGS.n_layers)))
    model, tokens_BT = random_model(args), random_tokens(args, 1, 8)
    spread_BT = torch.tensor([[0, 5, 9, 40, 41, 90, 100, 200]])
    assert torch.equal(model.trunk(tokens_BT, positions_BT=spread_BT), model.trunk(tokens_BT))
    rotated = random_model(ARGS)
    assert not torch.allclose(rotated.trunk(tokens_BT, positions_BT=spread_BT), rotated.trunk(tokens_BT), atol=1e-2)


def test_blocks_are_counted_through_trunk_and_heads() -> None:
    model = Transformer(replace(ARGS, blocks_without_rope=(1, 2, 4)))
    assert [block.attention.rotary for block in model.layers] == [True, False, False]
    assert [block.attention.rotary for block in model.extra_heads] == [True, False]


def test_fresh_biases_are_zero_and_fresh_norms_one() -> None:
    args = replace(ARGS, qkv_bias=True, attention_output_bias=True, mlp_bias=True, query_key_norm="head")
    for name, parameter in Transformer(args).named_parameters():
        if name.endswith(".bias"):
            assert parameter.eq(0.0).all()
        if "norm" in name:
            assert parameter.eq(1.0).all()


@pytest.mark.parametrize("norm", ["head", "width"])
def test_norms_of_queries_and_keys_keep_half_precision(norm: str) -> None:
    """Their weights are float32 under autocast; queries in float32 would not reach the kernels for half precision."""
    model = Transformer(replace(ARGS, query_key_norm=norm))
    seen: list[torch.dtype] = []
    model.layers[0].attention.q_norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.trunk(random_tokens(ARGS, 1, 4))
    assert seen == [torch.bfloat16]


def test_gradients_pass_activation_checkpoints_and_windows() -> None:
    args = replace(WINDOW, query_key_norm="head", qkv_bias=True, norm_after=True)
    model, tokens_BT, gradients = random_model(args).requires_grad_(True).train(), random_tokens(args, 1, 10), []
    for model.activation_checkpointing in (False, True):
        model.zero_grad()
        model(tokens_BT, return_all_heads=True).logsumexp(-1).square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)
        assert float(gradient.abs().max()) > 0, name


def test_a_window_that_was_first_used_for_inference_has_a_gradient_later() -> None:
    model, tokens_BT = random_model(replace(ARGS, attention_window=4)), random_tokens(ARGS, 1, 9)
    with torch.inference_mode():
        model.trunk(tokens_BT)
    model.requires_grad_(True).trunk(tokens_BT).sum().backward()
    assert model.layers[0].attention.wq.weight.grad is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_variable_length_kernel_has_the_same_window() -> None:
    args = replace(ARGS, dim=64, attention_window=5)
    model = Transformer(args).to("cuda", torch.bfloat16).requires_grad_(False)
    tokens_BT = torch.randint(args.vocab_size, (1, 24), device="cuda")
    documents = [model.trunk(document) for document in tokens_BT.split((4, 20), dim=1)]
    flat = model.trunk(tokens_BT, document_lengths=(4, 20))
    torch.testing.assert_close(flat, torch.cat(documents, dim=1), rtol=0.05, atol=0.05)
