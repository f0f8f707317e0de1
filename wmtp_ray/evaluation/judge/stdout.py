"""Whether printed output is what was expected: as the tester of code_contests compares, and sharper on integers.

Whitespace separates tokens, a line end like any other; case does not count; two numbers agree within 1e-5, two integers
only if they are equal (the tester takes large ones for doubles). A problem with many right answers needs a checker of
its own.

Source: OutputsMatch in execution/tester_sandboxer.cc of google-deepmind/code_contests (Li et al. 2022, AlphaCode).
"""

import re
from itertools import zip_longest

PRECISION = 1e-5
_TOKEN = re.compile(r"\S+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?")


def first_difference(printed: str, expected: str) -> str | None:
    """Say where two outputs differ, or return None when they agree.

    ("1  2\\n3", "1 2 3") -> None;  ("YES\\n0.5", "yes\\n0.500001") -> None
    ("1 2\\n4", "1 2\\n3") -> "line 2: printed '4', expected '3'"
    """
    found, wanted = printed.lower().split(), expected.lower().split()
    if found == wanted:
        return None
    for number, (token, right) in enumerate(zip_longest(found, wanted)):
        if token is None:
            return f"the output ends before {_short(right)}"
        if right is None:
            return f"line {_line_of(printed, number)}: printed {_short(token)}, expected nothing more"
        if not _agree(token, right):
            return f"line {_line_of(printed, number)}: printed {_short(token)}, expected {_short(right)}"
    return None


def _agree(token: str, right: str) -> bool:
    if token == right:
        return True
    if _INTEGER.fullmatch(token) and _INTEGER.fullmatch(right):
        return int(token) == int(right)
    if _NUMBER.fullmatch(token) and _NUMBER.fullmatch(right):
        return abs(float(token) - float(right)) < PRECISION
    return False


def _line_of(text: str, token_number: int) -> int:
    """Return the line, from 1, of the token with this number, from 0."""
    start = next(found.start() for number, found in enumerate(_TOKEN.finditer(text)) if number == token_number)
    return text.count("\n", 0, start) + 1


def _short(token: str) -> str:
    return repr(token if len(token) <= 100 else f"{token[:97]}...")
