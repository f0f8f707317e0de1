"""A trainable LLaMA with several prediction heads, under Meta's class names, parameter names and params.json contract.

Our own definition, not Meta's code. It does not shard itself, does not know about losses or batches of the trainer, and
has no buffers: its `state_dict` holds Meta's names and nothing else. The layout is `objective.md`, "Multi-token model":

    n_layers = 7, n_future_tokens = 4
    layers.0  layers.1  layers.2  |  layers.3   extra_heads.0  extra_heads.1  extra_heads.2
    trunk (3 blocks)              |  horizon 1  horizon 2      horizon 3      horizon 4

Every prediction head reads the same trunk output; `norm` and `output` are shared by all of them.

Shape suffixes: B sequences, T positions, 1 one position or axis, H horizons, V vocabulary, D model width, N attention
heads, C channels of one head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vendor.meta_llama.attention import (
    RopeScaling,
    SequenceContext,
    apply_rotary,
    document_attention,
    row_attention,
    sequence_context,
)
from vendor.meta_llama.cache import KVCache as KVCache
from vendor.meta_llama.cached_span import BlockCache
from vendor.model_args import ModelArgs as ModelArgs

INIT_STD = 0.02


class RMSNorm(nn.Module):
    """Scale to unit root mean square; computed in float32 or wider, whatever the input's dtype."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        wide = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        return F.rms_norm(wide, (wide.shape[-1],), eps=self.eps).to(x_BTD.dtype) * self.weight


class QueryKeyNorm(nn.Module):
    """RMS norm of the heads of queries or keys [B, T, N, C], each by itself or all together, in the input's dtype."""

    def __init__(self, args: ModelArgs, num_heads: int):
        super().__init__()
        self.eps = args.norm_eps
        self.over_width = args.query_key_norm == "width"
        self.weight = nn.Parameter(torch.ones(args.head_dim * (num_heads if self.over_width else 1)))

    def forward(self, x_BTNC: Tensor) -> Tensor:
        normed = x_BTNC.flatten(-2) if self.over_width else x_BTNC
        wide = normed.to(torch.promote_types(x_BTNC.dtype, torch.float32))
        scaled = F.rms_norm(wide, (wide.shape[-1],), eps=self.eps).to(x_BTNC.dtype) * self.weight
        return scaled.view(x_BTNC.shape).to(x_BTNC.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and `n_kv_heads` shared key/value heads.

    `rotary` False: queries and keys are not rotated, so that attention sees no positions but their order.
    """

    def __init__(self, args: ModelArgs, *, rotary: bool = True):
        super().__init__()
        self.head_dim = args.head_dim
        self.rotary = rotary
        self.wq = nn.Linear(args.dim, args.query_dim, bias=args.qkv_bias)
        self.wk = nn.Linear(args.dim, args.kv_dim, bias=args.qkv_bias)
        self.wv = nn.Linear(args.dim, args.kv_dim, bias=args.qkv_bias)
        self.wo = nn.Linear(args.query_dim, args.dim, bias=args.attention_output_bias)
        self.normed = args.query_key_norm is not None
        if self.normed:
            self.q_norm = QueryKeyNorm(args, args.n_heads)
            self.k_norm = QueryKeyNorm(args, args.num_kv_heads)

    def forward(self, x_BTD: Tensor, context: SequenceContext, cache: BlockCache | None = None) -> Tensor:
        inputs = ((self.wq, context.read(x_BTD)), (self.wk, x_BTD), (self.wv, x_BTD))
        queries, keys, values = (projection(x).unflatten(-1, (-1, self.head_dim)) for projection, x in inputs)
        if self.normed:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if self.rotary:
            queries = apply_rotary(queries, *context.query_angles)
            keys = apply_rotary(keys, context.cos_BT1C, context.sin_BT1C)
        mask = None
        if cache is not None:
            assert context.cached is not None
            keys, values = cache.store(keys, values, context.cached)
            mask = context.cached.mask_B1TK
        queries, keys, values = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        if context.document_lengths is None:
            mixed_BNTC = row_attention(queries, keys, values, context.window, mask)
        else:
            mixed_BNTC = document_attention(queries, keys, values, context)
        return self.wo(mixed_BNTC.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.w1 = nn.Linear(args.dim, args.hidden_dim, bias=args.mlp_bias)
        self.w2 = nn.Linear(args.hidden_dim, args.dim, bias=args.mlp_bias)
        self.w3 = nn.Linear(args.dim, args.hidden_dim, bias=args.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x_BTD)) * self.w3(x_BTD))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream; norms before them, or `norm_after` them.

    `rotary` as in `Attention`.
    """

    def __init__(self, args: ModelArgs, *, rotary: bool = True):
        super().__init__()
        self.norm_after = args.norm_after
        self.attention = Attention(args, rotary=rotary)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, h_BTD: Tensor, context: SequenceContext, cache: BlockCache | None = None) -> Tensor:
        if self.norm_after:
            h_BTD = context.read(h_BTD) + self.attention_norm(self.attention(h_BTD, context, cache))
            return h_BTD + self.ffn_norm(self.feed_forward(h_BTD))  # type: ignore[no-any-return]
        h_BTD = context.read(h_BTD) + self.attention(self.attention_norm(h_BTD), context, cache)
        return h_BTD + self.feed_forward(self.ffn_norm(h_BTD))  # type: ignore[no-any-return]


def transformer_blocks(args: ModelArgs, first: int, count: int) -> nn.ModuleList:
    """Build the blocks `first` .. `first` + `count` - 1 of a model, counted through trunk and prediction heads."""
    without_rope = set(args.blocks_without_rope)
    return nn.ModuleList(
        TransformerBlock(args, rotary=block not in without_rope) for block in range(first, first + count)
    )


def run_blocks(
    blocks: Sequence[nn.Module],
    h_BTD: Tensor,
    context: SequenceContext,
    *,
    caches: Sequence[BlockCache] | None = None,
    recompute: bool = False,
) -> Tensor:
    """Apply the blocks in turn; `recompute` drops each block's activations and computes them again for the gradient."""
    for index, block in enumerate(blocks):
        if recompute and torch.is_grad_enabled():
            h_BTD = checkpoint(block, h_BTD, context, use_reentrant=False)
        else:
            h_BTD = block(h_BTD, context, None if caches is None else caches[index])
    return h_BTD


class Transformer(nn.Module):
    """The multi-token model. Training reads `trunk` and `head_hidden`; `forward` materialises logits.

    `activation_checkpointing` (off at first) recomputes each block in the backward pass while in training mode.
    """

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.args = args
        self.activation_checkpointing = False
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim)
        self.rope_scaling = RopeScaling.of(args)
        self.layers = transformer_blocks(args, 0, args.num_trunk_blocks + 1)
        self.extra_heads = transformer_blocks(args, args.num_trunk_blocks + 1, args.n_future_tokens - 1)
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = nn.Linear(args.dim, args.vocab_size, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw weights for training from scratch: normal 0.02; projections onto the residual stream / sqrt(2 depth).

        Norms are 1, biases 0.
        """
        residual_std = INIT_STD / (2 * len(self.layers)) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                residual = name.endswith(("wo.weight", "w2.weight"))
                parameter.normal_(0.0, residual_std if residual else INIT_STD, generator=generator)

    @property
    def num_trunk_blocks(self) -> int:
        return self.args.num_trunk_blocks

    def prediction_heads(self) -> list[nn.Module]:
        """Return the heads' blocks by horizon: [layers[-1], *extra_heads]."""
        return [self.layers[-1], *self.extra_heads]

    def trunk(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        document_lengths: Sequence[int] | None = None,
        num_blocks: int | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the residual stream [B, T, D] above the lowest `num_blocks` trunk blocks (all of them by default).

        With a cache the tokens go on behind the first B rows it holds; it is the caller who advances it. With
        `document_lengths` B is 1 and attention stays inside each document.
        """
        h_BTD = self.tok_embeddings(tokens_BT)
        caches = None if cache is None else cache.blocks
        context = self._context(h_BTD, positions_BT, document_lengths, cache)
        num_blocks = self.num_trunk_blocks if num_blocks is None else num_blocks
        assert 0 <= num_blocks <= self.num_trunk_blocks
        blocks = list(self.layers)[:num_blocks]
        return run_blocks(blocks, h_BTD, context, caches=caches, recompute=self._recompute)

    def trunk_above(
        self,
        h_BTD: Tensor,
        first_block: int,
        *,
        positions_BT: Tensor | None = None,
        document_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Run the rest of the trunk on what `trunk(..., num_blocks=first_block)` returned."""
        context = self._context(h_BTD, positions_BT, document_lengths)
        blocks = list(self.layers)[first_block : self.num_trunk_blocks]
        return run_blocks(blocks, h_BTD, context, recompute=self._recompute)

    def head_hidden(
        self,
        h_trunk_BTD: Tensor,
        horizon: int,
        *,
        positions_BT: Tensor | None = None,
        document_lengths: Sequence[int] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return norm(head(h_trunk)) [B, T, D] of one horizon (1 = next token), which `output` turns into logits.

        With a cache it is the pass that `trunk` ran, before the cache is advanced.
        """
        assert 1 <= horizon <= self.args.n_future_tokens
        block_cache = None if cache is None else cache.head(horizon)
        context = self._context(h_trunk_BTD, positions_BT, document_lengths, cache)
        head = self.prediction_heads()[horizon - 1]
        caches = None if block_cache is None else [block_cache]
        hidden_BTD = run_blocks([head], h_trunk_BTD, context, caches=caches, recompute=self._recompute)
        return self.norm(hidden_BTD)  # type: ignore[no-any-return]

    def heads_hidden_at(
        self, read_B1: Tensor, h_trunk_BTD: Tensor, horizons: Sequence[int], *, cache: KVCache
    ) -> Tensor:
        """Return norm(head(h_trunk)) [B, H, D] of several horizons at one position of each row, counted in this pass.

        The heads' caches are filled at all T positions, which takes keys and values alone.
        """
        context = self._context(h_trunk_BTD, None, None, cache).reading(read_B1)
        heads = self.prediction_heads()
        hidden = [run_blocks([heads[k - 1]], h_trunk_BTD, context, caches=[cache.head(k)]) for k in horizons]
        return self.norm(torch.cat(hidden, dim=1))  # type: ignore[no-any-return]

    def forward(
        self, tokens_BT: Tensor, start_pos: int = 0, return_all_heads: bool = False, cache: KVCache | None = None
    ) -> Tensor:
        """Return logits [B, T, H, V], or [B, T, 1, V] of horizon 1 alone.

        `logits[b, t, k-1]` predicts token t + k. With a cache the tokens stand at start_pos, start_pos + 1, ...; it is
        the number of positions that each of the rows holds, else ValueError. The cache is advanced over the tokens,
        with all the heads it was made for.
        """
        num_rows, num_positions = tokens_BT.shape
        filled = {0} if cache is None else set(cache.lengths[:num_rows])
        if filled != {start_pos}:
            raise ValueError(f"start_pos is {start_pos}, but the cache holds {sorted(filled)} positions")
        h_BTD = self.trunk(tokens_BT, cache=cache)
        num_horizons = self.args.n_future_tokens if return_all_heads else 1
        num_run = num_horizons if cache is None else max(num_horizons, cache.num_horizons)
        hidden = [self.head_hidden(h_BTD, horizon, cache=cache) for horizon in range(1, num_run + 1)]
        if cache is not None:
            cache.advance([num_positions] * num_rows)
        return torch.stack([self.output(hidden_BTD) for hidden_BTD in hidden[:num_horizons]], dim=2)

    @property
    def _recompute(self) -> bool:
        return self.activation_checkpointing and self.training

    def _context(
        self,
        h_BTD: Tensor,
        positions_BT: Tensor | None,
        document_lengths: Sequence[int] | None,
        cache: KVCache | None = None,
    ) -> SequenceContext:
        if cache is not None:
            assert positions_BT is None, "cached rows know their positions"
            assert document_lengths is None, "a cache holds rows of a batch, not flat documents"
            return cache.context(*h_BTD.shape[:2])
        return sequence_context(
            h_BTD,
            head_dim=self.args.head_dim,
            rope_theta=self.args.rope_theta,
            positions_BT=positions_BT,
            document_lengths=document_lengths,
            rope_scaling=self.rope_scaling,
            window=self.args.attention_window,
        )
