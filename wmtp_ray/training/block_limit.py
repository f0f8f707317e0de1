"""A bound on a block that may never come back from the system: a write to a disk that hangs.

Python cannot give such a block a timeout. A run bounds it by ending the process (`actors/stalls.py::limited`); a plain
process does not bound it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Limit(Protocol):
    """Returns the context of a block that is to end within `deadline_s`; `what` says what the block does."""

    def __call__(self, what: str, deadline_s: float) -> AbstractContextManager[None]: ...


def no_limit(what: str, deadline_s: float) -> AbstractContextManager[None]:
    """Return a context without a deadline."""
    return nullcontext()
