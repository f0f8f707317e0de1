"""Whether printed output is what was expected: as the tester of code_contests compares, and sharper where it is blunt.

Whitespace separates words, a line end like any other; case does not count. Two words that are numbers agree

- as integers, if their digits are the same (`+7` is `7`; the tester takes large ones for doubles);
- if only one is an integer and it was expected, within 1e-5;
- otherwise within 1e-5, absolute or relative to the expected one.

A word with a superfluous leading zero is no number: 0101 is a string of digits, and not 101. `nan` and `inf` are words.
A problem with many right answers needs a checker of its own.

The comparison takes time proportional to both texts, and no more memory than the longest expected word and a block of
each: a program may print as much as its output limit allows, and the judge itself has no limit.

Source: OutputsMatch in execution/tester_sandboxer.cc of google-deepmind/code_contests (Li et al. 2022, AlphaCode). The
relative tolerance is that of the statements ("absolute or relative error"), which the tester does not have.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from operator import length_hint

PRECISION = 1e-5
_BLOCK_CHARS = 1 << 16
_LONGEST_NUMBER_CHARS = 1 << 12
_WORD = re.compile(r"\S+")
# Possessive: no digit is given back, so that a word is read once however it ends.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*+)")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]++)?")


def first_difference(printed: bytes, expected: str) -> str | None:
    """Name the first difference between a program's output and the expected one; None when they agree.

    (b"1  2\\n3", "1 2 3") -> None;  (b"YES\\n0.5", "yes\\n0.500001") -> None
    (b"1 2\\n4", "1 2\\n3") -> "line 2: printed '4', expected '3'"
    """
    max_chars = 2 * len(expected) + _LONGEST_NUMBER_CHARS  # twice: a letter may have two in lower case
    found, wanted = _Words(_decoded(printed), max_chars), _Words(_blocks(expected), max_chars)
    for word, right in zip_longest(found, wanted):
        if word == right:
            continue
        if word is None:
            return f"the output ends before {_short(right)}"
        if right is None:
            return f"line {found.line}: printed {_short(word)}, expected nothing more"
        if not _agree(word, right):
            return f"line {found.line}: printed {_short(word)}, expected {_short(right)}"
    return None


def _agree(word: str, right: str) -> bool:
    """Compare two words that differ."""
    integer, right_integer = _integer(word), _integer(right)
    if integer is not None and right_integer is not None:
        return integer == right_integer
    if max(len(word), len(right)) > _LONGEST_NUMBER_CHARS or not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(right)):
        return False
    scale = 1.0 if right_integer is not None else max(1.0, abs(float(right)))
    return abs(float(word) - float(right)) < PRECISION * scale


def _integer(word: str) -> str | None:
    """Return the digits of an integer with the sign that matters, or None for any other word."""
    if not _INTEGER.fullmatch(word):
        return None
    digits = word.lstrip("+-")
    return f"-{digits}" if word[0] == "-" and digits != "0" else digits


class _Words:
    """The words of a text that comes in blocks, in lower case; a word too long to be expected ends the text.

    `line` is the line, from 1, of the word that was returned last.
    """

    def __init__(self, blocks: Iterable[str], max_chars: int) -> None:
        self._blocks = blocks
        self._max_chars = max_chars
        self._lines_before = 0
        self._text = ""
        self._num_words = 0
        self._left: Iterator[str] = iter(())

    def __iter__(self) -> Iterator[str]:
        for text in self._whole_words():
            self._lines_before += self._text.count("\n")
            words = text.lower().split()
            self._text, self._num_words, self._left = text, len(words), iter(words)
            yield from self._left

    @property
    def line(self) -> int:
        number = self._num_words - length_hint(self._left) - 1
        start = next(islice(_WORD.finditer(self._text), number, None)).start()
        return self._lines_before + self._text.count("\n", 0, start) + 1

    def _whole_words(self) -> Iterator[str]:
        """Return texts that no word runs out of; what follows a word that is too long is not looked at."""
        begun: list[str] = []  # a word that goes on in the next block
        num_chars = 0
        for block in self._blocks:
            cut = _start_of_open_word(block)
            if cut:
                yield "".join([*begun, block[:cut]])
                begun, num_chars = [], 0
            begun.append(block[cut:])
            num_chars += len(block) - cut
            if num_chars > self._max_chars:
                break
        yield "".join(begun)


def _start_of_open_word(block: str) -> int:
    """Return where the word begins that the end of the block cuts; the block's length if it cuts none."""
    if not block or block[-1].isspace():
        return len(block)
    return len(block) - len(block.rsplit(None, 1)[-1])


def _blocks(text: str) -> Iterator[str]:
    return (text[start : start + _BLOCK_CHARS] for start in range(0, len(text), _BLOCK_CHARS))


def _decoded(output: bytes) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for start in range(0, len(output), _BLOCK_CHARS):
        yield decoder.decode(output[start : start + _BLOCK_CHARS])
    yield decoder.decode(b"", final=True)


def _short(word: str) -> str:
    return repr(word if len(word) <= 100 else f"{word[:97]}...")
