"""FLOPs against torch's own counter, and token counts against loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.estimate.flops import (
    StepWork,
    Tokens,
    count_tokens,
    critic_stage_flops,
    scorer_flops,
    step_flops,
)
from wmtp_ray.training.throughput import measured_peak_flops, tokens_of

ARGS = ModelArgs(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=60, n_future_tokens=2, multiple_of=8)
SIZE = ModelSpec.of(ARGS)
LINEAR = ValueSpec("linear", 1.0, "none")
PLAIN = StepWork(LINEAR, trains_value=True, activation_checkpointing=False, adapter_parameters=0, looks_first=False)
rows = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6)


@given(rows, st.integers(1, 4))
def test_tokens_and_pairs_are_those_of_a_loop_over_rows(lengths: list[tuple[int, int]], num_horizons: int) -> None:
    tokens = causal_pairs = supervised_pairs = 0
    for prompt, response in lengths:
        for position in range(prompt + response):
            tokens += 1
            causal_pairs += position + 1
            supervised_pairs += sum(prompt <= position + k < prompt + response for k in range(1, num_horizons + 1))
    prompts_N, responses_N = np.array(lengths).T
    assert count_tokens(prompts_N, responses_N, num_horizons) == Tokens(tokens, causal_pairs, supervised_pairs)


@given(rows)
def test_micro_batches_count_as_their_rows(lengths: list[tuple[int, int]]) -> None:
    examples = [Example(i, np.zeros(p + r, np.int32), p, True) for i, (p, r) in enumerate(lengths)]
    batches = [collate([example], step=0, micro_step=i) for i, example in enumerate(examples)]
    batches.append(collate(examples, step=0, micro_step=len(batches)))
    once = count_tokens(*np.array(lengths).T, 2)
    assert tokens_of(batches, 2) == once + once


@pytest.mark.parametrize("changes", [{}, {"attention_head_dim": 24, "qkv_bias": True, "query_key_norm": "head"}])
def test_products_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    args, length = replace(ARGS, **changes), 7
    model = Transformer(args)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = model(torch.zeros(1, length, dtype=torch.int64), return_all_heads=True)
        forward = products(counter)
        logits.sum().backward()
    flops = step_flops(ModelSpec.of(args), Tokens(length, 0, 2 * length), replace(PLAIN, trains_value=False))
    assert flops.blocks + flops.unembedding == forward
    assert flops.backward == products(counter) - forward


def products(counter: FlopCounterMode) -> int:
    """Matrix products counted so far; torch counts attention whole, not causal."""
    return sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))


def test_attention_ends_with_its_document() -> None:
    one, two = (count_tokens(np.array(p), np.array(r), 2) for p, r in (([4], [8]), ([2, 2], [4, 4])))
    assert one.tokens == two.tokens
    whole, cut = (step_flops(SIZE, tokens, PLAIN).attention for tokens in (one, two))
    # 12 * 13 / 2 causal pairs against twice 6 * 7 / 2, each a product of D for the score and one for the mixture.
    assert (whole, cut) == (5 * 4 * 32 * 78, 5 * 4 * 32 * 42)


@given(rows, st.integers(1, 8))
def test_a_window_bounds_the_keys_of_a_query(lengths: list[tuple[int, int]], window: int) -> None:
    pairs = sum(min(position + 1, window) for prompt, response in lengths for position in range(prompt + response))
    prompts_N, responses_N = np.array(lengths).T
    assert count_tokens(prompts_N, responses_N, 2, window).causal_pairs == pairs


def test_attention_costs_what_all_queries_are_wide_whatever_the_model_is() -> None:
    wide = replace(SIZE, attention_head_dim=24)
    tokens = count_tokens(np.array([4]), np.array([8]), 2)
    assert step_flops(wide, tokens, PLAIN).attention == 5 * 4 * (4 * 24) * 78


def test_recomputed_blocks_and_looking_passes_are_work_but_not_the_model_s() -> None:
    tokens = count_tokens(np.array([3]), np.array([9]), 2)
    plain, busy = (
        step_flops(SIZE, tokens, work)
        for work in (PLAIN, replace(PLAIN, activation_checkpointing=True, looks_first=True))
    )
    assert plain.executed == plain.model == busy.model
    assert busy.recompute == plain.blocks + plain.attention
    assert busy.executed == busy.model + busy.recompute + plain.forward - plain.value_head


def test_frozen_weights_have_half_the_backward() -> None:
    tokens = Tokens(100, 0, 0)
    whole = step_flops(SIZE, tokens, PLAIN)
    frozen = step_flops(SIZE, tokens, replace(PLAIN, adapter_parameters=10))
    assert frozen.backward - 2 * (frozen.value_head + 2 * 10 * 100) == whole.blocks
    assert whole.backward - 2 * whole.value_head == 2 * whole.blocks


def test_the_critic_stage_goes_back_through_what_it_trains() -> None:
    tokens = count_tokens(np.array([3]), np.array([9]), 2)
    frozen = critic_stage_flops(SIZE, tokens, LINEAR, train_trunk=False)
    trained = critic_stage_flops(SIZE, tokens, LINEAR, train_trunk=True)
    assert frozen.backward == 2 * frozen.value_head
    assert trained.backward == 2 * trained.forward


def test_members_with_trunks_of_their_own_each_read_half_of_the_rows_of_stage_1() -> None:
    """Four members: twice the passes of one critic; three of the trunk's blocks below their heads."""
    tokens = count_tokens(np.array([3]), np.array([9]), 2)
    value = replace(LINEAR, members=4, trunks="own")
    one = critic_stage_flops(SIZE, tokens, LINEAR, train_trunk=True)
    four = critic_stage_flops(SIZE, tokens, value, train_trunk=True)
    assert (four.forward, four.backward) == (2 * one.forward, 2 * one.backward)
    assert critic_stage_flops(SIZE, tokens, value, train_trunk=False).backward == 2 * four.value_head


def test_heads_over_one_trunk_cost_a_head_each_and_scores_of_trunks_of_their_own_a_trunk_each() -> None:
    tokens = Tokens(10, 0, 0)
    shared, own = (replace(LINEAR, members=3, trunks=trunks) for trunks in ("shared", "own"))
    one, head = scorer_flops(SIZE, tokens, LINEAR), 2 * 10 * 32
    assert scorer_flops(SIZE, tokens, shared) == one + 2 * head
    assert scorer_flops(SIZE, tokens, own) == 3 * one
    frozen = critic_stage_flops(SIZE, tokens, shared, train_trunk=False)
    assert (frozen.value_head, frozen.backward) == (3 * head, 2 * 3 * head)


def test_a_critic_skips_the_prediction_heads_and_a_reference_runs_one() -> None:
    tokens = Tokens(10, 0, 0)
    assert scorer_flops(SIZE, tokens, LINEAR) == 2 * 10 * (3 * SIZE.block_matrix_parameters + 32)
    assert scorer_flops(SIZE, tokens, None) == 2 * 10 * (4 * SIZE.block_matrix_parameters + 60 * 32)


def test_the_measured_peak_is_measured_once_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    first = measured_peak_flops(torch.device("cpu"), torch.float32)
    assert first > 1e8
    assert measured_peak_flops(torch.device("cpu"), torch.float32) == first
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_head_that_attends_counts_its_products_and_its_own_documents_pairs() -> None:
    value = ValueSpec("attention", 1.0, "none")
    tokens = count_tokens(np.array([2, 2]), np.array([4, 4]), 2)
    work = replace(PLAIN, value=value)
    products = 2 * (3 * 32 * 64 + (32 + 64) * 256 + 256) * tokens.tokens
    assert step_flops(SIZE, tokens, work).value_head == products + 4 * 64 * 42
    assert critic_stage_flops(SIZE, tokens, value, train_trunk=False).value_head == products + 4 * 64 * 42
    with_head, without = scorer_flops(SIZE, tokens, value), scorer_flops(SIZE, tokens, LINEAR)
    assert with_head - without == products + 4 * 64 * 42 - 2 * 32 * tokens.tokens


@pytest.mark.parametrize("surprisal", [False, True])
def test_the_surprisal_costs_a_head_and_the_unembedding_of_every_token(surprisal: bool) -> None:
    value = ValueSpec("linear", 1.0, "surprisal" if surprisal else "none")
    flops = step_flops(SIZE, Tokens(10, 0, 0), replace(PLAIN, value=value))
    assert flops.looking == surprisal * 2 * 10 * (SIZE.block_matrix_parameters + 60 * 32)
