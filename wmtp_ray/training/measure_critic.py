"""Measure the critic on problems it has not seen (objective.md, "Critic health")."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex, TokenBatch
from wmtp_ray.data.collate import collate, documents_of
from wmtp_ray.data.index_file import load_index
from wmtp_ray.data.prompt_label import Told
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples
from wmtp_ray.data.told_index import told_index
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.objective.baseline_standing import standing_words
from wmtp_ray.objective.critic_health import GateThresholds, JudgedResponse, critic_health, gate_failures
from wmtp_ray.plan.run_plan import held_out_mask
from wmtp_ray.plan.stage1 import health_rows
from wmtp_ray.training.losses import StageLoss


@dataclass(frozen=True)
class HealthFindings:
    """Metrics by name, each criterion the critic failed, and its standing beside the mandatory baselines, in words."""

    metrics: dict[str, float]
    failures: list[str] = field(default_factory=list)
    beside_baselines: list[str] = field(default_factory=list)


def measure_health(loss: StageLoss, config: RunConfig) -> HealthFindings:
    """Measure the policy's value path on held-out responses and compare the measures with `critic.gate_limits`.

    Where ranks share the policy's weights every rank calls it, and all find the same.
    """
    return health_of(judge_held_out(loss, config, *held_out_rows(config)), config)


def judge_held_out(
    loss: StageLoss, config: RunConfig, index: RowIndex, rows_N: Int64, told: Told = "nothing"
) -> list[JudgedResponse]:
    """Return what the policy's value path and its first prediction head say about the rows, in their order."""
    device = next(loss.parameters()).device
    batches = batches_of_rows(index, rows_N, config, told) if len(rows_N) else ()
    return [response for batch in batches for response in _judge(loss, batch, index, device)]


def health_of(responses: Sequence[JudgedResponse], config: RunConfig) -> HealthFindings:
    """Compare the measures of judged responses with `critic.gate_limits`."""
    if not responses:
        return HealthFindings({}, ["there is no held-out problem with a correct and an incorrect row to measure it on"])
    health = critic_health(responses, value_clip=config.critic.value_clip)
    failures = gate_failures(health, GateThresholds(**dict(config.critic.gate_limits)))
    return HealthFindings(health.metrics(), failures, standing_words(health.metrics()))


def held_out_rows(config: RunConfig) -> tuple[RowIndex, Int64]:
    """Return rows of problems that no stage has seen: a file's own, or those the plan held out."""
    if config.data.valid_file is not None:
        index = load_index(config.data.valid_file)
        held_out_P = np.ones(len(index.problem_names), dtype=np.bool_)
    else:
        index = load_index(config.data.train_file, config.data.index_file)
        held_out_P = held_out_mask(index, config.data, config.seed)
    rows = health_rows(
        index,
        held_out_P,
        config.critic.health_rows,
        config.seed,
        max_tokens=config.data.max_tokens,
        max_rows_per_problem=config.critic_stage.sampling.max_rows_per_problem,
        languages=config.data.languages,
    )
    return index, rows


def _judge(loss: StageLoss, batch: TokenBatch, index: RowIndex, device: torch.device) -> list[JudgedResponse]:
    """Values and log-likelihoods of every document, cut to its response."""
    tensors = BatchTensors.from_batch(batch, device)
    values_T = loss.values(tensors)[0].cpu().numpy()
    losses_T = loss.pair_losses(tensors, 1)[0, :, 0].cpu().numpy()
    judged = []
    for document, row in zip(documents_of(batch), batch.row_ids_M, strict=True):
        prompt_tokens = int((~batch.supervised_mask_BT[0, document]).sum())
        last_prompt = document.start + prompt_tokens - 1
        judged.append(
            JudgedResponse(
                problem=index.problem_names[index.problem_R[row]],
                is_correct=bool(index.is_correct_R[row]),
                values=values_T[last_prompt : document.stop],
                tokens=batch.tokens_BT[0, last_prompt + 1 : document.stop],
                # The pair (t, 1) predicts token t + 1, so the response's losses stand one position earlier.
                log_likelihoods=-losses_T[last_prompt : document.stop - 1],
            )
        )
    return judged


def batches_of_file(file: Path, config: RunConfig, *, max_rows: int, told: Told = "nothing") -> Iterator[TokenBatch]:
    """Read the first rows of an indexed JSONL that are not too long, batch by batch, in file order."""
    index = load_index(file)
    rows = np.flatnonzero(index.num_tokens_R <= config.data.max_tokens)[:max_rows]
    yield from batches_of_rows(index, rows, config, told)


def batches_of_rows(
    index: RowIndex, row_ids_N: Int64, config: RunConfig, told: Told = "nothing"
) -> Iterator[TokenBatch]:
    """Read the given rows in the given order, in batches of at most `train.micro_batch_tokens` tokens.

    `told` says what prompts tell of the rows' labels.
    """
    tokenizer = CodeTokenizer(config.tokenizer.path)
    index = told_index(index, told, tokenizer)
    start, tokens = 0, 0
    bounds = []
    for position, row in enumerate(row_ids_N):
        if tokens + index.num_tokens_R[row] > config.train.micro_batch_tokens:
            bounds.append((start, position))
            start, tokens = position, 0
        tokens += int(index.num_tokens_R[row])
    for number, (begin, end) in enumerate([*bounds, (start, len(row_ids_N))]):
        rows = row_ids_N[begin:end]
        examples = read_examples(
            Path(index.path),
            index.offset_R[rows].tolist(),
            index.num_bytes_R[rows].tolist(),
            rows.tolist(),
            tokenizer,
            is_correct_N=index.is_correct_R[rows].tolist(),
            told=told,
        )
        yield collate(examples, step=0, micro_step=number)
