"""Whether printed output is what was expected.

Lines are compared in order, each as its whitespace-separated tokens; empty lines at the end do not count. Tokens are
compared as text: 1.0 and 1.00 differ, as do Yes and YES. A problem with many right answers needs a checker of its own.
"""

from itertools import zip_longest


def first_difference(printed: str, expected: str) -> str | None:
    """Say where two outputs differ, or return None when they agree.

    ("1  2\\n3\\n\\n", "1 2\\n3") -> None;  ("1 2", "1\\n2") -> "line 1: printed '1 2', expected '1'"
    """
    lines = zip_longest(_lines(printed), _lines(expected))
    for number, (line, wanted) in enumerate(lines, start=1):
        if line is None:
            return f"the output ends before line {number}, {_short(wanted)}"
        if wanted is None:
            return f"line {number}: printed {_short(line)}, expected nothing more"
        if line != wanted and line.split() != wanted.split():
            return f"line {number}: printed {_short(line)}, expected {_short(wanted)}"
    return None


def _lines(text: str) -> list[str]:
    return text.rstrip().split("\n")


def _short(line: str) -> str:
    return repr(line if len(line) <= 100 else f"{line[:97]}...")
