"""Plain against self-speculative decoding of one model: seconds, tokens per forward, and whether the tokens are equal.

    python bench/decoding.py --model RUN/final --tokenizer tokenizer.model --rows valid.jsonl
        [--prompts 32] [--samples 2] [--max-new-tokens 160] [--batch-sizes 1 16] [--rounds 5] [--threads 1]
        [--drafting fixed]

Prompts are the first different ones of the rows. Variants (0, 1, ... draft horizons; greedy, and sampled at 0.8 with
top_p 0.95) are interleaved within a round; shown are medians of the ratios within a round. Seconds are the process's
CPU seconds, which other work on the machine disturbs less. Equal means that every
request got the ids of plain decoding, in float32 and in float64; bfloat16 is audited against a pass over the finished
text. Where `transformers` can be imported, its `generate` decodes as many tokens with a LLaMA of the same size (horizon
1 alone, random weights, nothing ends early), in batches of equal size, greedy, interleaved with ours.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import orjson
import torch

from vendor.meta_llama.model import ModelArgs, Transformer
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_prompt
from wmtp_ray.evaluation.decoding import (
    Decoded,
    DecodingRequest,
    DecodingSettings,
    DecodingStatistics,
    audit,
    decode,
    request_seed,
)

Variant = Callable[[], list[Decoded]]
RIVAL = "transformers"


def make_requests(rows: Path, tokenizer: CodeTokenizer, num_prompts: int, num_samples: int) -> list[DecodingRequest]:
    """Requests for the first different prompts of a JSONL of rows."""
    prompts = dict[tuple[int, ...], None]()
    with rows.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            prompts[tuple(encode_prompt(row["instruction"], row["input"], tokenizer).tolist())] = None
            if len(prompts) == num_prompts:
                break
    return [
        DecodingRequest(f"{number}/{sample}", prompt_ids, request_seed(0, str(number), sample))
        for number, prompt_ids in enumerate(prompts)
        for sample in range(num_samples)
    ]


def ids_by_key(decoded: list[Decoded]) -> dict[str, tuple[int, ...]]:
    return {each.key: each.ids for each in decoded}


def measure(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, interleaved, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            start = time.process_time()
            variant()
            if number > 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def median_ratio(of_s: list[float], to_s: list[float]) -> float:
    """The median over rounds of `to_s` / `of_s`: how many times as fast."""
    return statistics.median(to / of for of, to in zip(of_s, to_s, strict=True))


def show(name: str, seconds: dict[str, list[float]], plain: str, decoded: dict[str, list[Decoded]]) -> None:
    """Print one variant beside plain decoding of the same requests, and beside `transformers` where that ran."""
    found, expected = decoded[name], ids_by_key(decoded[plain])
    sums, equal = DecodingStatistics.of(found), sum(expected[each.key] == each.ids for each in found)
    accepted = " ".join(f"{share:.2f}" for share in sums.acceptance_H)
    rivals = f" {median_ratio(seconds[name], seconds[RIVAL]):5.2f} x {RIVAL}" if RIVAL in seconds else ""
    print(
        f"{name:30} {sums.num_tokens / statistics.median(seconds[name]):6.0f} tokens/s"
        f" {median_ratio(seconds[name], seconds[plain]):5.2f} x plain{rivals:22}"
        f" {sums.tokens_per_forward:5.2f} tokens/forward   accepted {accepted:14}   equal {equal}/{len(found)}",
        flush=True,
    )


def rival(args: ModelArgs, requests: list[DecodingRequest], batch_size: int, num_new: int) -> Callable[[], None]:
    """`transformers` over the same prompts, padded on the left, `num_new` tokens each."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=args.dim,
        intermediate_size=args.hidden_dim,
        num_hidden_layers=args.num_trunk_blocks + 1,
        num_attention_heads=args.n_heads,
        num_key_value_heads=args.num_kv_heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = sorted((request.prompt_ids for request in requests), key=len)

    def run() -> None:
        for begin in range(0, len(prompts), batch_size):
            batch = prompts[begin : begin + batch_size]
            longest = max(map(len, batch))
            padded = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in batch])
            seen = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
            model.generate(padded, attention_mask=seen, max_new_tokens=num_new, do_sample=False)

    return run


def compare_speed(
    model: Transformer, tokenizer: CodeTokenizer, options: argparse.Namespace, requests: list[DecodingRequest]
) -> None:
    """Time every number of draft horizons, greedy and sampled, at every batch size."""
    greedy = DecodingSettings(options.max_new_tokens, 0.0, 1.0, (), 0, options.drafting)
    for batch_size in options.batch_sizes:
        for mode, settings in {"greedy": greedy, "sampled": replace(greedy, temperature=0.8, top_p=0.95)}.items():

            def variant(settings: DecodingSettings, batch_size: int = batch_size) -> Variant:
                return lambda: list(decode(model, tokenizer, requests, settings, batch_size=batch_size))

            variants = {
                f"batch {batch_size}, {mode}, {drafts} drafts": variant(replace(settings, draft_horizons=drafts))
                for drafts in range(model.args.n_future_tokens)
            }
            decoded, plain = {name: run() for name, run in variants.items()}, next(iter(variants))
            timed: dict[str, Callable[[], object]] = dict(variants)
            num_tokens = DecodingStatistics.of(decoded[plain]).num_tokens
            num_new = round(num_tokens / len(requests))
            if mode == "greedy" and find_spec(RIVAL) is not None:
                timed[RIVAL] = rival(model.args, requests, batch_size, num_new)
            seconds = measure(timed, options.rounds)
            if RIVAL in seconds:  # for as many tokens as ours
                seconds[RIVAL] = [own * num_tokens / (num_new * len(requests)) for own in seconds[RIVAL]]
            for name in variants:
                show(name, seconds, plain, decoded)


def compare_tokens(
    model: Transformer, tokenizer: CodeTokenizer, options: argparse.Namespace, requests: list[DecodingRequest]
) -> None:
    """Count requests whose ids are those of plain decoding one at a time, per dtype; audit bfloat16."""
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        for temperature in (0.0, 0.8):
            settings = DecodingSettings(options.max_new_tokens, temperature, 0.95, (), 0)
            alone = ids_by_key(list(decode(model, tokenizer, requests, settings, batch_size=1)))
            equal = [
                sum(alone[each.key] == each.ids for each in decode(model, tokenizer, requests, drafted, batch_size=16))
                for drafts in range(model.args.n_future_tokens)
                for drafted in [replace(settings, draft_horizons=drafts)]
            ]
            counts = ", ".join(f"{drafts} drafts {count}/{len(requests)}" for drafts, count in enumerate(equal))
            print(f"{dtype}, temperature {temperature}, batch 16 equal to plain one at a time: {counts}")
    model.to(torch.bfloat16)
    settings = DecodingSettings(options.max_new_tokens, 0.0, 1.0, (), model.args.n_future_tokens - 1)
    prompts = {request.key: request.prompt_ids for request in requests}
    reports = [
        audit(model, prompts[each.key], each.ids)
        for each in decode(model, tokenizer, requests, settings, batch_size=16)
        if each.ids
    ]
    print(
        f"{torch.bfloat16}, audited: {sum(report.num_tokens for report in reports)} tokens, "
        f"{sum(report.num_argmax for report in reports)} argmax, "
        f"{sum(report.num_within_epsilon for report in reports)} within epsilon, "
        f"{sum(report.num_divergent for report in reports)} divergent"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drafting", choices=["fixed", "measured"], default="fixed")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_transformer(options.model), CodeTokenizer(options.tokenizer)
    requests = make_requests(options.rows, tokenizer, options.prompts, options.samples)
    args, num_weights = model.args, sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{num_weights:,} weights, {args.num_trunk_blocks} trunk blocks + {args.n_future_tokens} heads, "
        f"{len(requests)} requests, float32, CPU, {options.threads} threads, "
        f"{options.rounds} rounds, torch {torch.__version__}"
    )
    compare_speed(model, tokenizer, options, requests)
    compare_tokens(model, tokenizer, options, requests)


if __name__ == "__main__":
    main()
