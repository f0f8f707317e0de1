"""Whether printed output is what was expected: as the tester of code_contests compares, and sharper where it is blunt.

Both texts are bytes. Blanks of ASCII separate words, a line end like any other; the case of the letters a to z does not
count. Everything else does: a no-break space is part of a word, and a long s is no s. Two words that are numbers agree

- as integers, if their digits are the same (`+7` is `7`; the tester takes large ones for doubles);
- if only one is an integer and it was expected, within 1e-5, however many digits it has;
- otherwise within 1e-5, absolute or relative to the expected one.

A word with a superfluous leading zero is no number: 0101 is a string of digits, and not 101. `nan` and `inf` are words.
A problem with many right answers needs a checker of its own.

The comparison takes time proportional to both texts, and no more memory than the longest expected word and a block of
each: a program may print as much as its output limit allows, and the judge itself has no limit.

Source: OutputsMatch in execution/tester_sandboxer.cc of google-deepmind/code_contests (Li et al. 2022, AlphaCode). The
relative tolerance is that of the statements ("absolute or relative error"), which the tester does not have.
"""

import decimal
import re
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from operator import length_hint

PRECISION = 1e-5
_BLOCK_BYTES = 1 << 16
_LONGEST_NUMBER_BYTES = 1 << 12
_BLANKS = b" \t\n\r\x0b\x0c"
_WORD = re.compile(rb"\S+")
# Possessive: no digit is given back, so that a word is read once however it ends.
_INTEGER = re.compile(rb"[+-]?(?:0|[1-9][0-9]*+)")
_NUMBER = re.compile(rb"[+-]?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]{1,5}+)?")
# Exact for every number of this length; a distance to one that is far larger or smaller is rounded, which is enough.
_EXACT = decimal.Context(prec=2 * _LONGEST_NUMBER_BYTES, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])


def first_difference(printed: bytes, expected: str) -> str | None:
    """Name the first difference between a program's output and the expected one; None when they agree.

    (b"1  2\\n3", "1 2 3") -> None;  (b"YES\\n0.5", "yes\\n0.500001") -> None
    (b"1 2\\n4", "1 2\\n3") -> "line 2: printed '4', expected '3'"
    """
    expected_bytes = _encoded(expected)
    max_bytes = len(expected_bytes) + _LONGEST_NUMBER_BYTES
    found, wanted = _Words(_blocks(printed), max_bytes), _Words(_blocks(expected_bytes), max_bytes)
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


def _agree(word: bytes, right: bytes) -> bool:
    """Compare two words that differ."""
    integer, right_integer = _integer(word), _integer(right)
    if integer is not None and right_integer is not None:
        return integer == right_integer
    if max(len(word), len(right)) > _LONGEST_NUMBER_BYTES or not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(right)):
        return False
    if right_integer is not None:
        difference = _EXACT.subtract(decimal.Decimal(word.decode()), decimal.Decimal(right.decode()))
        return abs(difference) < decimal.Decimal(repr(PRECISION))
    return abs(float(word) - float(right)) < PRECISION * max(1.0, abs(float(right)))


def _integer(word: bytes) -> bytes | None:
    """Return the digits of an integer with the sign that matters, or None for any other word."""
    if not _INTEGER.fullmatch(word):
        return None
    digits = word.lstrip(b"+-")
    return b"-" + digits if word.startswith(b"-") and digits != b"0" else digits


class _Words:
    """The words of a text that comes in blocks, in lower case; a word too long to be expected ends the text.

    `line` is the line, from 1, of the word that was returned last.
    """

    def __init__(self, blocks: Iterable[bytes], max_bytes: int) -> None:
        self._blocks = blocks
        self._max_bytes = max_bytes
        self._lines_before = 0
        self._text = b""
        self._num_words = 0
        self._left: Iterator[bytes] = iter(())

    def __iter__(self) -> Iterator[bytes]:
        for text in self._whole_words():
            self._lines_before += self._text.count(b"\n")
            words = text.lower().split()
            self._text, self._num_words, self._left = text, len(words), iter(words)
            yield from self._left

    @property
    def line(self) -> int:
        number = self._num_words - length_hint(self._left) - 1
        start = next(islice(_WORD.finditer(self._text), number, None)).start()
        return self._lines_before + self._text.count(b"\n", 0, start) + 1

    def _whole_words(self) -> Iterator[bytes]:
        """Return texts that no word runs out of; what follows a word that is too long is not looked at."""
        begun: list[bytes] = []  # a word that goes on in the next block
        num_bytes = 0
        for block in self._blocks:
            cut = _start_of_open_word(block)
            if cut:
                yield b"".join([*begun, block[:cut]])
                begun, num_bytes = [], 0
            begun.append(block[cut:])
            num_bytes += len(block) - cut
            if num_bytes > self._max_bytes:
                break
        yield b"".join(begun)


def _start_of_open_word(block: bytes) -> int:
    """Return where the word begins that the end of the block cuts; the block's length if it cuts none."""
    if block[-1] in _BLANKS:
        return len(block)
    return len(block) - len(block.rsplit(None, 1)[-1])


def _blocks(text: bytes) -> Iterator[bytes]:
    return (text[start : start + _BLOCK_BYTES] for start in range(0, len(text), _BLOCK_BYTES))


def _encoded(text: str) -> bytes:
    """Return what a program would have printed; bytes that are no UTF-8 stand as surrogates in a text."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _short(word: bytes) -> str:
    text = word[:400].decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 100 else f"{text[:97]}...")
