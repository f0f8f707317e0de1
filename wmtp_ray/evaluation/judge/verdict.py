"""The verdict of a check: its status, and what the status means.

pass            every test held
fail            a test did not hold, or the program crashed, ended early, printed too much or wrote too much
timeout         the program or the tests on it took longer than they may, also when no other check ran
memory          the program passed its memory limit, or raised MemoryError
unserialisable  a test needs a value that does not cross from the program's process to the tests' (a lambda compared
                with ==, data nested thousands deep); not a pass, and not proved wrong
error           the judge itself failed, twice; never to be counted as a wrong program
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "timeout", "memory", "unserialisable", "error"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "timeout", "memory", "unserialisable", "error")
_MAX_DETAIL_CHARS = 2000


class BrokenTestsError(Exception):
    """The tests themselves cannot be run, whatever the program."""


@dataclass(frozen=True)
class Verdict:
    """How one check ended; `detail` may quote the program, `seconds` is the wall time of the run that decided."""

    status: Status
    detail: str
    seconds: float


@dataclass(frozen=True)
class StdioVerdict(Verdict):
    """A verdict over several inputs, with how many of them passed.

    `status` is that of the first input that did not pass. A time-out ends the check: the inputs after it were not
    tried and count as not passed.
    """

    num_passed: int
    num_tests: int

    @property
    def passed_frac(self) -> float:
        """Return the share of inputs that passed; 0 of no inputs is 0."""
        return self.num_passed / self.num_tests if self.num_tests else 0.0


def printable(text: str) -> str:
    """Make a program's output safe to log and to show: of bounded length, without surrogates and control characters."""
    if len(text) > _MAX_DETAIL_CHARS:
        text = f"{text[: _MAX_DETAIL_CHARS // 2]} ... {text[-_MAX_DETAIL_CHARS // 2 :]}"
    text = text.strip()
    return text if text.isprintable() else "".join(map(_printable_char, text))


def _printable_char(char: str) -> str:
    """Escape what cannot be written as UTF-8, or moves a terminal's cursor, or turns the direction of writing."""
    if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Cf"):
        return char
    return char.encode("ascii", "backslashreplace").decode() if ord(char) > 127 else f"\\x{ord(char):02x}"
