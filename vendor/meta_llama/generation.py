"""Plain batched decoding with horizon 1 and a cache: the simple, correct one. It drafts nothing and stops at no text.

Prompts of different lengths walk in lock-step from the shortest one's end; a longer prompt's own tokens overrule what
was predicted for them, so no padding ever enters the attention:

    prompts    [1 5] and [1 7 8 9]
    step 1     feeds [1 5] and [1 7]; the first row's new token is a, the second row keeps its own 8
    step 2     feeds [a]   and [8];   the first row's new token is b, the second row keeps its own 9
    step 3     feeds [b]   and [9];   both rows get a new token
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vendor.meta_llama.model import KVCache, Transformer


@dataclass(frozen=True)
class _Row:
    """One prompt on its way; `tokens` grows by the generated ids."""

    tokens: list[int]
    prompt_tokens: int
    generator: torch.Generator | None


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    eos_id: int,
    max_new_tokens: int,
    temperature: float,
    generators: Sequence[torch.Generator] | None = None,
) -> list[list[int]]:
    """Return the ids generated after each prompt, without the end id.

    Temperature 0 takes the likeliest token. Otherwise row i draws from `generators[i]` (CPU generators), once per
    generated token, so that a row's draws do not depend on the others in the batch. ValueError for an empty prompt or
    missing generators.
    """
    rows = _rows(prompts, temperature, generators)
    shortest, longest = min(row.prompt_tokens for row in rows), max(row.prompt_tokens for row in rows)
    weight = model.tok_embeddings.weight
    max_length = longest + max_new_tokens
    cache = KVCache(model.args, batch_size=len(rows), max_length=max_length, dtype=weight.dtype, device=weight.device)
    start, end = 0, shortest
    while any(_wants_more(row, eos_id, max_new_tokens) for row in rows):
        window = [[*row.tokens, *[eos_id] * end][start:end] for row in rows]  # finished rows idle on the end id
        logits_BV = _next_logits(model, torch.tensor(window, device=weight.device), cache)
        for row, logits_V in zip(rows, logits_BV, strict=True):
            if len(row.tokens) == end and _wants_more(row, eos_id, max_new_tokens):
                row.tokens.append(_choose(logits_V, temperature, row.generator))
        start, end = end, end + 1
    return [_without_end(row.tokens[row.prompt_tokens :], eos_id) for row in rows]


def _rows(
    prompts: Sequence[Sequence[int]], temperature: float, generators: Sequence[torch.Generator] | None
) -> list[_Row]:
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token: begin it with the begin id")
    if temperature > 0 and (generators is None or len(generators) != len(prompts)):
        raise ValueError(f"sampling {len(prompts)} prompts needs as many generators")
    drawn: Sequence[torch.Generator | None] = generators or [None] * len(prompts)
    return [_Row(list(prompt), len(prompt), drawn[index]) for index, prompt in enumerate(prompts)]


def _wants_more(row: _Row, eos_id: int, max_new_tokens: int) -> bool:
    num_new = len(row.tokens) - row.prompt_tokens
    return num_new < max_new_tokens and not (num_new > 0 and row.tokens[-1] == eos_id)


def _next_logits(model: Transformer, tokens_BT: Tensor, cache: KVCache) -> Tensor:
    """Return float32 logits [B, V] of the token after the last one, on the CPU."""
    hidden_BTD = model.head_hidden(model.trunk(tokens_BT, cache=cache), 1, cache=cache)
    return model.output(hidden_BTD[:, -1]).float().cpu()  # type: ignore[no-any-return]


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))


def _without_end(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] == eos_id else tokens
