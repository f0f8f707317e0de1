"""Bytes that live tensors hold, and the peak of a real optimizer step: what the estimate is held against.

Shared by test_estimate_memory.py and bench/estimate.py. Counts every storage that an operation reads or makes until it
is freed; what a kernel allocates for itself stays unseen.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Example, ScoredBatch, Scores
from wmtp_ray.data.collate import collate
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.problem_halves import ProblemHalves, learned_problems
from wmtp_ray.ranks import OneRank
from wmtp_ray.scoring.contract import MicroBatch, to_micro_batch
from wmtp_ray.training.ensemble_loss import EnsembleLoss
from wmtp_ray.training.estimate.memory import RankWork
from wmtp_ray.training.stage_start import build_training
from wmtp_ray.training.stages import critic_stage, freeze_for_critic, policy_stage

CPU = torch.device("cpu")


class LiveMemory(TorchDispatchMode):
    """Inside its block, `now` and `peak` are the bytes of all storages seen and not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._seen.pop(key)


@dataclass(frozen=True)
class Case:
    """A model, the documents of each micro-batch, and how the step computes."""

    args: ModelArgs
    document_lengths: tuple[int, ...]
    num_micro_batches: int
    activation_checkpointing: bool
    words: tuple[str, ...] = ()

    @property
    def size(self) -> ModelSpec:
        return ModelSpec.of(self.args)

    def config(self) -> RunConfig:
        checkpointing = f"model.activation_checkpointing={str(self.activation_checkpointing).lower()}"
        words = ["recipe=verifiable", "train.micro_batch_tokens=8192", checkpointing, *self.words]
        return load_config(parse_arguments(words), now=datetime(2025, 1, 2))

    def work(self) -> RankWork:
        return RankWork(
            micro_batch_tokens=sum(self.document_lengths),
            num_micro_batches=self.num_micro_batches,
            activation_checkpointing=self.activation_checkpointing,
            dtype="float32",
            device="cpu",
            parallel="ddp",
            reduce_gradients="step",
            num_ranks=1,
            lora=None,
            max_logits_mb=self.config().loss.max_logits_mb,
            value=ValueSpec.of(self.config()),
        )


def measured_peak_bytes(case: Case) -> int:
    """Return the peak of the second step (the first makes the optimizer's state)."""
    config = case.config()
    with LiveMemory() as memory:
        policy = Policy(Transformer(case.args), ValueSpec.of(config))
        policy.transformer.activation_checkpointing = case.activation_checkpointing
        training = build_training(policy_stage(config), policy, config, OneRank(), CPU)
        batches = [_micro_batch(case.document_lengths, case.args.vocab_size, n) for n in range(case.num_micro_batches)]
        training.run(batches, 1e-3)
        memory.peak = memory.now
        training.run(batches, 1e-3)
    return memory.peak


def _micro_batch(lengths: Sequence[int], vocab_size: int, number: int) -> MicroBatch:
    random = np.random.default_rng(number)
    tokens = [random.integers(0, vocab_size, length).astype(np.int32) for length in lengths]
    batch = collate([Example(i, each, 1, True) for i, each in enumerate(tokens)], step=0, micro_step=number)
    values_BT = random.random((1, sum(lengths))).astype(np.float32)
    return to_micro_batch(ScoredBatch(batch, Scores(0, values_BT=values_BT), 0, 0.0), 0, 0, CPU)


def measured_ensemble_peak_bytes(case: Case) -> int:
    """Return the peak of the second step of stage 1, whose members share out the documents of each micro-batch."""
    config = case.config()
    with LiveMemory() as memory:
        policy = Policy(Transformer(case.args), ValueSpec.of(config))
        freeze_for_critic(policy, config)
        for model in policy.value_head.models:
            model.activation_checkpointing = case.activation_checkpointing
        documents = np.arange(len(case.document_lengths), dtype=np.int32)
        names = [f"problem {number}" for number in documents]
        halves = ProblemHalves(documents, learned_problems(names, config.critic.ensemble, config.seed))
        recipe = replace(critic_stage(config), build_loss=lambda policy, config: EnsembleLoss(policy, config, halves))
        training = build_training(recipe, policy, config, OneRank(), CPU)
        batches = [_micro_batch(case.document_lengths, case.args.vocab_size, n) for n in range(case.num_micro_batches)]
        batches = [replace(batch, values_BT=None) for batch in batches]
        training.run(batches, 1e-3)
        memory.peak = memory.now
        training.run(batches, 1e-3)
    return memory.peak
