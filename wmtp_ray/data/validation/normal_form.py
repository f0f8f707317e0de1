"""When two texts count as the same: normal forms of programs and of prose, words for overlap, and a stable hash.

The normal form of a program keeps what may change what the program does: letters, strings, line breaks and indentation
(tabs and blanks are not made equal). It leaves out what cannot: comments of Python, blank lines, blanks at a line's
end, and further blanks in a row inside a line. It parses nothing, so it holds for programs that do not compile; text
between triple quotes also loses blank lines and blanks at line ends.
"""

import hashlib
import re

PYTHON_LANGUAGES = (0, 1, 3)  # rows that do not say their language come from Python-only exports

_STRING = r'''"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*\''''
_BLANKS_OR_COMMENT = re.compile(rf"({_STRING})|#[^\n]*|(?<=\S)[ \t]{{2,}}", re.DOTALL)
_BLANKS = re.compile(rf"({_STRING})|(?<=\S)[ \t]{{2,}}", re.DOTALL)

_WORD = re.compile(r"\w+")
_ASCII_WORDS = bytes(code if chr(code).isalnum() or code == ord("_") else ord(" ") for code in range(128)) + b" " * 128


def stable_hash(*parts: bytes) -> int:
    """Hash byte strings to 64 bits, the same in every process; ("ab", "c") and ("a", "bc") differ.

    Two of n different texts collide with a probability of about n^2 / 2^65: 4e-7 for 3.7 million.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def normal_program(text: str, language: int) -> str:
    """Return the normal form of a program; `language` as in `rows.Row`.

    "x  = 'a  b'  # two\\n\\n  y" -> "x = 'a  b'\\n  y" for Python; for C++ the comment sign stays.
    """
    if language in PYTHON_LANGUAGES and "#" in text:
        text = _BLANKS_OR_COMMENT.sub(_fold, text)
    elif _has_inner_blanks(text):
        text = _BLANKS.sub(_fold, text)
    return "\n".join([bare for line in text.split("\n") if (bare := line.rstrip())])


def _has_inner_blanks(text: str) -> bool:
    """Check, at the cost of a split, whether the much slower regular expression has any blanks to fold."""
    bodies = "\n".join([line.strip() for line in text.split("\n")])
    return "  " in bodies or "\t" in bodies


def _fold(match: re.Match[str]) -> str:
    return match[1] or ("" if match[0][0] == "#" else " ")


def normal_prose(text: str) -> str:
    """Return the text with every run of white space made one blank."""
    return " ".join(text.split())


def words_of(text: str) -> list[str]:
    r"""Split into lower-case words: `\w+`, as is usual for the overlap with benchmarks. "X[i] == 'é_1'" -> x i é_1."""
    lower = text.lower()
    if lower.isascii():  # the same words, some five times faster
        return lower.encode("ascii").translate(_ASCII_WORDS).decode("ascii").split()
    return _WORD.findall(lower)
