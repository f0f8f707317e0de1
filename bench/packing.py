"""Padding against packing: how many useful tokens a second a trunk trains on, and how full sequences get.

    python bench/packing.py [--data FILE.jsonl --tokenizer tokenizer.model] [--rounds 15] [--out FILE.md]

Row lengths are those of --data (rows over 2,048 tokens left out, as training does), else drawn from the quantiles of
the CodeContests sample below; either way 200,000 rows in random order. Throughput is forward and backward of a micro
trunk (dim 256, 3 blocks) on one thread, in interleaved rounds: (a) 8 rows padded to the longest, causal attention;
(b) a packed sequence, attention by document; (c) the same sequence under a dense block-diagonal mask. A round times two
batches of (a) and one sequence of (b). Rates are of all rounds together: the rare batch with one long row is what
padding pays most for, and a median over rounds passes it over (it is shown beside, as it is steadier). Times are CPU
seconds of the process, because others may share the cores.
"""

import argparse
import os
import statistics
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vendor.meta_llama import ModelArgs, Transformer
from vendor.meta_llama import model as llama
from vendor.meta_llama.attention import SequenceContext, document_attention
from wmtp_ray.contracts import Int32
from wmtp_ray.data.index import build_index, count_tokens
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.plan.best_fit import pack_best_fit

# Tokens of the 1,936 rows of the sample at 0, 5, ..., 100 %: 11 problems, longest row 1,804.
CODECONTESTS_QUANTILES = [331, 407, 413, 420, 428, 437, 447, 459, 474, 507, 548]
CODECONTESTS_QUANTILES += [580, 606, 618, 629, 641, 654, 680, 720, 807, 1804]
MAX_TOKENS, NUM_ROWS, PADDED_ROWS, WINDOW_ROWS, DENSE_EVERY = 2048, 200_000, 8, 128, 5
SEQUENCE_TOKENS = (4096, 8192)
WINDOWS = (16, 24, 32, 48, 64, 128, 256, 4096)
ARGS = ModelArgs(dim=256, n_layers=7, n_heads=4, vocab_size=32000, n_future_tokens=4)
Attention = Callable[[Tensor, Tensor, Tensor, SequenceContext], Tensor]


def measured_lengths(data: Path, tokenizer: Path) -> Int32:
    """Count the tokens of a JSONL's rows, without writing an index."""
    num_tokens_R = count_tokens(build_index(data, on_error="skip").index, CodeTokenizer(tokenizer)).num_tokens_R
    return num_tokens_R[num_tokens_R <= MAX_TOKENS]


def planned_lengths(lengths_R: Int32 | None, random: np.random.Generator) -> Int32:
    """Draw NUM_ROWS rows in random order: of the lengths given, else of the quantiles."""
    if lengths_R is not None:
        return random.choice(lengths_R, NUM_ROWS).astype(np.int32)
    even = np.linspace(0, 1, len(CODECONTESTS_QUANTILES))
    return np.interp(random.random(NUM_ROWS), even, CODECONTESTS_QUANTILES).astype(np.int32)


def wide_lengths(random: np.random.Generator) -> Int32:
    """Draw lengths of many unlike problems: lognormal, median 700, a factor of 1.65 a standard deviation."""
    return random.lognormal(np.log(700), 0.5, NUM_ROWS).clip(60, MAX_TOKENS).astype(np.int32)


def longest_first_sequences(num_tokens_P: Int32, sequence_tokens: int, window_rows: int) -> int:
    """Count the sequences of longest-first best-fit; those of a window stay open during the next one.

    `open_keys` is sorted: free tokens of each open sequence, then its number.
    """
    open_keys: list[tuple[int, int]] = []
    num_sequences = opened_before = 0
    for start in range(0, len(num_tokens_P), window_rows):
        open_keys = [key for key in open_keys if key[1] >= opened_before]
        opened_before = num_sequences
        for tokens in np.sort(num_tokens_P[start : start + window_rows])[::-1].tolist():
            place = bisect_left(open_keys, (tokens, 0))
            if place == len(open_keys):
                free, number, num_sequences = sequence_tokens, num_sequences, num_sequences + 1
            else:
                free, number = open_keys.pop(place)
            insort(open_keys, (free - tokens, number))
    return num_sequences


def plan_order_sequences(num_tokens_P: Int32, sequence_tokens: int) -> int:
    """Count the sequences when each row that does not fit opens the next one."""
    num_sequences, free = 0, 0
    for tokens in num_tokens_P.tolist():
        if tokens > free:
            num_sequences, free = num_sequences + 1, sequence_tokens
        free -= tokens
    return num_sequences


def utilisation_table(name: str, num_tokens_P: Int32, sequence_tokens: int) -> Iterator[str]:
    """Yield how full sequences get by window, how far rows move, and how long packing takes."""
    total = int(num_tokens_P.sum())

    def used(num_sequences: int) -> str:
        return f"{total / (num_sequences * sequence_tokens):.4f}"

    in_order = used(plan_order_sequences(num_tokens_P, sequence_tokens))
    yield f"\n{name}, sequences of {sequence_tokens:,} tokens; cut in plan order without a window: {in_order}\n"
    yield "| window, rows | utilisation | longest-first | rows move, mean | rows move, most | 200,000 rows, s |"
    yield "|---|---|---|---|---|---|"
    for window_rows in WINDOWS:
        start = time.process_time()
        packed = pack_best_fit(num_tokens_P, sequence_tokens, window_rows=window_rows)
        seconds = time.process_time() - start
        moved = np.abs(packed.order_P - np.arange(len(num_tokens_P)))
        longest_first = used(longest_first_sequences(num_tokens_P, sequence_tokens, window_rows))
        yield (
            f"| {window_rows} | {used(packed.num_sequences)} | {longest_first} | {moved.mean():.1f} | {moved.max()} | "
            f"{seconds:.2f} |"
        )


@lru_cache(maxsize=1)
def block_diagonal_mask(document_lengths: tuple[int, ...]) -> Tensor:
    """Return the causal mask of a flat sequence, [T, T]."""
    return torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in document_lengths))


def dense_attention(queries: Tensor, keys: Tensor, values: Tensor, context: SequenceContext) -> Tensor:
    """What `document_attention` computes, in one call under a mask of all pairs."""
    assert context.document_lengths is not None
    mask_TT = block_diagonal_mask(context.document_lengths)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask_TT)


@contextmanager
def attention_by(attention: Attention) -> Iterator[None]:
    """Let flat batches attend by another function."""
    llama.document_attention = attention
    try:
        yield
    finally:
        llama.document_attention = document_attention


def train_padded(model: Transformer, lengths: Sequence[int]) -> Tensor:
    """Forward and backward of rows padded to the longest; padding stands on the right and gets no gradient."""
    tokens_BT = torch.ones(len(lengths), max(lengths), dtype=torch.int64)
    useful_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return _backward(model, model.trunk(tokens_BT), useful_BT)


def train_packed(model: Transformer, lengths: Sequence[int]) -> Tensor:
    """Forward and backward of rows one behind the other."""
    tokens_BT = torch.ones(1, sum(lengths), dtype=torch.int64)
    return _backward(model, model.trunk(tokens_BT, document_lengths=lengths), torch.ones_like(tokens_BT))


def _backward(model: Transformer, h_BTD: Tensor, useful_BT: Tensor) -> Tensor:
    """Return the gradient of the trunk's lowest output projection, after a backward of each useful token's sum."""
    model.zero_grad(set_to_none=True)
    h_BTD.backward(useful_BT[..., None].to(h_BTD).expand_as(h_BTD))
    gradient = model.layers[0].attention.wo.weight.grad
    assert gradient is not None
    return gradient


@dataclass(frozen=True)
class Timed:
    """Useful tokens of some batches and the CPU seconds of their forward and backward."""

    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def timed(batches: Sequence[Sequence[int]], train: Callable[[Sequence[int]], Tensor]) -> Timed:
    """Train on batches of row lengths; what counts are the rows' own tokens."""
    start = time.process_time()
    for lengths in batches:
        train(lengths)
    return Timed(sum(map(sum, batches)), time.process_time() - start)


def throughput_table(num_tokens_P: Int32, rounds: int) -> Iterator[str]:
    """Yield rates of the three ways, for every size of a sequence; the slow third one runs in every fifth round."""
    torch.manual_seed(0)
    model = Transformer(ARGS)
    yield (
        f"| sequence | (a) padded to the longest of {PADDED_ROWS} | (b) packed | (c) packed, dense mask | (b) / (a) | "
        "(b) / (a), median round |"
    )
    yield "|---|---|---|---|---|---|"
    for sequence_tokens in SEQUENCE_TOKENS:
        packed = pack_best_fit(num_tokens_P, sequence_tokens, window_rows=WINDOW_ROWS)
        require_same_gradients(model, num_tokens_P[packed.positions(0)].tolist())
        padded, flat, dense = [], [], []
        for number in range(rounds):
            first_row = 2 * number * PADDED_ROWS
            rows_NP = num_tokens_P[first_row : first_row + 2 * PADDED_ROWS].reshape(2, PADDED_ROWS)
            sequence = [num_tokens_P[packed.positions(number)].tolist()]
            padded.append(timed(rows_NP.tolist(), partial(train_padded, model)))
            flat.append(timed(sequence, partial(train_packed, model)))
            if number % DENSE_EVERY == 0:
                with attention_by(dense_attention):
                    dense.append(timed(sequence, partial(train_packed, model)))
        whole = [Timed(sum(t.tokens for t in way), sum(t.seconds for t in way)) for way in (padded, flat, dense)]
        rates = " | ".join(f"{run.tokens_per_s:,.0f}" for run in whole)
        ratio = whole[1].tokens_per_s / whole[0].tokens_per_s
        median = statistics.median(b.tokens_per_s / a.tokens_per_s for a, b in zip(padded, flat, strict=True))
        yield f"| {sequence_tokens:,} | {rates} | **{ratio:.2f}** | {median:.2f} |"


def require_same_gradients(model: Transformer, lengths: Sequence[int]) -> None:
    """All three ways must do the same work, else their times mean nothing."""
    padded, flat = train_padded(model, lengths), train_packed(model, lengths)
    with attention_by(dense_attention):
        dense = train_packed(model, lengths)
    for gradient in (flat, dense):
        assert (gradient - padded).norm() <= 1e-4 * padded.norm()


def padding_share(num_tokens_P: Int32) -> float:
    """Useful share of the slots of batches padded to their longest row."""
    batches = num_tokens_P[: NUM_ROWS // PADDED_ROWS * PADDED_ROWS].reshape(-1, PADDED_ROWS)
    return float(batches.sum() / (batches.max(axis=1).sum() * PADDED_ROWS))


def report(lengths_R: Int32 | None, rounds: int) -> Iterator[str]:
    """Yield the tables, line by line."""
    random = np.random.default_rng(0)
    num_tokens_P = planned_lengths(lengths_R, random)
    source = "quantiles of the CodeContests sample" if lengths_R is None else f"{len(lengths_R):,} rows of --data"
    yield f"Lengths: {source}; mean {num_tokens_P.mean():.0f}, longest {num_tokens_P.max()} tokens.\n"
    yield "## Useful tokens a second"
    yield f"\nTrunk, forward and backward, one thread, CPU seconds, {rounds} interleaved rounds.\n"
    yield from throughput_table(num_tokens_P, rounds)
    yield f"\nUseful share of the slots: (a) {padding_share(num_tokens_P):.3f}; (b) the tables below.\n"
    yield "## How full sequences get"
    for name, lengths_P in {"These lengths": num_tokens_P, "Lognormal lengths": wide_lengths(random)}.items():
        for sequence_tokens in SEQUENCE_TOKENS:
            yield from utilisation_table(name, lengths_P, sequence_tokens)


def command_line(arguments: argparse.Namespace) -> str:
    """Return what was run and where, without this machine's paths."""
    files = f"--data {arguments.data.name} --tokenizer {arguments.tokenizer.name} " if arguments.data else ""
    command = f"python bench/packing.py {files}--rounds {arguments.rounds}"
    return f"`{command}` on {os.cpu_count()} CPU cores that other work shared, torch {torch.__version__}.\n"


def main() -> None:
    """Print the tables as they come; with --out, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if (arguments.data is None) != (arguments.tokenizer is None):
        parser.error("--data and --tokenizer go together")
    torch.set_num_threads(1)
    lengths_R = measured_lengths(arguments.data, arguments.tokenizer) if arguments.data else None
    lines = ["# Packing against padding\n", command_line(arguments)]
    print(*lines, sep="\n")
    for line in report(lengths_R, arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        atomic_write(arguments.out, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    main()
