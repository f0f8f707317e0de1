"""Stop strings: noticed while a continuation grows, cut at the earliest when it is done.

They are looked for in decoded text, never in ids: a stop string may begin in the middle of a token and span several.
"""

from collections.abc import Sequence

from wmtp_ray.data.tokenizer import CodeTokenizer

# Tokens decoded before the ones that are searched: they keep a leading blank and a character's first bytes in place.
_CONTEXT_TOKENS = 8
# Beyond the longest stop string's bytes: bytes of a broken character, tokens without text.
_SPARE_TOKENS = 8


class StopFinder:
    """Detects that a continuation's newest token completes a stop string, from the tail alone.

    A token stands for a byte at least, so the tail needs as many tokens as the longest stop string has bytes. A stop
    string stretched over more by tokens without text goes unnoticed here and is found by `cut_at_stop` at the end.
    """

    def __init__(self, tokenizer: CodeTokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tail_tokens = max((len(text.encode()) for text in stop), default=0) + _SPARE_TOKENS

    def found(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> bool:
        """Whether the tail of `ids` contains a stop string; the prompt's own text does not count."""
        if not self._stop:
            return False
        begin = max(0, len(ids) - self._tail_tokens)
        before = [*prompt_ids[-_CONTEXT_TOKENS:], *ids[max(0, begin - _CONTEXT_TOKENS) : begin]]
        tail = self._tokenizer.decode_continuation(before[-_CONTEXT_TOKENS:], ids[begin:])
        return any(text in tail for text in self._stop)

    def newest(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that the newest token adds."""
        before = [*prompt_ids[-_CONTEXT_TOKENS:], *ids[-1 - _CONTEXT_TOKENS : -1]]
        return self._tokenizer.decode_continuation(before[-_CONTEXT_TOKENS:], ids[-1:])


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the stop string that begins first; all of it when there is none."""
    begins = [begin for each in stop if (begin := text.find(each)) >= 0]
    return text[: min(begins)] if begins else text
