from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vendor.meta_llama import KVCache, ModelArgs, Transformer

ARGS = ModelArgs(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=23, n_future_tokens=3, multiple_of=8)


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ARGS)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    return model


@pytest.fixture(scope="module")
def tokens_BT() -> Tensor:
    return torch.randint(ARGS.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


@settings(max_examples=20, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_cached_decoding_in_any_chunks_equals_the_full_forward(chunks: list[int]) -> None:
    model = Transformer(ARGS).requires_grad_(False)
    tokens_BT = torch.randint(ARGS.vocab_size, (2, sum(chunks)), generator=torch.Generator().manual_seed(1))
    cache = KVCache(ARGS, batch_size=2, max_length=sum(chunks), num_horizons=3)
    parts = [model(chunk, cache.lengths[0], True, cache) for chunk in tokens_BT.split(chunks, dim=1)]
    expected = model(tokens_BT, return_all_heads=True)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_a_cache_is_not_advanced_over_is_forgotten(model: Transformer, tokens_BT: Tensor) -> None:
    cache = KVCache(ARGS, batch_size=2, max_length=12, num_horizons=3)
    model(tokens_BT[:, :6], 0, True, cache)
    h_BTD = model.trunk((tokens_BT[:, 6:9] + 1) % ARGS.vocab_size, cache=cache)
    for horizon in (1, 2, 3):
        model.head_hidden(h_BTD, horizon, cache=cache)
    rest = model(tokens_BT[:, 6:], 6, True, cache)
    torch.testing.assert_close(rest, model(tokens_BT, return_all_heads=True)[:, 6:], rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    passes=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=3, max_size=3), min_size=1, max_size=5
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    whole=st.booleans(),
)
@torch.no_grad()
def test_rows_that_keep_different_parts_of_each_pass_equal_full_forwards(
    passes: list[list[tuple[int, int]]], dtype: torch.dtype, whole: bool
) -> None:
    """Every pass feeds 3 tokens a row; row b keeps `passes[pass][b][0]` of them and is fed on from there.

    Heads are read at all of the 3 or, by `heads_hidden_at`, at `passes[pass][b][1]` alone. In the end the cache is
    that of a pass over what each row kept.
    """
    model = Transformer(ARGS).to(dtype)
    tokens_BT = torch.randint(ARGS.vocab_size, (3, 20), generator=torch.Generator().manual_seed(2))
    full_BTHV = model(tokens_BT, return_all_heads=True)
    cache = KVCache(ARGS, batch_size=3, max_length=20, num_horizons=3, dtype=dtype)
    for rows in passes:
        starts = list(cache.lengths)
        window_BT = torch.stack([row[start : start + 3] for row, start in zip(tokens_BT, starts, strict=True)])
        h_BTD = model.trunk(window_BT, cache=cache)
        if whole:
            hidden = [model.head_hidden(h_BTD, horizon, cache=cache) for horizon in (1, 2, 3)]
            found_BTHV = model.output(torch.stack(hidden, dim=2))
            wanted = [slice(start, start + 3) for start in starts]
        else:
            read_B1 = torch.tensor([[read] for _, read in rows])
            found_BTHV = model.output(model.heads_hidden_at(read_B1, h_BTD, (1, 2, 3), cache=cache))[:, None]
            wanted = [slice(start + read, start + read + 1) for start, (_, read) in zip(starts, rows, strict=True)]
        expected_BTHV = torch.stack([full_BTHV[row, span] for row, span in enumerate(wanted)])
        torch.testing.assert_close(found_BTHV, expected_BTHV, rtol=1e-4, atol=1e-5)
        cache.advance([kept for kept, _ in rows])
    for row, length in enumerate(cache.lengths):
        fresh = KVCache(ARGS, batch_size=1, max_length=20, num_horizons=3, dtype=dtype)
        model(tokens_BT[row : row + 1, :length], 0, True, fresh)
        for block, expected in zip(cache.blocks, fresh.blocks, strict=True):
            torch.testing.assert_close(block.keys_BTNC[row, :length], expected.keys_BTNC[0, :length])
            torch.testing.assert_close(block.values_BTNC[row, :length], expected.values_BTNC[0, :length])


@torch.no_grad()
def test_a_row_copied_from_another_cache_goes_on_there(model: Transformer, tokens_BT: Tensor) -> None:
    source = KVCache(ARGS, batch_size=1, max_length=7, num_horizons=3)
    model(tokens_BT[1:, :7], 0, True, source)
    target = KVCache(ARGS, batch_size=2, max_length=12, num_horizons=3)
    model(tokens_BT[:1, :9], 0, True, target)
    target.copy_row(1, source, 0)
    assert target.lengths == [9, 7]
    target.copy_row(0, target, 1)
    again = torch.stack([tokens_BT[1, 7:], tokens_BT[1, 7:]])
    expected_THV = model(tokens_BT[1:], return_all_heads=True)[0, 7:]
    torch.testing.assert_close(model(again, 7, True, target), expected_THV.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_head_of_a_cache_lags_behind(model: Transformer, tokens_BT: Tensor) -> None:
    """Asked for horizon 1 alone, a pass still fills the other heads that the cache was made for."""
    cache = KVCache(ARGS, batch_size=2, max_length=12, num_horizons=3)
    assert model(tokens_BT[:, :4], cache=cache).shape[2] == 1
    rest = model(tokens_BT[:, 4:], 4, True, cache)
    torch.testing.assert_close(rest, model(tokens_BT, return_all_heads=True)[:, 4:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_misused_caches_are_refused(model: Transformer, tokens_BT: Tensor) -> None:
    with pytest.raises(ValueError, match="start_pos is 3"):
        model(tokens_BT, start_pos=3)
    with pytest.raises(ValueError, match="holds 8 positions, 12"):
        model(tokens_BT, cache=KVCache(ARGS, batch_size=2, max_length=8))
    with pytest.raises(ValueError, match="made for 1 horizons"):
        model(tokens_BT, return_all_heads=True, cache=KVCache(ARGS, batch_size=2, max_length=12))


@torch.no_grad()
def test_positions_far_beyond_any_table_are_computed(model: Transformer) -> None:
    """Rotary attention sees differences of positions only, so a shifted document gives the same states."""
    tokens_BT = torch.arange(10)[None]
    shifted_BT = 5000 + torch.arange(10)[None]
    shifted = model.trunk(tokens_BT, positions_BT=shifted_BT)
    torch.testing.assert_close(shifted, model.trunk(tokens_BT), rtol=1e-2, atol=1e-2)
    swapped_BT = torch.arange(10).flip(0)[None]
    assert not torch.allclose(model.trunk(tokens_BT, positions_BT=swapped_BT), model.trunk(tokens_BT), atol=0.1)


@torch.no_grad()
def test_trunk_continues_where_a_partial_trunk_stopped(model: Transformer, tokens_BT: Tensor) -> None:
    lower_BTD = model.trunk(tokens_BT, num_blocks=1)
    assert torch.equal(model.trunk_above(lower_BTD, 1), model.trunk(tokens_BT))
    assert torch.equal(model.trunk(tokens_BT, num_blocks=0), model.tok_embeddings(tokens_BT))


def _gradients(model: Transformer, tokens_BT: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(tokens_BT, return_all_heads=True).logsumexp(-1).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_reaches_every_parameter_from_all_heads(model: Transformer, tokens_BT: Tensor) -> None:
    gradients = _gradients(model, tokens_BT)
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients.values())


def test_activation_checkpointing_changes_memory_and_not_gradients(model: Transformer, tokens_BT: Tensor) -> None:
    plain = _gradients(model, tokens_BT)
    calls: list[int] = []
    handle = model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.activation_checkpointing = True
    try:
        recomputed = _gradients(model, tokens_BT)
    finally:
        model.activation_checkpointing = False
        handle.remove()
    assert len(calls) == 2  # forward, and again in the backward pass
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-8)


def test_future_tokens_reach_no_earlier_state(model: Transformer) -> None:
    embedded: list[Tensor] = []
    handle = model.tok_embeddings.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    h_BTD = model.trunk(torch.arange(6)[None], document_lengths=(4, 2))
    handle.remove()
    (gradient_BTD,) = torch.autograd.grad(h_BTD[0, 2].sum(), embedded)
    assert gradient_BTD[0, :3].abs().sum(-1).gt(0).all()
    assert gradient_BTD[0, 3:].eq(0).all()
    second = model.trunk(torch.arange(6)[None], document_lengths=(4, 2))[0, 4:]
    torch.testing.assert_close(second, model.trunk(torch.arange(4, 6)[None])[0], rtol=1e-5, atol=1e-5)


def test_init_is_the_callers_generators_and_scales_residual_projections() -> None:
    args = replace(ARGS, dim=128, n_layers=10)
    one, two = Transformer(args), Transformer(args)
    one.init_weights(torch.Generator().manual_seed(7))
    two.init_weights(torch.Generator().manual_seed(7))
    state = one.state_dict()
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in state.items())
    assert float(state["layers.0.attention.wq.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["extra_heads.0.feed_forward.w2.weight"].std()) == pytest.approx(0.02 / 16**0.5, rel=0.05)
    assert float(state["norm.weight"].std()) == 0.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"n_heads": 5}, "does not divide dim"),
        ({"n_kv_heads": 3}, "n_kv_heads 3"),
        ({"n_future_tokens": 6}, "not in 1..n_layers"),
        ({"dim": 12}, "is odd"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ARGS, **changed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_variable_length_kernel_equals_the_loop_over_documents() -> None:
    model = Transformer(replace(ARGS, dim=64)).to("cuda", torch.bfloat16).requires_grad_(False)
    tokens_BT = torch.randint(ARGS.vocab_size, (1, 11), device="cuda")
    documents = [model.trunk(document) for document in tokens_BT.split((4, 7), dim=1)]
    flat = model.trunk(tokens_BT, document_lengths=(4, 7))
    torch.testing.assert_close(flat, torch.cat(documents, dim=1), rtol=0.05, atol=0.05)
