"""Floating-point operations of a step: matrix products and attention, a multiply-add counted as two.

Forward of a token: 2 for every weight of every block, 2 V D for every supervised (token, horizon) pair, and attention
over the token's own document only. Backward: twice the forward; for a frozen weight once (its input's gradient).
Not counted: norms, rotary angles, softmax, the optimizer (together below one per cent from width 1024 on).

`model` is what MFU counts (Chowdhery et al. 2022, appendix B, here with attention that ends with a document and is
causal): forward and backward of real tokens. Recomputed blocks, the pass without gradient, and the scoring actors'
work are kept apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.contracts import Int32, Int64
from wmtp_ray.model.spec import ModelSpec, Target
from wmtp_ray.model.value_spec import ValueSpec


@dataclass(frozen=True)
class Tokens:
    """What a batch asks for: its tokens, causal (query, key) pairs, and supervised (token, horizon) pairs.

    Rows of prompt 2, response 3 tokens and two horizons: 5 tokens, 1 + 2 + 3 + 4 + 5 = 15 causal pairs, and 3 + 3 = 6
    supervised pairs (each of three targets is predicted from one and from two tokens before).
    """

    tokens: int
    causal_pairs: int
    supervised_pairs: int

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.tokens + other.tokens,
            self.causal_pairs + other.causal_pairs,
            self.supervised_pairs + other.supervised_pairs,
        )


def count_tokens(
    prompt_tokens_N: Int32 | Int64, response_tokens_N: Int32 | Int64, num_horizons: int, window: int | None = None
) -> Tokens:
    """Count rows that are one document each; with a window a query has at most so many keys."""
    prompts_N, responses_N = np.asarray(prompt_tokens_N, np.int64), np.asarray(response_tokens_N, np.int64)
    lengths_N = prompts_N + responses_N
    seen_N = lengths_N if window is None else np.minimum(lengths_N, window)  # keys of the last query
    # The first target has `prompt` tokens before it, so a longer horizon misses the first targets of a short prompt.
    missed_HN = np.clip(np.arange(1, num_horizons + 1)[:, None] - prompts_N, 0, responses_N)
    return Tokens(
        tokens=int(lengths_N.sum()),
        causal_pairs=int((seen_N * (seen_N + 1) // 2 + (lengths_N - seen_N) * seen_N).sum()),
        supervised_pairs=int((responses_N - missed_HN).sum()),
    )


@dataclass(frozen=True)
class StepWork:
    """How a step computes; `adapter_parameters` above 0: the model is frozen below LoRA's adapters."""

    value: ValueSpec
    trains_value: bool
    activation_checkpointing: bool
    adapter_parameters: int
    looks_first: bool  # Rho-1 and surprisal: one more pass of the policy, without gradient


@dataclass(frozen=True)
class StepFlops:
    """FLOPs by part; the first five are the policy's."""

    blocks: float
    attention: float
    unembedding: float
    value_head: float
    backward: float
    recompute: float
    looking: float

    @property
    def forward(self) -> float:
        return self.blocks + self.attention + self.unembedding + self.value_head

    @property
    def model(self) -> float:
        """Forward and backward: what MFU counts."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        """All that the device of a rank computes."""
        return self.model + self.recompute + self.looking


def step_flops(size: ModelSpec, tokens: Tokens, work: StepWork) -> StepFlops:
    """Return the FLOPs of the policy's part of a step of stage 2, all ranks together."""
    frozen = 2.0 * size.n_layers * size.block_matrix_parameters * tokens.tokens
    adapters = 2.0 * work.adapter_parameters * tokens.tokens
    attention = _attention(size, tokens, size.n_layers)
    unembedding = 2.0 * size.table_parameters * tokens.supervised_pairs
    value_head = _value_head(size, tokens, work.value)
    weight_gradients = 1 if work.adapter_parameters else 2
    backward = weight_gradients * (frozen + unembedding) + 2 * (adapters + attention + work.trains_value * value_head)
    looking = frozen + adapters + attention + unembedding if work.looks_first else 0.0
    return StepFlops(
        blocks=frozen + adapters,
        attention=attention,
        unembedding=unembedding,
        value_head=value_head,
        backward=backward,
        recompute=frozen + adapters + attention if work.activation_checkpointing else 0.0,
        looking=looking + (_surprisal(size, tokens) if work.value.surprisal else 0.0),
    )


def critic_stage_flops(size: ModelSpec, tokens: Tokens, value: ValueSpec, *, train_trunk: bool) -> StepFlops:
    """Return the FLOPs of stage 1: the policy's whole trunk forward, backward through what is trained.

    A frozen trunk has no backward at all. Members with trunks of their own each read half of the rows, through no block
    but those below their head.
    """
    if value.trunks == "own":
        return _own_trunks_flops(size, tokens, value, train_trunk=train_trunk)
    blocks = 2.0 * size.num_trunk_blocks * size.block_matrix_parameters * tokens.tokens
    attention = _attention(size, tokens, size.num_trunk_blocks)
    value_head = _value_head(size, tokens, value)
    trained_frac = value.num_blocks(size.num_trunk_blocks) / size.num_trunk_blocks if train_trunk else 0.0
    return StepFlops(
        blocks=blocks,
        attention=attention,
        unembedding=0.0,
        value_head=value_head,
        backward=2 * (trained_frac * (blocks + attention) + value_head),
        recompute=0.0,
        looking=_surprisal(size, tokens) if value.surprisal else 0.0,
    )


def _own_trunks_flops(size: ModelSpec, tokens: Tokens, value: ValueSpec, *, train_trunk: bool) -> StepFlops:
    passes, member = value.members / 2, value.member
    num_blocks = value.num_blocks(size.num_trunk_blocks)
    more_blocks = value.critic_blocks(size.num_trunk_blocks) - num_blocks  # for the surprisal
    blocks = passes * 2.0 * num_blocks * size.block_matrix_parameters * tokens.tokens
    attention = passes * _attention(size, tokens, num_blocks)
    value_head = passes * _value_head(size, tokens, member)
    looking = 2.0 * more_blocks * size.block_matrix_parameters * tokens.tokens + _attention(size, tokens, more_blocks)
    looking += 2.0 * size.table_parameters * tokens.tokens
    return StepFlops(
        blocks=blocks,
        attention=attention,
        unembedding=0.0,
        value_head=value_head,
        backward=2 * (train_trunk * (blocks + attention) + value_head),
        recompute=0.0,
        looking=passes * looking if value.surprisal else 0.0,
    )


def scorer_flops(size: ModelSpec, tokens: Tokens, value: ValueSpec | None) -> float:
    """Return the FLOPs of scoring: a critic's forward (`value` given), or a reference's (None) with its losses."""
    if value is not None and value.trunks == "own":
        return value.members * scorer_flops(size, tokens, value.member)
    if value is None:
        blocks, unembedded = size.num_trunk_blocks + 1, True
    else:
        blocks, unembedded = value.critic_blocks(size.num_trunk_blocks), value.surprisal
    products = blocks * size.block_matrix_parameters + unembedded * size.table_parameters
    head = 0.0 if value is None else _value_head(size, tokens, value)
    return 2.0 * products * tokens.tokens + head + _attention(size, tokens, blocks)


def adapter_parameters(size: ModelSpec, rank: int | None, targets: Sequence[Target]) -> int:
    """Return LoRA's parameters, 0 where `rank` is None."""
    return 0 if rank is None else size.adapter_parameters(rank, tuple(targets))


def _attention(size: ModelSpec, tokens: Tokens, blocks: int) -> float:
    """Scores and mixing: 2 for every channel of the queries each, for every causal pair."""
    return 4.0 * size.query_dim * tokens.causal_pairs * blocks


def _value_head(size: ModelSpec, tokens: Tokens, value: ValueSpec) -> float:
    """Products of all heads, and the scores and the mixing of those that read the states before their own."""
    pools = value.members * value.pool_channels
    return 2.0 * value.head_weights(size.dim) * tokens.tokens + 4.0 * pools * tokens.causal_pairs


def _surprisal(size: ModelSpec, tokens: Tokens) -> float:
    """One prediction head and the unembedding of every token, without gradient."""
    one_head = 2.0 * size.block_matrix_parameters * tokens.tokens + _attention(size, tokens, 1)
    return one_head + 2.0 * size.table_parameters * tokens.tokens
