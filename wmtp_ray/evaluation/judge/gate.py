"""Isolates a check that is retried alone: it waits until running checks end, and new checks wait for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Visit:
    """Whether any other check ran at the same time, known when the visit is over."""

    overlapped: bool = False


class Gate:
    """Admits many visits at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_inside = 0
        self._num_entered = 0
        self._closed = False

    @contextmanager
    def together(self) -> Iterator[Visit]:
        """Enter beside other visits."""
        visit = Visit()
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            visit.overlapped = self._num_inside > 0
            self._num_inside += 1
            self._num_entered += 1
            entered = self._num_entered
        try:
            yield visit
        finally:
            with self._changed:
                visit.overlapped = visit.overlapped or self._num_entered != entered
                self._num_inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[Visit]:
        """Enter as the only visit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: self._num_inside == 0)
        try:
            yield Visit()
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
