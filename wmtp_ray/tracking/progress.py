"""The progress line of the driver: one line of a StepReport, redrawn on a terminal, printed now and then elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from wmtp_ray.contracts import StepReport

STAGE_NAMES = {0: "prepare", 1: "critic", 2: "train", 3: "evaluate"}
FIELDS = (  # metric key, label, format; a metric that the arm does not have is left out
    ("loss/total", "loss", "{:.4f}"),
    ("weight/std", "weight std", "{:.3f}"),
    ("critic/explained_variance", "explained var", "{:.3f}"),
    ("score/staleness_steps", "staleness", "{:.0f}"),
    ("perf/supervised_tokens_per_s", "tokens/s", "{:,.0f}"),
)
PLAIN_EVERY_S = 15.0


def progress_line(report: StepReport, *, total_steps: int, first_step: int, elapsed_s: float) -> str:
    """Write a report as one line. Steps count from 0; the line shows how many are done.

    Report of step 9 of 100, 20 s after step 0 began: 10 done in 20 s, 90 to go, so 180 s are left.

        stage 2 train  10/100  loss 2.3145  weight std 0.310  tokens/s 12,345  left 3:00

    `first_step` is the step from which `elapsed_s` counts (in a resumed run not 0), so that the estimate holds.
    """
    num_done = report.step + 1
    parts = [f"stage {report.stage} {STAGE_NAMES[report.stage]}", f"{num_done}/{total_steps}"]
    parts += [f"{label} {form.format(report.metrics[key])}" for key, label, form in FIELDS if key in report.metrics]
    num_own_steps = num_done - first_step
    if num_own_steps > 0:
        parts.append(f"left {_clock_text(elapsed_s / num_own_steps * max(total_steps - num_done, 0))}")
    return "  ".join(parts)


class Progress:
    """Shows the newest report of one stage; use as a context manager around its wait.

    On a terminal the line is redrawn in place; elsewhere (a log file) one line is printed every `plain_every_s`, the
    last report of the stage included.
    """

    def __init__(
        self,
        console: Console,
        *,
        total_steps: int,
        plain_every_s: float = PLAIN_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._total_steps = total_steps
        self._plain_every_s = plain_every_s
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._printed_s = float("-inf")
        self._shown: StepReport | None = None
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: StepReport | None) -> None:
        """Show a report; None and one that is shown already change nothing."""
        if report is None or report == self._shown:
            return
        now_s = self._clock()
        # Time counts from the first report: what came before it was starting up.
        self._first = self._first or (report.step + 1, now_s)
        first_step, began_s = self._first
        line = progress_line(report, total_steps=self._total_steps, first_step=first_step, elapsed_s=now_s - began_s)
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now_s - self._printed_s >= self._plain_every_s or report.step + 1 == self._total_steps:
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
            self._printed_s = now_s
        else:
            return
        self._shown = report


def _clock_text(seconds: float) -> str:
    """75 -> 1:15; 3675 -> 1:01:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
