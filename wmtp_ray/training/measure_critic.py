"""Measure the critic on problems it has not seen (objective.md, "Critic health")."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex, TokenBatch
from wmtp_ray.data.collate import collate, documents_of
from wmtp_ray.data.held_out_rows import held_out_rows as held_out_rows
from wmtp_ray.data.index_file import load_index
from wmtp_ray.data.prompt_label import Told
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.tokenizer import read_examples
from wmtp_ray.data.told_index import told_index
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.objective.baseline_standing import standing_words
from wmtp_ray.objective.critic_health import GateThresholds, JudgedResponse, critic_health, gate_failures
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


def _judge(loss: StageLoss, batch: TokenBatch, index: RowIndex, device: torch.device) -> list[JudgedResponse]:
    """Values and log-likelihoods of every document, cut to its response."""
    tensors = BatchTensors.from_batch(batch, device)
    scores = loss.value_scores(tensors)
    values_T = scores.values_BT[0].cpu().numpy()
    disagreements_T = None if scores.disagreements_BT is None else scores.disagreements_BT[0].cpu().numpy()
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
                disagreements=None if disagreements_T is None else disagreements_T[last_prompt : document.stop],
            )
        )
    return judged


def batches_of_file(file: Path, config: RunConfig, *, max_rows: int, told: Told = "nothing") -> Iterator[TokenBatch]:
    """Read the first rows of an indexed JSONL that are not too long, batch by batch, in file order."""
    index = load_index(file)
    rows = np.flatnonzero(index.num_tokens_R <= config.data.max_tokens)[:max_rows]
    yield from batches_of_rows(index, rows, config, told)


def batches_of_rows(
    index: RowIndex, row_ids_N: Int64, config: RunConfig, told: Told = "nothing", *, rows_together: int = 1
) -> Iterator[TokenBatch]:
    """Read the given rows in the given order, in batches of at most `train.micro_batch_tokens` tokens.

    `told` says what prompts tell of the rows' labels. `rows_together` consecutive rows share a batch.
    """
    tokenizer = run_tokenizer(config)
    index = told_index(index, told, tokenizer)
    start, tokens = 0, 0
    bounds = []
    for position in range(0, len(row_ids_N), rows_together):
        num_tokens = int(index.num_tokens_R[row_ids_N[position : position + rows_together]].sum())
        if tokens + num_tokens > config.train.micro_batch_tokens and position > start:
            bounds.append((start, position))
            start, tokens = position, 0
        tokens += num_tokens
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
