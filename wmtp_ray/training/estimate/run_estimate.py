"""A configuration and its plans to what they need: memory of a device, tokens, FLOPs, hours.

Reads params.json and nothing else; asks the machine for its memory only where the run stays on it (no RAY_ADDRESS).
Memory is stage 2's: stage 1 holds the same weights and keeps no more than stage 2 for any of them. Where an ensemble
trains trunks of its own there, memory is that of the stage that needs more.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.errors import ConfigError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.plan.run_plan import RunPlan
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE
from wmtp_ray.saved_records import read_record
from wmtp_ray.training.estimate.ensemble_memory import EnsembleWork
from wmtp_ray.training.estimate.evaluator_memory import EvaluatorWork
from wmtp_ray.training.estimate.fit import Device, Load, ScorerWork, remedies
from wmtp_ray.training.estimate.flops import (
    StepFlops,
    StepWork,
    Tokens,
    adapter_parameters,
    count_tokens,
    critic_stage_flops,
    step_flops,
)
from wmtp_ray.training.estimate.hardware import CARDS, GIB, Card, machine_memory_bytes
from wmtp_ray.training.estimate.memory import Lora, RankWork
from wmtp_ray.training.estimate.process_overhead import machine_bytes

ASSUMED_UTILISATION = 0.4  # of the data sheet's peak, recomputed blocks included: what good runs on such cards reach
_EPS = 1e-9


@dataclass(frozen=True)
class StageWork:
    """The work of one stage over its whole plan; `hours` None where the device's peak is not known."""

    stage: int
    num_steps: int
    tokens: Tokens
    flops: StepFlops
    scoring_flops: float
    hours: float | None


@dataclass(frozen=True)
class RunEstimate:
    """What a run needs: on one device, and over its plans."""

    load: Load
    stages: tuple[StageWork, ...]
    peak_flops: float | None


def estimate_run(
    config: RunConfig,
    plans: Mapping[int, RunPlan],
    index: RowIndex | None,
    *,
    card: Card | None = None,
    longest_prompt: int | None = None,
) -> RunEstimate:
    """Estimate a run. `card`: the GPU found; None takes `cluster.gpu_type`. Without plans memory alone is estimated.

    `longest_prompt`: tokens of what the policy is asked while it trains; None: not known, taken for a longest row.
    """
    size = ModelSpec.read(config.model.path)
    card = card or (CARDS[config.cluster.gpu_type] if config.cluster.gpu_type else None)
    device = _device(config, card)
    load = Load(
        size=size,
        work=_rank_work(config, plans.get(TRAIN_STAGE), index, ValueSpec.of(config).member),
        scorer=_scorer(config),
        device=device,
        shortest_micro_batch=config.data.max_tokens,
        weights_bytes=_weights_bytes(config.model.path),
        others_bytes=machine_bytes(sinks=config.tracking.used_sinks) if device.is_machine else 0,
        ensemble=_ensemble(config, plans, index),
        evaluator=_evaluator(config, size, longest_prompt or config.data.max_tokens),
    )
    peak = card.peak_flops(config.train.dtype) if card is not None and on_gpu(config) else None
    stages = [_stage_work(config, size, plan, index, peak) for plan in plans.values() if index is not None]
    return RunEstimate(load, tuple(stages), peak)


def require_fit(estimate: RunEstimate) -> None:
    """Raise ConfigError where a device cannot hold what is put on it, naming the first setting that makes it fit."""
    load = estimate.load
    if load.fits:
        return
    assert load.device.usable_bytes is not None
    found = remedies(load)
    nothing = "No setting changes that: take a smaller model, or more memory"
    advice = f"Set {' or '.join(str(each) for each in found)}" if found else nothing
    if load.evaluating_bytes >= load.total_bytes - load.device.usable_bytes:
        advice = f"Without evaluation.every_steps it fits; or: {advice}"
    rank = load.rank()
    parts = ", ".join(f"{name} {count / GIB:.1f}" for name, count in rank.parts.items())
    scoring = load.scoring()
    beside = "" if scoring is None else f", and {load.device.scorers} scoring actor of {scoring.total / GIB:.1f} GiB"
    if load.evaluating_bytes:
        beside += f", and {load.evaluating_bytes / GIB:.1f} GiB to evaluate the policy meanwhile"
    raise ConfigError(
        f"The run needs {load.total_bytes / GIB:.1f} GiB on {load.device.name}, of which "
        f"{load.device.usable_bytes / GIB:.1f} GiB are usable: {load.device.ranks} rank of {rank.total / GIB:.1f} GiB "
        f"at {rank.moment} ({parts}){beside}. {advice}"
    )


def _weights_bytes(directory: Path) -> int:
    """Of the file that a rank maps; 0 where only params.json is there."""
    weights = ModelFolder(directory).find_weights()
    return 0 if weights is None else weights.stat().st_size


def on_gpu(config: RunConfig) -> bool:
    """Whether the ranks will compute on CUDA, as far as the configuration says."""
    return config.train.device == "cuda" or (config.train.device == "auto" and config.cluster.gpus_per_worker > 0)


def stage_flops(config: RunConfig, size: ModelSpec, stage: int, tokens: Tokens) -> StepFlops:
    """Return the FLOPs that the ranks of a stage spend on so many tokens."""
    if stage == CRITIC_STAGE:
        return critic_stage_flops(size, tokens, ValueSpec.of(config), train_trunk=config.critic.train_trunk)
    lora = config.model.lora
    work = StepWork(
        value=ValueSpec.of(config).member,
        trains_value=config.train.value_coef > 0.0 or config.critic.anchor_coef > 0.0,
        activation_checkpointing=config.model.activation_checkpointing,
        adapter_parameters=0 if lora is None else adapter_parameters(size, lora.rank, lora.targets),
        looks_first=config.weighting.arm.needs_policy_losses,
    )
    return step_flops(size, tokens, work)


def _rank_work(config: RunConfig, plan: RunPlan | None, index: RowIndex | None, value: ValueSpec) -> RankWork:
    train, lora = config.train, config.model.lora
    tokens, num_micro_batches = train.micro_batch_tokens, 2
    if plan is not None and index is not None:
        step_tokens = int(np.add.reduceat(index.num_tokens_R[plan.row_ids_P], plan.step_starts_S[:-1]).max())
        tokens = min(tokens, step_tokens)
        num_micro_batches = -(-step_tokens // (train.num_workers * tokens))
    return RankWork(
        micro_batch_tokens=tokens,
        num_micro_batches=num_micro_batches,
        activation_checkpointing=config.model.activation_checkpointing,
        dtype=train.dtype,
        device="cuda" if on_gpu(config) else "cpu",
        parallel=train.parallel,
        reduce_gradients=train.reduce_gradients,
        num_ranks=train.num_workers,
        lora=None if lora is None else Lora(lora.rank, lora.targets),
        max_logits_mb=config.loss.max_logits_mb,
        value=value,
    )


def _ensemble(config: RunConfig, plans: Mapping[int, RunPlan], index: RowIndex | None) -> EnsembleWork | None:
    """Return stage 1's work where its members train trunks of their own."""
    value = ValueSpec.of(config)
    if value.trunks == "shared" or CRITIC_STAGE not in config.stages:
        return None
    work = _rank_work(config, plans.get(CRITIC_STAGE), index, value)
    return EnsembleWork(_critic_size(config), replace(work, lora=None))


def _evaluator(config: RunConfig, size: ModelSpec, longest_prompt: int) -> EvaluatorWork | None:
    """Return the work of `evaluation.every_steps`; with a part of a card its card may be one of the ranks'."""
    if not config.evaluates_meanwhile:
        return None
    settings, lora, share = config.evaluation, config.model.lora, config.cluster.gpus_per_evaluator
    return EvaluatorWork(
        size=size,
        num_rows=min(settings.batch_size, settings.during_limit * settings.num_samples),
        longest_tokens=longest_prompt + settings.max_new_tokens,
        draft_horizons=settings.draft_horizons,
        learned_parameters=size.parameters if lora is None else size.adapter_parameters(lora.rank, lora.targets),
        on_gpu=0.0 < share < 1.0,
        is_half=share > 0.0 and config.train.dtype == "bfloat16",
    )


def _critic_size(config: RunConfig) -> ModelSpec:
    """Return the model that a critic with a trunk of its own is, or begins with."""
    path = config.critic.path
    has_own = config.critic.source == "frozen" and path is not None and ModelFolder(path).params.exists()
    return ModelSpec.read(path if has_own and path is not None else config.model.path)


def _scorer(config: RunConfig) -> ScorerWork | None:
    if TRAIN_STAGE not in config.stages:
        return None
    autocast = config.train.dtype == "bfloat16" and config.cluster.gpus_per_critic > 0
    if config.needs_reference:
        first, *others = (ModelSpec.read(reference.path) for reference in config.references)
        return ScorerWork(first, None, autocast, others=tuple(others))
    if not config.uses_critic:
        return None
    has_adapters = config.model.lora is not None and config.critic.source == "policy"
    return ScorerWork(_critic_size(config), _scoring_value(config), autocast, has_adapters)


def _scoring_value(config: RunConfig) -> ValueSpec:
    """Return the value path that scores: of an ensemble of another run, with the trunks that are stored."""
    asked, path = ValueSpec.of(config), config.critic.path
    if asked.members == 1 or CRITIC_STAGE in config.stages or path is None:
        return asked
    file = ModelFolder(path).value_spec
    return read_record(file, ValueSpec, "restore it, or run stage 1 again") if file.is_file() else asked


def _device(config: RunConfig, card: Card | None) -> Device:
    cluster, train = config.cluster, config.train
    scorers = config.critic.pool_size
    if not on_gpu(config):
        local = "RAY_ADDRESS" not in os.environ
        usable = float(machine_memory_bytes()) if local else None
        return Device("this machine" if local else "the cluster", usable, train.num_workers, scorers, is_machine=True)
    share = cluster.gpus_per_worker or 1.0
    ranks = min(train.num_workers, max(1, int(1.0 / share + _EPS)))
    left = max(0.0, 1.0 - ranks * share)
    beside = int(left / cluster.gpus_per_critic + _EPS) if cluster.gpus_per_critic > 0 else 0
    name = f"a GPU ({card.name})" if card is not None else "a GPU (unknown: set cluster.gpu_type)"
    usable = card.usable_bytes if card is not None else None
    return Device(name, usable, ranks, min(scorers, beside), is_machine=False)


def _count(size: ModelSpec, index: RowIndex, rows: Int64) -> Tokens:
    prompts_N, responses_N = index.prompt_tokens_R[rows], index.response_tokens_R[rows]
    return count_tokens(prompts_N, responses_N, size.num_horizons, size.attention_window)


def _stage_work(
    config: RunConfig, size: ModelSpec, plan: RunPlan, index: RowIndex | None, peak: float | None
) -> StageWork:
    assert index is not None
    rows = plan.row_ids_P
    tokens = _count(size, index, rows)
    scorer = _scorer(config) if plan.stage == TRAIN_STAGE else None
    flops = stage_flops(config, size, plan.stage, tokens)
    weighed = tokens
    if plan.finish is not None:  # no step of a finish looks at the policy's losses, or asks for scores nobody reads
        rows = plan.row_ids_P[: plan.step_starts_S[plan.finish.start_step]]
        weighed = _count(size, index, rows)
        flops = replace(flops, looking=stage_flops(config, size, plan.stage, weighed).looking)
    scored = tokens if config.reads_values_always else weighed
    hours = None
    if peak is not None:
        hours = flops.executed / (ASSUMED_UTILISATION * peak * config.train.num_workers) / 3600
    return StageWork(
        stage=plan.stage,
        num_steps=plan.num_steps,
        tokens=tokens,
        flops=flops,
        scoring_flops=scorer.flops(scored) if scorer else 0.0,
        hours=hours,
    )
