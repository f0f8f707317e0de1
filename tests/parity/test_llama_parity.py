"""The vendored model against a LLaMA written out in plain loops, in float64, from its definition.

Rotary positions multiply complex numbers one by one; attention is a loop over heads and positions.
"""

import cmath
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vendor.meta_llama import ModelArgs, Transformer

BASE = ModelArgs(dim=32, n_layers=5, n_heads=4, vocab_size=19, n_future_tokens=3, multiple_of=8)
VARIANTS = {
    "plain": BASE,
    "grouped_queries": replace(BASE, n_kv_heads=2),
    "one_kv_head": replace(BASE, n_kv_heads=1),
    "wide_feed_forward": replace(BASE, ffn_dim_multiplier=1.3, multiple_of=16),
    "long_rope": replace(BASE, rope_theta=500_000.0, norm_eps=1e-6),
    "one_horizon": replace(BASE, n_future_tokens=1),
    "empty_trunk": replace(BASE, n_layers=3),
}


def _model(args: ModelArgs) -> Transformer:
    model = Transformer(args)
    model.init_weights(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that every part of the model is visible in the logits
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.double()


def _norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x_D / math.sqrt(float((x_D * x_D).sum()) / len(x_D) + eps) * weight_D


def _rotated(x_C: Tensor, position: int, theta: float) -> Tensor:
    numbers = x_C.tolist()
    rotated: list[float] = []
    for pair in range(len(numbers) // 2):
        angle = position * theta ** (-2 * pair / len(numbers))
        turned = complex(numbers[2 * pair], numbers[2 * pair + 1]) * cmath.exp(1j * angle)
        rotated += [turned.real, turned.imag]
    return torch.tensor(rotated, dtype=torch.float64)


def _plain_block(weights: dict[str, Tensor], prefix: str, h_TD: Tensor, args: ModelArgs) -> Tensor:
    def weight(name: str) -> Tensor:
        return weights[f"{prefix}.{name}.weight"]

    channels = args.dim // args.n_heads
    group = args.n_heads // (args.n_kv_heads or args.n_heads)
    x_TD = torch.stack([_norm(h, weight("attention_norm"), args.norm_eps) for h in h_TD])
    queries, keys, values = (x_TD @ weight(f"attention.{name}").T for name in ("wq", "wk", "wv"))
    mixed_TD = torch.zeros(len(h_TD), args.dim, dtype=torch.float64)
    for head in range(args.n_heads):
        own = slice(head * channels, (head + 1) * channels)
        shared = slice(head // group * channels, (head // group + 1) * channels)
        for t in range(len(h_TD)):
            query = _rotated(queries[t, own], t, args.rope_theta)
            scores = [float(query @ _rotated(keys[s, shared], s, args.rope_theta)) for s in range(t + 1)]
            shares = torch.tensor(scores, dtype=torch.float64).div(math.sqrt(channels)).softmax(0)
            mixed_TD[t, own] = sum(share * values[s, shared] for s, share in enumerate(shares))
    h_TD = h_TD + mixed_TD @ weight("attention.wo").T
    x_TD = torch.stack([_norm(h, weight("ffn_norm"), args.norm_eps) for h in h_TD])
    gate_TD = x_TD @ weight("feed_forward.w1").T
    return h_TD + (gate_TD * gate_TD.sigmoid() * (x_TD @ weight("feed_forward.w3").T)) @ weight("feed_forward.w2").T


def _plain_llama(weights: dict[str, Tensor], blocks: list[str], tokens_T: Tensor, args: ModelArgs) -> Tensor:
    """Return logits [T, V] of an ordinary LLaMA made of the named blocks."""
    h_TD = weights["tok_embeddings.weight"][tokens_T]
    for prefix in blocks:
        h_TD = _plain_block(weights, prefix, h_TD, args)
    return torch.stack([_norm(h, weights["norm.weight"], args.norm_eps) for h in h_TD]) @ weights["output.weight"].T


@pytest.mark.parametrize("args", VARIANTS.values(), ids=VARIANTS.keys())
def test_each_horizon_equals_a_plain_llama_with_its_own_last_block(args: ModelArgs) -> None:
    model = _model(args)
    tokens_BT = torch.randint(args.vocab_size, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits_BTHV = model(tokens_BT, return_all_heads=True)
        next_BTHV = model(tokens_BT)
    weights = dict(model.state_dict())
    trunk = [f"layers.{i}" for i in range(args.n_layers - args.n_future_tokens)]
    heads = [f"layers.{len(trunk)}", *(f"extra_heads.{k - 2}" for k in range(2, args.n_future_tokens + 1))]
    assert logits_BTHV.shape == (2, 7, len(heads), args.vocab_size)
    for horizon, head in enumerate(heads):
        for row in range(2):
            expected_TV = _plain_llama(weights, [*trunk, head], tokens_BT[row], args)
            torch.testing.assert_close(logits_BTHV[row, :, horizon], expected_TV, rtol=1e-9, atol=1e-9)
    assert torch.equal(next_BTHV, logits_BTHV[:, :, :1])


def test_state_dict_holds_metas_names_only() -> None:
    block = ["attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2"]
    block += ["feed_forward.w3", "attention_norm", "ffn_norm"]
    prefixes = ["layers.0", "layers.1", "layers.2", "extra_heads.0", "extra_heads.1"]
    expected = {"tok_embeddings.weight", "norm.weight", "output.weight"}
    expected |= {f"{prefix}.{name}.weight" for prefix in prefixes for name in block}
    assert set(Transformer(BASE).state_dict()) == expected


def test_feed_forward_width_follows_the_multiplier_and_rounds_up() -> None:
    assert ModelArgs(dim=4096, n_layers=32, n_heads=32, vocab_size=32000).hidden_dim == 11008
    eight_billion = ModelArgs(
        dim=4096, n_layers=32, n_heads=32, vocab_size=128256, ffn_dim_multiplier=1.3, multiple_of=1024
    )
    assert eight_billion.hidden_dim == 14336


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_documents_equal_separate_forwards(dtype: torch.dtype) -> None:
    model = _model(replace(BASE, n_kv_heads=2)).to(dtype)
    lengths = (4, 1, 6, 4)
    tokens_BT = torch.randint(19, (1, sum(lengths)), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        h_BTD = model.trunk(tokens_BT, document_lengths=lengths)
        flat = [model.head_hidden(h_BTD, k, document_lengths=lengths) for k in (1, 2, 3)]
        alone = [
            [model.head_hidden(model.trunk(document), k) for document in tokens_BT.split(lengths, dim=1)]
            for k in (1, 2, 3)
        ]
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    for k in range(3):
        torch.testing.assert_close(flat[k], torch.cat(alone[k], dim=1), rtol=tolerance, atol=tolerance)


def test_right_padding_changes_nothing_before_it() -> None:
    model = _model(BASE).float()
    tokens_BT = torch.randint(19, (2, 9), generator=torch.Generator().manual_seed(4))
    padded_BT = tokens_BT.clone()
    padded_BT[0, 5:] = 0
    with torch.no_grad():
        whole, padded = model(tokens_BT, return_all_heads=True), model(padded_BT, return_all_heads=True)
    torch.testing.assert_close(padded[0, :5], whole[0, :5], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(padded[0, 5:], whole[0, 5:])
