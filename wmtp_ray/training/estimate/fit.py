"""Does the work fit the device, and if not, which setting makes it fit. Changes nothing; decides on numbers alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from wmtp_ray.model.spec import TARGETS, ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.estimate.ensemble_memory import EnsembleWork
from wmtp_ray.training.estimate.evaluator_memory import EvaluatorWork
from wmtp_ray.training.estimate.flops import Tokens, scorer_flops
from wmtp_ray.training.estimate.hardware import GIB
from wmtp_ray.training.estimate.memory import (
    FREED_FRAC,
    FREED_FRAC_LORA,
    MIB,
    Lora,
    Memory,
    RankWork,
    process_memory,
    rank_memory,
    scorer_memory,
)
from wmtp_ray.training.estimate.process_overhead import ADAPTERS_MIB, RANK_MIB, SCORER_MIB, SHARED_MIB

_LORA = Lora(rank=16, targets=TARGETS)
_LORA_WORDS = "'model.lora={rank: 16, alpha: 32, dropout: 0.0, targets: [wq, wk, wv, wo, w1, w2, w3]}'"
_SHARDED_WORDS = ("train.parallel=fsdp2", "train.reduce_gradients=micro_batch")
_SHARDED = {"parallel": "fsdp2", "reduce_gradients": "micro_batch"}
_MOST_RANKS = 64


@dataclass(frozen=True)
class Device:
    """What ranks and scorers share: one GPU, or a whole machine. `usable_bytes` None: unknown."""

    name: str
    usable_bytes: float | None
    ranks: int
    scorers: int
    is_machine: bool


@dataclass(frozen=True)
class ScorerWork:
    """A critic (`value` given) or a reference (None) that scores micro-batches of the rank's size.

    `others` are further references that the same actor holds; they score one after the other.
    """

    size: ModelSpec
    value: ValueSpec | None
    autocast: bool
    has_adapters: bool = False
    others: tuple[ModelSpec, ...] = ()

    def flops(self, tokens: Tokens) -> float:
        """Of all models, for so many tokens."""
        return sum(scorer_flops(size, tokens, self.value) for size in (self.size, *self.others))

    def memory(self, tokens: int) -> Memory:
        """All models' weights, and the work of the one that needs most."""
        each = [scorer_memory(size, tokens, self.value, autocast=self.autocast) for size in (self.size, *self.others)]
        most = max(each, key=lambda memory: memory.total - memory.parts["parameters"])
        return Memory(most.moment, most.parts | {"parameters": sum(memory.parts["parameters"] for memory in each)})


@dataclass(frozen=True)
class Load:
    """All work that shares one device."""

    size: ModelSpec
    work: RankWork
    scorer: ScorerWork | None
    device: Device
    shortest_micro_batch: int  # data.max_tokens: a micro-batch holds the longest row
    weights_bytes: int = 0  # of the model's file
    others_bytes: int = 0  # of a machine: the processes beside ranks and scoring actors
    ensemble: EnsembleWork | None = None  # of stage 1, where its members train trunks of their own
    evaluator: EvaluatorWork | None = None  # where the policy is evaluated while it trains

    def rank(self) -> Memory:
        """What a rank holds, in the stage that needs most: of a GPU its tensors, of a machine the whole process."""
        live, lora = rank_memory(self.size, self.work), self.work.lora is not None
        stages = [_process(live, RANK_MIB, self.weights_bytes, lora=lora) if self.device.is_machine else live]
        if self.ensemble is not None:
            live = self.ensemble.memory()
            of_machine = self.device.is_machine
            stages.append(_process(live, RANK_MIB, self.weights_bytes, lora=False) if of_machine else live)
        return max(stages, key=lambda memory: memory.total)

    def scoring(self) -> Memory | None:
        if self.scorer is None or self.device.scorers == 0:
            return None
        scorer = self.scorer
        live = scorer.memory(self.work.micro_batch_tokens)
        if not self.device.is_machine:
            return live
        weights_bytes = live.parts["parameters"]  # a version is a file of its own weights
        return _process(live, SCORER_MIB, weights_bytes, lora=scorer.has_adapters)

    @property
    def total_bytes(self) -> int:
        scoring, device = self.scoring(), self.device
        rank_bytes = self.rank().total - (SHARED_MIB * MIB if device.is_machine else 0)
        scorers_bytes = device.scorers * scoring.total if scoring else 0
        return device.ranks * rank_bytes + scorers_bytes + self.others_bytes + self.evaluating_bytes

    @property
    def evaluating_bytes(self) -> int:
        """What evaluating the policy meanwhile takes of the device: the evaluator, and on a machine rank 0's copy."""
        if self.evaluator is None:
            return 0
        if self.device.is_machine:
            return self.evaluator.process().total + self.evaluator.copy_bytes
        return self.evaluator.tensors().total if self.evaluator.on_gpu else 0

    @property
    def fits(self) -> bool:
        """Whether it fits; True where the device is unknown."""
        return self.device.usable_bytes is None or self.total_bytes <= self.device.usable_bytes


def _process(live: Memory, base_mib: int, file_bytes: int, *, lora: bool) -> Memory:
    return process_memory(
        live,
        base_bytes=(base_mib + (ADAPTERS_MIB if lora else 0)) * MIB,
        file_bytes=file_bytes,
        freed_frac=FREED_FRAC_LORA if lora else FREED_FRAC,
    )


@dataclass(frozen=True)
class Change:
    """Words for the command line, and the fields of `RankWork` that they set."""

    words: tuple[str, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Remedy:
    """Words for the command line, and what the device would hold with them."""

    words: tuple[str, ...]
    total_bytes: int

    def __str__(self) -> str:
        return f"{' '.join(self.words)} ({self.total_bytes / GIB:.1f} GiB)"


def remedies(load: Load) -> list[Remedy]:
    """Return the first change that makes the load fit, then, where that one trains adapters, the first that does not.

    Tried in this order, each thing alone and then added to those before: activation checkpointing, sharding, LoRA,
    smaller micro-batches, more ranks. Empty when nothing helps.
    """
    fitting = (Remedy(words, changed.total_bytes) for words, changed in _candidates(load) if changed.fits)
    first = next(fitting, None)
    if first is None:
        return []
    if not any(word.startswith("'model.lora") for word in first.words):
        return [first]
    other = next((each for each in fitting if not any(word.startswith("'model.lora") for word in each.words)), None)
    return [first] if other is None else [first, other]


def _candidates(load: Load) -> Iterator[tuple[tuple[str, ...], Load]]:
    thrifty, lora, smaller = _thrifty(load), _adapters(load), _smaller_micro_batches(load)
    for changes in _alone_and_together(thrifty):
        yield _changed(load, changes)
    for change in lora:
        yield from _alone_and_with(load, change, thrifty)
    for change in smaller:
        yield from _alone_and_with(load, change, thrifty)
    for change, adapters in product(smaller, lora):
        yield _changed(load, [*thrifty, adapters, change])
    for change in _more_ranks(load):
        yield from _alone_and_with(load, change, thrifty)


def _alone_and_together(changes: list[Change]) -> list[list[Change]]:
    return [[change] for change in changes] + [changes[:count] for count in range(2, len(changes) + 1)]


def _alone_and_with(load: Load, change: Change, others: list[Change]) -> Iterator[tuple[tuple[str, ...], Load]]:
    yield _changed(load, [change])
    yield _changed(load, [*others, change])


def _thrifty(load: Load) -> list[Change]:
    """Return settings that save memory, cost time and change no result, of those that are still off."""
    work, found = load.work, []
    if not work.activation_checkpointing:
        found.append(Change(("model.activation_checkpointing=true",), {"activation_checkpointing": True}))
    if work.num_ranks > 1 and work.parallel == "ddp":
        found.append(Change(("train.parallel=fsdp2",), {"parallel": "fsdp2"}))
    if work.num_ranks > 1 and work.num_micro_batches > 1 and work.reduce_gradients == "step":
        found.append(Change(_SHARDED_WORDS, _SHARDED))
    return found


def _adapters(load: Load) -> list[Change]:
    return [Change((_LORA_WORDS,), {"lora": _LORA})] if load.work.lora is None else []


def _smaller_micro_batches(load: Load) -> list[Change]:
    found, tokens = [], load.work.micro_batch_tokens // 2
    while tokens >= load.shortest_micro_batch:
        fields = {"micro_batch_tokens": tokens, "num_micro_batches": max(2, load.work.num_micro_batches)}
        found.append(Change((f"train.micro_batch_tokens={tokens}",), fields))
        tokens //= 2
    return found


def _more_ranks(load: Load) -> list[Change]:
    """More GPUs share the weights, one rank on each; a machine's memory grows with no rank."""
    counts = () if load.device.is_machine else range(load.work.num_ranks + 1, _MOST_RANKS + 1)
    return [
        Change((f"train.num_workers={count}", *_SHARDED_WORDS), {**_SHARDED, "num_ranks": count}) for count in counts
    ]


def _changed(load: Load, changes: list[Change]) -> tuple[tuple[str, ...], Load]:
    words = tuple(dict.fromkeys(word for change in changes for word in change.words))
    fields: dict[str, Any] = {}
    for change in changes:
        fields |= change.fields
    return words, replace(load, work=replace(load.work, **fields), ensemble=_changed_ensemble(load.ensemble, fields))


def _changed_ensemble(ensemble: EnsembleWork | None, fields: Mapping[str, Any]) -> EnsembleWork | None:
    """Stage 1 has no adapters, and micro-batches that may be smaller than those of stage 2."""
    if ensemble is None:
        return None
    work = replace(ensemble.work, **(dict(fields) | {"lora": None}))
    tokens = min(work.micro_batch_tokens, ensemble.work.micro_batch_tokens)
    return replace(ensemble, work=replace(work, micro_batch_tokens=tokens))
