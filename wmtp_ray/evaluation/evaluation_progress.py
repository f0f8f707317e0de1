"""The progress of an evaluation: a bar with answers and verdicts on a terminal, a line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wmtp_ray.evaluation.judge.verdict import STATUSES

PLAIN_EVERY_S = 15.0


class EvaluationProgress:
    """Shows how many answers are decoded and judged, and the verdicts so far; a context manager around the work."""

    def __init__(self, console: Console, name: str, *, total: int, num_decoded: int, verdicts: Iterable[str]) -> None:
        self._console = console
        self._name = name
        self._total = total
        self._num_decoded = num_decoded
        self._verdicts = Counter(verdicts)
        self._printed_s = time.monotonic()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=total, completed=self._verdicts.total(), found=self._found())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, num_decoded: int, verdicts: Iterable[str]) -> None:
        """Count answers and verdicts that have come."""
        self._num_decoded += num_decoded
        self._verdicts.update(verdicts)
        self._bar.update(self._task, completed=self._verdicts.total(), found=self._found())
        if not self._console.is_terminal and time.monotonic() - self._printed_s >= PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            line = f"{self._name}  {self._verdicts.total()}/{self._total}  {self._found()}"
            self._console.print(line, highlight=False)

    def _found(self) -> str:
        """Format the counts: decoded 20  pass 12  fail 3."""
        counts = [f"{status} {self._verdicts[status]}" for status in STATUSES if self._verdicts[status]]
        return "  ".join([f"decoded {self._num_decoded}", *counts])
