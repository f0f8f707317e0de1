"""Passes of a policy over cached rows, and the passes over prompts before their requests enter a batch.

Shape suffixes: B rows, P prompts of a pass, T tokens, H horizons, V vocabulary, D model width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vendor.meta_llama.model import KVCache, Transformer

# Of a pass over prompts, padding included: more tokens gain little from sharing one, and their keys have to be held.
_TOKENS_OF_A_PASS = 512


@dataclass(frozen=True)
class CachedModel:
    """A transformer whose horizons 1..num_horizons are in use; logits are those of the tokenizer's `num_pieces`."""

    model: Transformer
    num_horizons: int
    num_pieces: int

    @property
    def device(self) -> torch.device:
        return self.model.tok_embeddings.weight.device

    def new_cache(self, num_rows: int, max_length: int) -> KVCache:
        return KVCache(
            self.model.args,
            batch_size=num_rows,
            max_length=max_length,
            num_horizons=self.num_horizons,
            dtype=self.model.tok_embeddings.weight.dtype,
            device=self.device,
        )

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits of the tokenizer's pieces; a model's vocabulary may be padded beyond them."""
        return self.model.output(hidden_BTD)[..., : self.num_pieces]  # type: ignore[no-any-return]

    def logits_at(self, read_B: Sequence[int], h_trunk_BTD: Tensor, horizons: Sequence[int], cache: KVCache) -> Tensor:
        """Fill the heads' caches over the pass, and read them [B, H, V] at one position of each row."""
        if not horizons:
            return h_trunk_BTD.new_empty(len(read_B), 0, self.num_pieces)
        read_B1 = torch.tensor(read_B, device=self.device)[:, None]
        return self.logits(self.model.heads_hidden_at(read_B1, h_trunk_BTD, horizons, cache=cache))


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt after its pass: a row of `cache`, and what all horizons in use say after its last token."""

    cache: KVCache
    row: int
    logits_HV: Tensor  # horizon 1 first


class PromptReader:
    """Reads prompts ahead, several different ones in a pass, and holds those of one pass.

    `prompts` are those that will be asked for, in that order, longest first, equal ones together.
    """

    def __init__(self, model: CachedModel, prompts: Iterable[tuple[int, ...]]) -> None:
        self._model = model
        self._unread = list(dict.fromkeys(prompts))[::-1]
        self._read: dict[tuple[int, ...], ReadPrompt] = {}

    def read(self, prompt_ids: tuple[int, ...]) -> ReadPrompt:
        """Return a prompt, read together with those behind it unless it has been."""
        while prompt_ids not in self._read:
            num = max(1, min(len(self._unread), _TOKENS_OF_A_PASS // len(self._unread[-1])))
            self._read = self._pass([self._unread.pop() for _ in range(num)])
        return self._read[prompt_ids]

    def _pass(self, prompts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], ReadPrompt]:
        """Read prompts of any lengths, padded on the right: nothing looks there, and no cache counts it."""
        lengths, longest = [len(prompt) for prompt in prompts], max(map(len, prompts))
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        cache = self._model.new_cache(len(prompts), longest)
        h_trunk_PTD = self._model.model.trunk(torch.tensor(padded, device=self._model.device), cache=cache)
        last_P, horizons = [length - 1 for length in lengths], range(1, self._model.num_horizons + 1)
        logits_PHV = self._model.logits_at(last_P, h_trunk_PTD, horizons, cache)
        cache.advance(lengths)
        return {
            prompt: ReadPrompt(cache, row, logits_HV)
            for row, (prompt, logits_HV) in enumerate(zip(prompts, logits_PHV, strict=True))
        }
