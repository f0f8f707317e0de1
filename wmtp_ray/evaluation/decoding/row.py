"""One request under way: what is decided, and the block that is fed next. No torch.

Shape suffixes: T tokens of a block, H draft horizons.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding.decoding_request import Decoded, DecodingRequest, DecodingSettings, Finish
from wmtp_ray.evaluation.decoding.stops import StopFinder, cut_at_stop
from wmtp_ray.evaluation.decoding.token_choice import uniforms


class Row:
    """A request's decided tokens `ids`, the next forward's `block`, and how it ended: None while it goes on."""

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
        self._drafted_H = [0] * settings.draft_horizons
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
        for draft in range(len(self.block) - 1):
            self._drafted_H[draft] += 1
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
            drafted_H=tuple(self._drafted_H),
            accepted_H=tuple(self._accepted_H),
        )
