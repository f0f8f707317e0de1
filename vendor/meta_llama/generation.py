"""Plain decoding of one prompt after the other, token by token: the reference that faster decoding is compared with.

Our own definition, not Meta's code. No batches, no drafts, no stop strings; evaluation decodes with
`wmtp_ray/evaluation/decoding/`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vendor.meta_llama.model import KVCache, Transformer


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

    Temperature 0 takes the likeliest token. Otherwise prompt i draws from `generators[i]` (CPU generators), once per
    generated token. ValueError for an empty prompt or missing generators.
    """
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token: begin it with the begin id")
    if temperature > 0 and (generators is None or len(generators) != len(prompts)):
        raise ValueError(f"sampling {len(prompts)} prompts needs as many generators")
    drawn: Sequence[torch.Generator | None] = generators or [None] * len(prompts)
    return [
        _continue(model, prompt, eos_id, max_new_tokens, temperature, generator)
        for prompt, generator in zip(prompts, drawn, strict=True)
    ]


def _continue(
    model: Transformer,
    prompt: Sequence[int],
    eos_id: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[int]:
    weight = model.tok_embeddings.weight
    max_length = len(prompt) + max_new_tokens
    cache = KVCache(model.args, batch_size=1, max_length=max_length, dtype=weight.dtype, device=weight.device)
    fed, new_ids = list(prompt), list[int]()
    while len(new_ids) < max_new_tokens:
        logits_BTHV = model(torch.tensor([fed], device=weight.device), cache.lengths[0], cache=cache)
        token = _choose(logits_BTHV[0, -1, 0].float().cpu(), temperature, generator)
        if token == eos_id:
            break
        new_ids.append(token)
        fed = [token]
    return new_ids


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
