"""Split a text at the special tokens written in it, for formats in which such text stands for the token."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wmtp_ray.contracts import Int32


@dataclass(frozen=True)
class SpecialToken:
    """An id, and whether white space to the left and right of the token's text belongs to it and vanishes.

    A token of `single_word` counts only where no letter, digit or underscore touches it.
    """

    index: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by their text. Where two begin at one place, the longer one is taken."""

    by_text: Mapping[str, SpecialToken]

    def encode(self, text: str, encode_part: Callable[[str, bool], Int32], literal: range = range(0)) -> Int32:
        """Ids of a text; `encode_part(part, is_first)` encodes what stands between special tokens.

        `is_first` says that nothing stands before the part, no special token either. `literal` is as in `parts`.
        """
        ids = []
        for number, part in enumerate(self.parts(text, literal)):
            if isinstance(part, int):
                ids.append(np.array([part], dtype=np.int32))
            elif part:
                ids.append(encode_part(part, number == 0))
        return np.concatenate([*ids, np.array([], dtype=np.int32)]).astype(np.int32)

    def parts(self, text: str, literal: range) -> list[str | int]:
        """Return texts and ids of special tokens in turn, a text first and last, which may be empty.

        Characters in `literal` are text, whatever they spell: "a<s>b<s>" with literal 0..4 gives ["a<s>b", 1, ""].
        """
        found: list[str | int] = []
        begin = 0
        for match in self._pattern.finditer(text) if self.by_text else ():
            if match.start() < literal.stop and match.end() > literal.start:
                continue
            found += [text[begin : match.start()], self.by_text[match.group().strip()].index]
            begin = match.end()
        return [*found, text[begin:]]

    def occur_in(self, text: str) -> bool:
        """Whether the text of a special token stands in a text."""
        return bool(self.by_text) and self._pattern.search(text) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.by_text.items(), key=lambda item: -len(item[0]))
        return re.compile(f"({'|'.join(_spelled(text, token) for text, token in longest_first)})")


def _spelled(text: str, token: SpecialToken) -> str:
    alone = rf"(?<!\w){re.escape(text)}(?!\w)" if token.single_word else re.escape(text)
    return (r"\s*" if token.lstrip else "") + alone + (r"\s*" if token.rstrip else "")
