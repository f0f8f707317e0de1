"""The memory estimate against models without storage, against what autograd keeps, and against measured steps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.model.shapes import model_specs
from tests.unit.training.rank_work import CPU_WORK
from vendor.meta_llama import ModelArgs, Transformer
from vendor.meta_llama.attention import sequence_context
from vendor.meta_llama.model import TransformerBlock
from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.spec import TARGETS, ModelSpec
from wmtp_ray.model.value_model import ValueModel, reference_losses
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.estimate.ensemble_memory import EnsembleWork
from wmtp_ray.training.estimate.memory import Lora, RankWork, rank_memory, saved_block_bytes, scorer_memory

from .live_memory import Case, LiveMemory, measured_ensemble_peak_bytes, measured_peak_bytes

SEVEN_B = ModelSpec(dim=4096, n_layers=32, n_heads=32, n_future_tokens=4, vocab_size=32000)
NANO = ModelArgs(dim=64, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=300, n_future_tokens=2, multiple_of=32)


@given(model_specs(), st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_block_keeps_what_autograd_saves(args: ModelSpec, lengths: list[int]) -> None:
    assert sum(kept_storages(args, lengths, autocast=False)) == sum(lengths) * saved_block_bytes(
        ModelSpec.of(args), Case(args, tuple(lengths), 1, False).work()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query_key_norm": "head", "attention_head_dim": 32, "qkv_bias": True},
        {"query_key_norm": "width", "norm_after": True, "blocks_without_rope": (0,)},
        {"attention_window": 7, "norm_after": True},
    ],
)
def test_under_autocast_a_block_keeps_a_half_precision_copy_of_each_product_s_input(changes: dict[str, Any]) -> None:
    lengths, args = [20, 21], replace(NANO, **changes)
    work = replace(Case(args, tuple(lengths), 1, False).work(), dtype="bfloat16")
    expected = sum(lengths) * saved_block_bytes(ModelSpec.of(args), work)
    kept = kept_storages(args, lengths, autocast=True)
    matrices = sum(2 * inputs * outputs for inputs, outputs in ModelSpec.of(args).matrices().values())
    assert sum(kept) == expected + matrices


def kept_storages(args: ModelArgs, lengths: list[int], *, autocast: bool) -> list[int]:
    """Bytes of each storage that autograd saves of one block, without its parameters, rotary angles and mask."""
    block = TransformerBlock(args, rotary=0 not in args.blocks_without_rope)
    h_BTD = torch.randn(1, sum(lengths), args.dim, requires_grad=True).clone()  # autocast keeps one copy of a leaf
    context = sequence_context(
        h_BTD, head_dim=args.head_dim, rope_theta=1e4, document_lengths=lengths, window=args.attention_window
    )
    with saved_storages() as saved, torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        block(h_BTD, context)
    constants = [*block.parameters(), context.cos_BT1C, context.sin_BT1C]
    if context.window is not None:  # counted once for all blocks
        constants.append(context.window.mask_TK(torch.bfloat16 if autocast else torch.float32, h_BTD.device))
    for constant in constants:
        saved.pop(constant.untyped_storage()._cdata, None)
    return [tensor.untyped_storage().nbytes() for tensor in saved.values()]


@contextmanager
def saved_storages() -> Iterator[dict[int, torch.Tensor]]:
    """Collect what autograd saves, one tensor for each storage."""
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


CASES = {
    "one micro-batch": Case(
        ModelArgs(dim=128, n_layers=6, n_heads=4, vocab_size=1000, n_future_tokens=4, multiple_of=32),
        (150, 106),
        1,
        False,
    ),
    "accumulating": Case(NANO, (200, 300), 3, False),
    "checkpointed": Case(NANO, (200, 300), 1, True),
    "checkpointed, accumulating, deep": Case(
        ModelArgs(dim=64, n_layers=12, n_heads=4, vocab_size=500, n_future_tokens=1, multiple_of=32), (400,), 2, True
    ),
    "a large vocabulary": Case(
        ModelArgs(dim=96, n_layers=3, n_heads=6, vocab_size=8000, n_future_tokens=2, multiple_of=32),
        (60, 60, 60),
        1,
        False,
    ),
    "hardly a token": Case(
        ModelArgs(dim=256, n_layers=4, n_heads=8, vocab_size=1000, n_future_tokens=2, multiple_of=32), (24,), 1, False
    ),
    "wide heads, norms of queries and keys, a window": Case(
        replace(NANO, attention_head_dim=48, query_key_norm="head", attention_window=64, qkv_bias=True),
        (200, 300),
        1,
        False,
    ),
    "no value loss": Case(NANO, (100, 28), 1, False, ("weighting.type=uniform", "train.value_coef=0")),
    "an mlp in the middle of the trunk": Case(NANO, (100, 28), 2, True, ("critic.head=mlp", "critic.value_layer=0.5")),
    "a head that attends": Case(NANO, (100, 28), 2, False, ("critic.head=attention", "critic.features=surprisal")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_peak_of_a_real_step_is_within_15_percent(case: Case) -> None:
    estimated, measured = rank_memory(case.size, case.work()).total, measured_peak_bytes(case)
    assert estimated == pytest.approx(measured, rel=0.15)


OWN_TRUNKS = ("critic.source=frozen", "critic.train_trunk=true")
ENSEMBLES = {
    "two members": Case(NANO, (40,) * 20, 1, False, (*OWN_TRUNKS, "critic.ensemble=2")),
    "four members, accumulating": Case(NANO, (40,) * 20, 2, False, (*OWN_TRUNKS, "critic.ensemble=4")),
    "two members, checkpointed": Case(
        ModelArgs(dim=64, n_layers=12, n_heads=4, vocab_size=500, n_future_tokens=1, multiple_of=32),
        (40,) * 20,
        1,
        True,
        (*OWN_TRUNKS, "critic.ensemble=2", "critic.head=mlp", "critic.value_error=bce"),
    ),
    "a large vocabulary, half the trunk": Case(
        ModelArgs(dim=96, n_layers=6, n_heads=6, vocab_size=8000, n_future_tokens=2, multiple_of=32),
        (40,) * 4,
        1,
        False,
        (*OWN_TRUNKS, "critic.ensemble=2", "critic.value_layer=0.5"),
    ),
}


@pytest.mark.parametrize("case", ENSEMBLES.values(), ids=ENSEMBLES.keys())
def test_stage_1_of_an_ensemble_with_trunks_of_its_own_is_within_15_percent(case: Case) -> None:
    estimated, measured = EnsembleWork(case.size, case.work()).memory().total, measured_ensemble_peak_bytes(case)
    assert estimated == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("features", ["none", "surprisal", "reference"])
def test_a_scoring_pass_is_within_15_percent(features: str) -> None:
    args = ModelArgs(dim=128, n_layers=6, n_heads=4, vocab_size=2000, n_future_tokens=2, multiple_of=32)
    tokens = random_tokens(args.vocab_size, 1500)
    value = None if features == "reference" else ValueSpec("linear", 1.0, features)
    with LiveMemory() as memory, torch.no_grad():
        if features == "reference":
            reference_losses(Transformer(args), tokens)
        else:
            ValueModel(args, ValueSpec("linear", 1.0, features)).values(tokens)
    estimated = scorer_memory(ModelSpec.of(args), 1500, value, autocast=False)
    assert estimated.total == pytest.approx(memory.peak, rel=0.15)


def random_tokens(vocab_size: int, length: int) -> BatchTensors:
    tokens_T = np.random.default_rng(0).integers(0, vocab_size, length).astype(np.int32)
    return BatchTensors.from_batch(collate([Example(0, tokens_T, 1, True)], step=0, micro_step=0), "cpu")


def seven_b(**changes: object) -> RankWork:
    work = replace(CPU_WORK, micro_batch_tokens=16384, num_micro_batches=2, dtype="bfloat16", device="cuda")
    return replace(replace(work, activation_checkpointing=True), **changes)


def test_adamw_of_the_real_model_takes_sixteen_bytes_a_weight() -> None:
    parts = rank_memory(SEVEN_B, seven_b()).parts
    states = parts["parameters"] + parts["optimizer"] + parts["gradients"]
    assert states == pytest.approx(16 * SEVEN_B.parameters, rel=1e-4)


def test_sharding_divides_weights_gradients_and_optimizer_by_the_ranks() -> None:
    parts = rank_memory(SEVEN_B, seven_b(parallel="fsdp2", num_ranks=4, reduce_gradients="micro_batch")).parts
    for name, share in {"parameters": 1, "optimizer": 2, "gradients": 1}.items():
        assert parts[name] == pytest.approx(share * 4 * SEVEN_B.parameters / 4, rel=1e-3)


def test_sharded_gradients_that_meet_once_a_step_are_whole_in_between() -> None:
    each = seven_b(parallel="fsdp2", num_ranks=4, reduce_gradients="micro_batch")
    once = replace(each, reduce_gradients="step")
    more = rank_memory(SEVEN_B, once).total - rank_memory(SEVEN_B, each).total
    # Float32 gradients and bfloat16 weights of every block, where else only two blocks' weights are whole.
    blocks = SEVEN_B.n_layers - 2
    assert more == pytest.approx(4 * SEVEN_B.parameters + 2 * blocks * SEVEN_B.block_parameters, rel=1e-3)
    assert rank_memory(SEVEN_B, replace(once, num_micro_batches=1)) == rank_memory(
        SEVEN_B, replace(each, num_micro_batches=1)
    )


def test_adapters_leave_gradients_and_optimizer_to_adapters_and_value_head() -> None:
    trained = SEVEN_B.adapter_parameters(16, TARGETS) + 4096 + 1
    parts = rank_memory(SEVEN_B, seven_b(lora=Lora(16, TARGETS))).parts
    assert parts["gradients"] == 4 * trained
    assert parts["optimizer"] == 8 * trained
    assert parts["parameters"] == 4 * (SEVEN_B.parameters + trained)
    # wq, wk, wv, wo: 4096 to 4096; w1, w3: 4096 to 11008, w2 back.
    assert SEVEN_B.adapter_parameters(16, TARGETS) == 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 11008))
