"""Decode many requests with one model: batched, cached, with the prediction heads' drafts where asked for.

Requests with the same prompt share one pass over it. Rows of a batch have lengths of their own, so no padding enters
the attention, and a row that is done makes room for the next request at once.

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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vendor.meta_llama.model import KVCache, Transformer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.decoding.decoding_request import Decoded, DecodingRequest, DecodingSettings, Finish
from wmtp_ray.evaluation.decoding.stops import StopFinder, cut_at_stop
from wmtp_ray.evaluation.decoding.token_choice import chooser, uniforms

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
    num_slots, longest_prompt = min(batch_size, len(requests)), len(waiting[0].prompt_ids)
    decoding = _Decoding(model, tokenizer, settings, propose, num_slots=num_slots, longest_prompt=longest_prompt)
    was_training = model.training
    model.eval()
    try:
        while waiting or decoding.rows:
            while waiting and len(decoding.rows) < num_slots:
                if (row := decoding.enter(waiting.popleft())).finish is not None:
                    yield row.decoded()
            if decoding.rows:
                decoding.step()
            for row in decoding.take_finished():
                yield row.decoded()
    finally:
        model.train(was_training)


class _Row:
    """One request under way: what is decided, and the block that is fed next."""

    def __init__(self, request: DecodingRequest, settings: DecodingSettings, tokenizer: CodeTokenizer) -> None:
        self.request = request
        self.ids: list[int] = []
        self.block: list[int] = []
        self.finish: Finish | None = None
        self.num_forwards = 1  # the prompt's pass
        self._settings = settings
        self._tokenizer = tokenizer
        self._stops = StopFinder(tokenizer, settings.stop)
        self._uniforms = uniforms(request.seed, settings.max_new_tokens + settings.draft_horizons)
        self._num_blocks = 0
        self._accepted_H = [0] * settings.draft_horizons

    def uniforms(self, num: int) -> npt.NDArray[np.float64]:
        """Return the numbers of the next `num` positions."""
        return self._uniforms[len(self.ids) : len(self.ids) + num]

    def decide(self, token: int) -> None:
        """Append the prompt pass's or a block's next token, or finish."""
        if token in self._tokenizer.end_ids:
            self.finish = "end"
            return
        self.ids.append(token)
        if self._stops.found(self.request.prompt_ids, self.ids) or self._is_finished():
            self.finish = "stop"
        elif len(self.ids) == self._settings.max_new_tokens:
            self.finish = "length"

    def _is_finished(self) -> bool:
        """Run the request's test for a finished answer once a line: a token without a newline completes no line."""
        is_finished = self.request.is_finished
        if is_finished is None or "\n" not in self._stops.newest(self.request.prompt_ids, self.ids):
            return False
        return is_finished(self._tokenizer.decode_continuation(self.request.prompt_ids, self.ids))

    def decide_block(self, chosen_T: Sequence[int]) -> int:
        """Decide what was chosen after the block's tokens, as long as their drafts are right; return how many were."""
        self.num_forwards += 1
        self._num_blocks += 1
        for index, token in enumerate(chosen_T):
            self.decide(token)
            if self.finish is not None or self.block[index + 1 : index + 2] != [token]:
                break
            self._accepted_H[index] += 1
        return index

    def decoded(self) -> Decoded:
        """Return the finished row, its text cut."""
        assert self.finish is not None
        raw_text = self._tokenizer.decode_continuation(self.request.prompt_ids, self.ids)
        text = cut_at_stop(raw_text, self._settings.stop)
        return Decoded(
            key=self.request.key,
            ids=tuple(self.ids),
            raw_text=raw_text,
            text=text,
            finish="stop" if len(text) < len(raw_text) else self.finish,
            num_forwards=self.num_forwards,
            drafted_H=(self._num_blocks,) * len(self._accepted_H),
            accepted_H=tuple(self._accepted_H),
        )


@dataclass(frozen=True)
class _Prompt:
    """A prompt's pass: one row of cache, and what all horizons in use say after its last token."""

    ids: tuple[int, ...]
    cache: KVCache
    logits_HV: Tensor  # horizon 1 first


class _Decoding:
    """The rows under way and their cache; row i of `rows` is row i of the cache."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: CodeTokenizer,
        settings: DecodingSettings,
        propose: Propose,
        *,
        num_slots: int,
        longest_prompt: int,
    ) -> None:
        self.rows: list[_Row] = []
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._propose = propose
        self._choose = chooser(settings.temperature, settings.top_p)
        self._device = model.tok_embeddings.weight.device
        self._prompt: _Prompt | None = None
        # a row's last block may reach past its last token by all its drafts
        max_length = longest_prompt + settings.max_new_tokens + settings.draft_horizons
        self._cache = self._new_cache(num_slots, max_length)

    @torch.no_grad()
    def enter(self, request: DecodingRequest) -> _Row:
        """Decide a request's first token; add the request to the rows unless that finishes it."""
        if self._prompt is None or self._prompt.ids != request.prompt_ids:
            self._prompt = self._read_prompt(request.prompt_ids)
        row = _Row(request, self._settings, self._tokenizer)
        logits_1HV = self._prompt.logits_HV[None]
        row.decide(*self._chosen([row], logits_1HV[:, :1])[0])
        if row.finish is None:
            self._cache.copy_row(len(self.rows), self._prompt.cache, 0)
            self._set_blocks([row], logits_1HV[:, 1:])
            self.rows.append(row)
        return row

    @torch.no_grad()
    def step(self) -> None:
        """Run one forward pass over the blocks of all rows."""
        tokens_BT = torch.tensor([row.block for row in self.rows], device=self._device)
        h_trunk_BTD = self._model.trunk(tokens_BT, cache=self._cache)
        logits_BTV = self._logits(self._model.head_hidden(h_trunk_BTD, 1, cache=self._cache))
        chosen_BT = self._chosen(self.rows, logits_BTV)
        accepted = [row.decide_block(chosen_T) for row, chosen_T in zip(self.rows, chosen_BT, strict=True)]
        drafts_BHV = self._logits_at(accepted, h_trunk_BTD, range(2, self._cache.num_horizons + 1), self._cache)
        self._cache.advance([1 + num for num in accepted])
        self._set_blocks(self.rows, drafts_BHV)

    def take_finished(self) -> list[_Row]:
        """Remove the finished rows; the last row takes the place of each."""
        finished = []
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].finish is None:
                continue
            finished.append(self.rows[slot])
            last = self.rows.pop()
            if slot < len(self.rows):
                self._cache.copy_row(slot, self._cache, len(self.rows))
                self.rows[slot] = last
        return finished[::-1]

    def _read_prompt(self, prompt_ids: tuple[int, ...]) -> _Prompt:
        cache = self._new_cache(1, len(prompt_ids))
        h_trunk_BTD = self._model.trunk(torch.tensor([prompt_ids], device=self._device), cache=cache)
        logits_1HV = self._logits_at([len(prompt_ids) - 1], h_trunk_BTD, range(1, cache.num_horizons + 1), cache)
        cache.advance([len(prompt_ids)])
        return _Prompt(prompt_ids, cache, logits_1HV[0])

    def _logits_at(self, last_B: Sequence[int], h_trunk_BTD: Tensor, horizons: Sequence[int], cache: KVCache) -> Tensor:
        """Fill the heads' caches over the block, and read them [B, H, V] at each row's last decided input."""
        if not horizons:
            return h_trunk_BTD.new_empty(len(last_B), 0, self._tokenizer.vocab_size)
        read_B1 = torch.tensor(last_B, device=self._device)[:, None]
        return self._logits(self._model.heads_hidden_at(read_B1, h_trunk_BTD, horizons, cache=cache))

    def _logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits of the tokenizer's pieces; a model's vocabulary may be padded beyond them."""
        return self._model.output(hidden_BTD)[..., : self._tokenizer.vocab_size]  # type: ignore[no-any-return]

    def _chosen(self, rows: Sequence[_Row], logits_BTV: Tensor) -> list[list[int]]:
        """Choose the tokens of each row's next T positions."""
        num_positions = logits_BTV.shape[1]
        uniforms_BT = torch.from_numpy(np.stack([row.uniforms(num_positions) for row in rows]))
        tokens_R = self._choose(logits_BTV.flatten(0, 1), uniforms_BT.flatten())
        chosen: list[list[int]] = tokens_R.view(len(rows), num_positions).tolist()
        return chosen

    def _set_blocks(self, rows: Sequence[_Row], drafts_BHV: Tensor) -> None:
        """Give each row that goes on its next block: the newest token and the drafts behind it."""
        for row, drafts_H in zip(rows, self._chosen(rows, drafts_BHV), strict=True):
            if row.finish is None:
                proposed_H = self._propose(row.request, row.ids, drafts_H)
                assert len(proposed_H) == len(drafts_H), "as many drafts as there are horizons"
                row.block = [row.ids[-1], *proposed_H]

    def _new_cache(self, num_rows: int, max_length: int) -> KVCache:
        return KVCache(
            self._model.args,
            batch_size=num_rows,
            max_length=max_length,
            num_horizons=self._settings.draft_horizons + 1,
            dtype=self._model.tok_embeddings.weight.dtype,
            device=self._device,
        )
