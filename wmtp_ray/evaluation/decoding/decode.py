"""Decode many requests with one model: batched, cached, with the prediction heads' drafts where asked for.

Prompts are read ahead, several in a pass, equal ones once. Rows of a batch have lengths of their own, so no padding
enters the attention, and a row that is done makes room for the next request at once.

One forward of a row, with two draft horizons:

    fed        d1  d2  d3      d1 is decided; d2 and d3 are what horizons 2 and 3 said where horizon 1 said d1
    chosen     g1  g2  g3      what horizon 1 says after each of them
    d2 == g1, d3 != g2         g1 and g2 are decided; the cache goes on behind d2; g3 answered a wrong draft
    fed next   g2  ..  ..      with the drafts that horizons 2 and 3 read at d2

A decided token is always horizon 1's own choice after decided tokens, by the same rule and the same random number as
without drafts: drafts change how many forwards it takes, and nothing else. When sampling, a draft is kept where it is
the model's own draw, into which it never enters, so drafts keep not only the distribution but every single sample.

Shape suffixes: B rows, T tokens of a block, H draft horizons, V vocabulary, D model width.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from vendor.meta_llama.model import Transformer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.decoding.decoding_request import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.decoding.drafting import draft_count
from wmtp_ray.evaluation.decoding.prompt_reader import CachedModel, PromptReader
from wmtp_ray.evaluation.decoding.row import Row
from wmtp_ray.evaluation.decoding.token_choice import chooser

Propose = Callable[[DecodingRequest, Sequence[int], Sequence[int]], Sequence[int]]


def decode(
    model: Transformer,
    tokenizer: CodeTokenizer,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    *,
    batch_size: int,
) -> Iterator[Decoded]:
    """Continue every request, and give each out as soon as it is done: in order of completion, not of requests.

    At most `batch_size` requests are under way; longest prompts first, equal prompts together. The tokens of a request
    depend on its prompt and seed alone, up to ties within the rounding of the weights' dtype. The model decodes where
    its weights are, in evaluation mode until the iterator is exhausted or closed.

    Raises before anything is decoded: ConfigError for more drafts than the model has heads, ArtifactError when the
    tokenizer has pieces that the model does not know, ValueError for an empty prompt.
    """
    return decode_proposed(model, tokenizer, requests, settings, batch_size=batch_size, propose=_as_the_heads_say)


def decode_proposed(
    model: Transformer,
    tokenizer: CodeTokenizer,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    *,
    batch_size: int,
    propose: Propose,
) -> Iterator[Decoded]:
    """Decode with other drafts than the heads': `propose(request, ids, drafts)` may replace each row's drafts.

    `ids` are decided; it returns as many tokens as there are drafts. Whatever it returns, the same tokens come out.
    """
    num_heads = model.args.n_future_tokens - 1
    if settings.draft_horizons > num_heads:
        raise ConfigError(
            f"draft_horizons is {settings.draft_horizons}, but the model has {num_heads} heads beyond horizon 1. "
            f"Set it to {num_heads} or less."
        )
    if tokenizer.vocab_size > model.args.vocab_size:
        raise ArtifactError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the model knows {model.args.vocab_size}. "
            "Use the tokenizer that the model was trained with."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if empty := [request.key for request in requests if not request.prompt_ids]:
        raise ValueError(f"{empty[0]} has an empty prompt; begin it with BOS")
    return _run(model, tokenizer, requests, settings, batch_size, propose)


def _as_the_heads_say(request: DecodingRequest, ids: Sequence[int], drafts: Sequence[int]) -> Sequence[int]:
    return drafts


def _run(
    model: Transformer,
    tokenizer: CodeTokenizer,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    batch_size: int,
    propose: Propose,
) -> Iterator[Decoded]:
    if not requests:
        return
    waiting = deque(sorted(requests, key=lambda request: (-len(request.prompt_ids), request.prompt_ids)))
    decoding = _Decoding(model, tokenizer, settings, propose, waiting, num_slots=min(batch_size, len(requests)))
    was_training = model.training
    model.eval()
    try:
        while waiting or decoding.rows:
            decoding.enter([waiting.popleft() for _ in range(min(decoding.num_free, len(waiting)))])
            yield from decoding.take_finished()
            decoding.step()
            yield from decoding.take_finished()
    finally:
        model.train(was_training)


class _Decoding:
    """The rows under way and their cache; row i of `rows` is row i of the cache."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: CodeTokenizer,
        settings: DecodingSettings,
        propose: Propose,
        requests: Sequence[DecodingRequest],
        *,
        num_slots: int,
    ) -> None:
        self.rows: list[Row] = []
        self._num_slots = num_slots
        self._model = CachedModel(model, settings.draft_horizons + 1, tokenizer.vocab_size)
        self._tokenizer = tokenizer
        self._settings = settings
        self._propose = propose
        self._choose = chooser(settings.temperature, settings.top_p)
        self._drafts = draft_count(settings.drafting, settings.draft_horizons)
        prompts = [request.prompt_ids for request in requests]
        self._prompts = PromptReader(self._model, prompts)
        # a row's last block may reach past its last token by all its drafts
        max_length = len(prompts[0]) + settings.max_new_tokens + settings.draft_horizons
        self._cache = self._model.new_cache(num_slots, max_length)

    @property
    def num_free(self) -> int:
        return self._num_slots - len(self.rows)

    @torch.inference_mode()
    def enter(self, requests: Sequence[DecodingRequest]) -> None:
        """Add requests to the rows, and decide their first tokens, which may finish some."""
        if not requests:
            return
        prompts = [self._prompts.read(request.prompt_ids) for request in requests]
        rows = [Row(request, self._settings, self._tokenizer) for request in requests]
        logits_BHV = torch.stack([prompt.logits_HV for prompt in prompts])
        for row, prompt, chosen_T in zip(rows, prompts, self._chosen(rows, logits_BHV[:, :1]), strict=True):
            row.decide(*chosen_T)
            self._cache.copy_row(len(self.rows), prompt.cache, prompt.row)
            self.rows.append(row)
        self._set_blocks(rows, self._chosen(rows, logits_BHV[:, 1:]))

    @torch.inference_mode()
    def step(self) -> None:
        """Run one forward pass over the blocks of all rows."""
        if not self.rows:
            return
        start_s = perf_counter()
        model, tokens_BT = self._model.model, torch.tensor([row.block for row in self.rows], device=self._model.device)
        h_trunk_BTD = model.trunk(tokens_BT, cache=self._cache)
        logits_BTV = self._model.logits(model.head_hidden(h_trunk_BTD, 1, cache=self._cache))
        chosen_BT = self._chosen(self.rows, logits_BTV)
        accepted_B = [row.decide_block(chosen_T) for row, chosen_T in zip(self.rows, chosen_BT, strict=True)]
        chosen_s = perf_counter()
        horizons = range(2, self._drafts.kept + 2)
        drafts_BHV = self._model.logits_at(accepted_B, h_trunk_BTD, horizons, self._cache)
        self._cache.advance([1 + num for num in accepted_B])
        drafts_BH = self._chosen(self.rows, drafts_BHV)
        self._drafts.note(accepted_B, chosen_s - start_s, perf_counter() - chosen_s)
        self._set_blocks(self.rows, drafts_BH)

    def take_finished(self) -> list[Decoded]:
        """Remove the finished rows; the last row takes the place of each."""
        finished = []
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].finish is None:
                continue
            finished.append(self.rows[slot].decoded())
            last = self.rows.pop()
            if slot < len(self.rows):
                self._cache.copy_row(slot, self._cache, len(self.rows))
                self.rows[slot] = last
        return finished[::-1]

    def _chosen(self, rows: Sequence[Row], logits_BTV: Tensor) -> list[list[int]]:
        """Choose the tokens of each row's next T positions."""
        num_positions = logits_BTV.shape[1]
        if num_positions == 0:
            return [[]] * len(rows)
        uniforms_BT = torch.from_numpy(np.stack([row.uniforms(num_positions) for row in rows]))
        tokens_R = self._choose(logits_BTV.flatten(0, 1), uniforms_BT.flatten())
        chosen: list[list[int]] = tokens_R.view(len(rows), num_positions).tolist()
        return chosen

    def _set_blocks(self, rows: Sequence[Row], drafts_BH: Sequence[Sequence[int]]) -> None:
        """Give each row that goes on its next block: the newest token and as many drafts as are checked."""
        num = self._drafts.checked
        for row, drafts_H in zip(rows, drafts_BH, strict=True):
            if row.finish is None:
                drafts_H = drafts_H[:num]
                proposed_H = self._propose(row.request, row.ids, drafts_H)
                assert len(proposed_H) == len(drafts_H), "as many drafts as there are horizons"
                row.block = [row.ids[-1], *proposed_H]
