"""What the final policy, its critic and every weighting say about a few held-out programs, token by token.

Runs at the end of stage 2, with the policy in memory. The programs are weighed together as one batch by the scorers
of `scoring/`: the run's own and, beside it, those that need nothing the run does not have. So what is relative to a
batch (whitening, Rho-1's ranks) is relative to these programs. Form and file: `tracking/token_evidence.py`.

Shapes: B sequences (1), T positions, H horizons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wmtp_ray.artifacts.meta_checkpoint import load_value_path
from wmtp_ray.config.arms import ARMS
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Float32, Int64, RowIndex, TokenBatch
from wmtp_ray.data.chat_rows import chat_message
from wmtp_ray.data.collate import documents_of, examples_of, with_edits
from wmtp_ray.data.prompt_label import told_when_asked
from wmtp_ray.data.row_edits import edits_of
from wmtp_ray.data.rows import Row, read_rows
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, render_prompt, render_row
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective import td
from wmtp_ray.objective.critic_health import JudgedResponse
from wmtp_ray.objective.minimal_pairs import edited_spans
from wmtp_ray.ranks import OneRank
from wmtp_ray.scoring.contract import MicroBatch
from wmtp_ray.scoring.scorers import build_scorer
from wmtp_ray.tracking.token_evidence import HeldOutLoss, ProgramPair, TokenTrace
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.measure_critic import batches_of_rows
from wmtp_ray.training.references import References
from wmtp_ray.training.row_scores import RowScores, values_of_critic, values_of_policy

MAX_PAIRS = 8
MAX_TOKENS = 400  # of a program that are saved
MAX_PROMPT_CHARS = 1200
MAX_EDIT_FRAC = 0.25  # of either program, for a pair to be minimal; as in critic health
END = "<end>"

Weights = dict[str, list[Float32]]  # by weighting, [T] a micro-batch: the weight of token t at horizon 1


@dataclass(frozen=True)
class _ChosenPair:
    """Two rows of one problem, the correct one first; edits count the response's tokens."""

    problem: str
    rows: tuple[Row, Row]
    edits: tuple[range, range]
    is_minimal: bool


def held_out_loss(responses: Sequence[JudgedResponse]) -> HeldOutLoss | None:
    """Return the policy's mean loss a token over the judged responses of either kind."""
    by_kind: dict[bool, list[Float32]] = {True: [], False: []}
    for response in responses:
        assert response.log_likelihoods is not None, "the policy has judged them"
        by_kind[response.is_correct].append(-response.log_likelihoods)
    if not by_kind[True] or not by_kind[False]:
        return None
    correct, incorrect = (float(np.concatenate(by_kind[kind]).mean()) for kind in (True, False))
    return HeldOutLoss(correct, incorrect, len(responses), len({response.problem for response in responses}))


def collect_token_evidence(
    loss: StageLoss, config: RunConfig, index: RowIndex, rows_N: Int64, own_critic: Path | None
) -> tuple[ProgramPair, ...]:
    """Trace at most `MAX_PAIRS` pairs of the held-out rows, which stand as pairs of one problem, correct first.

    `own_critic` holds the critic where it is not the policy's own value head; it and the reference are loaded on the
    CPU. Where ranks share the policy's weights, every rank calls it.
    """
    tokenizer = run_tokenizer(config)
    chosen, rows_C = _choose(index, rows_N, tokenizer)
    if not chosen:
        return ()
    told = told_when_asked(config.data.condition)
    batches = _with_edits_of_pairs(list(batches_of_rows(index, rows_C, config, told)))
    scores = _scores(loss, config, own_critic)
    micros = [scores.micro_batch(batch, step=0, seed=config.seed, with_policy_losses=True) for batch in batches]
    weights = _weights(config, micros)
    traces = [
        _trace(micro, batch, document, {name: each[number] for name, each in weights.items()}, config)
        for number, (micro, batch) in enumerate(zip(micros, batches, strict=True))
        for document in documents_of(batch)
    ]
    return tuple(
        _program_pair(pair, right, wrong, tokenizer)
        for pair, right, wrong in zip(chosen, traces[::2], traces[1::2], strict=True)
    )


def _choose(index: RowIndex, rows_N: Int64, tokenizer: CodeTokenizer) -> tuple[list[_ChosenPair], Int64]:
    """Take the first pairs that are minimal, then the first others; pairs whose edit lies too far in come last."""
    even = rows_N[: len(rows_N) - len(rows_N) % 2].reshape(-1, 2)
    pairs_P2 = even[index.problem_R[even[:, 0]] == index.problem_R[even[:, 1]]]
    pairs_P2 = pairs_P2[index.is_correct_R[pairs_P2[:, 0]] & ~index.is_correct_R[pairs_P2[:, 1]]]
    found: list[tuple[_ChosenPair, Int64]] = []
    problems: set[str] = set()
    for pair_2 in pairs_P2:
        problem = index.problem_names[index.problem_R[pair_2[0]]]
        pair = None if problem in problems else _read_pair(index, pair_2, problem, tokenizer)
        if pair is not None:
            problems.add(problem)
            found.append((pair, pair_2))
    found.sort(key=lambda each: (each[0].edits[1].start >= MAX_TOKENS, not each[0].is_minimal))
    kept = found[:MAX_PAIRS]
    return [pair for pair, _ in kept], np.array([row for _, pair_2 in kept for row in pair_2], dtype=np.int64)


def _read_pair(index: RowIndex, pair_2: Int64, problem: str, tokenizer: CodeTokenizer) -> _ChosenPair | None:
    right, wrong = read_rows(
        Path(index.path),
        index.offset_R[pair_2].tolist(),
        index.num_bytes_R[pair_2].tolist(),
        index.is_correct_R[pair_2].tolist(),
    )
    examples = [encode_row(row, tokenizer, 0) for row in (right, wrong)]
    responses = [example.tokens_T[example.prompt_tokens :].astype(np.int64) for example in examples]
    edits = edited_spans(*responses)
    if edits is None:
        return None
    is_minimal = all(len(e) <= MAX_EDIT_FRAC * len(r) for e, r in zip(edits, responses, strict=True))
    return _ChosenPair(problem, (right, wrong), edits, is_minimal)


def _with_edits_of_pairs(batches: list[TokenBatch]) -> list[TokenBatch]:
    """Compare the programs of each pair with each other alone; a pair may lie in two batches."""
    examples = [example for batch in batches for example in examples_of(batch)]
    twins = [twin for pair in zip(examples[1::2], examples[::2], strict=True) for twin in pair]
    edits = iter([edits_of(own, [twin]) for own, twin in zip(examples, twins, strict=True)])
    return [with_edits(batch, list(islice(edits, len(batch.row_ids_M)))) for batch in batches]


def _scores(loss: StageLoss, config: RunConfig, own_critic: Path | None) -> RowScores:
    directories, cpu = [reference.path for reference in config.references], torch.device("cpu")
    values_of = values_of_policy(loss)
    if own_critic is not None and config.uses_critic:
        values_of = values_of_critic(load_value_path(own_critic, ValueSpec.of(config)), cpu)
    return RowScores(
        device=next(loss.parameters()).device,
        values_of=values_of if config.uses_critic else None,
        references=References(directories, cpu, "float32") if directories else None,
        loss=loss,
    )


def _weights(config: RunConfig, micros: Sequence[MicroBatch]) -> Weights:
    """Weigh the programs with every weighting whose scores are available, each from a new state."""
    has = {
        "none": True,
        "critic": micros[0].values_BT is not None,
        "reference": micros[0].reference_losses_BT is not None,
    }
    has_two = micros[0].incorrect_losses_BT is not None
    losses_BTH = micros[0].policy_losses_BTH
    assert losses_BTH is not None
    weights: Weights = {}
    for name, arm in ARMS.items():
        if has[arm.source] and (has_two or not arm.needs_two_references):
            weighting = config.weighting.model_copy(update={"type": name})
            scorer = build_scorer(config.model_copy(update={"weighting": weighting}), losses_BTH.shape[-1])
            step = scorer.weigh(micros, OneRank())
            weights[name] = [_at_targets(pair_weights_BTH[0, :, 0]) for pair_weights_BTH in step.pair_weights_BTH]
    return weights


def _at_targets(of_pairs_T: Tensor) -> Float32:
    """The pair (t, 1) speaks about token t + 1: [a b c] becomes [0 a b]."""
    shifted_T: Float32 = torch.cat([of_pairs_T.new_zeros(1), of_pairs_T[:-1]]).float().cpu().numpy()
    return shifted_T


def _trace(
    micro: MicroBatch, batch: TokenBatch, document: slice, weights: dict[str, Float32], config: RunConfig
) -> TokenTrace:
    """Cut one document's response out of everything; texts and edit come from its pair."""
    tensors = micro.tensors
    prompt_tokens = int((~batch.supervised_mask_BT[0, document]).sum())
    first = document.start + prompt_tokens
    num_tokens = document.stop - first
    response = slice(first, first + min(num_tokens, MAX_TOKENS))
    assert micro.policy_losses_BTH is not None
    values, errors, prompt_value = None, None, None
    if micro.values_BT is not None:
        errors_BT = td.td_errors(
            micro.values_BT,
            tensors.rewards_M,
            tensors.supervised_mask_BT,
            gamma=config.weighting.gamma,
            document_ids_BT=tensors.document_ids_BT,
        )
        values, errors = (_rounded(each[0, response].cpu().numpy()) for each in (micro.values_BT, errors_BT))
        prompt_value = float(micro.values_BT[0, first - 1])
    return TokenTrace(
        row_id=int(batch.row_ids_M[batch.document_ids_BT[0, document.start]]),
        num_tokens=num_tokens,
        tokens=(),
        losses=_rounded(_at_targets(micro.policy_losses_BTH[0, :, 0])[response]),
        weights={name: _rounded(each_T[response]) for name, each_T in weights.items()},
        prompt_value=prompt_value,
        values=values,
        td_errors=errors,
        edit=(0, 0),
    )


def _program_pair(pair: _ChosenPair, right: TokenTrace, wrong: TokenTrace, tokenizer: CodeTokenizer) -> ProgramPair:
    traces = [
        replace(trace, tokens=response_texts(row, tokenizer)[: len(trace.losses)], edit=(edit.start, edit.stop))
        for trace, row, edit in zip((right, wrong), pair.rows, pair.edits, strict=True)
    ]
    prompt = prompt_text(pair.rows[0], tokenizer)
    return ProgramPair(pair.problem, prompt[:MAX_PROMPT_CHARS], pair.is_minimal, *traces)


def prompt_text(row: Row, tokenizer: CodeTokenizer) -> str:
    """Return the text before a row's response, in the tokenizer's template."""
    if tokenizer.template == "chat":
        return tokenizer.chat_rows.prompt(chat_message(row.instruction, row.input))
    return render_prompt(row.instruction, row.input)


def response_texts(row: Row, tokenizer: CodeTokenizer) -> tuple[str, ...]:
    """Return the text of each supervised token, END for the end of sequence or turn; joined they are the response.

    A byte of a character that several tokens spell shows up with the last of them; the others are empty.
    """
    if tokenizer.template == "chat":
        return tokenizer.chat_rows.response_texts(chat_message(row.instruction, row.input), row.output, END)
    text = render_row(row).encode("utf-8")
    prompt_tokens = encode_row(row, tokenizer, 0).prompt_tokens
    _, spans = tokenizer.encode_with_offsets(text.decode("utf-8"))
    texts = [text[begin:end].decode("utf-8", errors="replace") for begin, end in spans[prompt_tokens - 1 :]]
    return (*texts, END)


def _rounded(values_T: Float32) -> tuple[float, ...]:
    """Four significant digits: what can be seen, at a third of the bytes."""
    return tuple(float(f"{value:.4g}") for value in values_T.tolist())
