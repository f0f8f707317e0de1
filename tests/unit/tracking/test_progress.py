import io

import pytest
from rich.console import Console

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.progress import Progress, progress_line

METRICS = {
    "loss/total": 2.31449,
    "weight/std": 0.31,
    "critic/explained_variance": -0.02,
    "score/staleness_steps": 6.0,
    "perf/supervised_tokens_per_s": 12345.6,
}


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def shown(clock: Clock, reports: list[tuple[float, StepReport]], *, total_steps: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with Progress(console, total_steps=total_steps, plain_every_s=10.0, clock=clock) as progress:
        for now_s, report in reports:
            clock.now_s = now_s
            progress.show(report)
    return console.file.getvalue().splitlines()


def test_line_has_every_field():
    line = progress_line(StepReport(2, 9, METRICS), total_steps=100, first_step=0, elapsed_s=20.0)
    assert line == (
        "stage 2 train  10/100  loss 2.3145  weight std 0.310  explained var -0.020  staleness 6  tokens/s 12,346  "
        "left 3:00"
    )


def test_metric_that_the_arm_lacks_is_left_out():
    line = progress_line(StepReport(1, 0, {"loss/total": 1.0}), total_steps=4, first_step=0, elapsed_s=1.0)
    assert line == "stage 1 critic  1/4  loss 1.0000  left 0:03"


@pytest.mark.parametrize(
    ("step", "first_step", "elapsed_s", "left"),
    [(0, 0, 40.8, "1:07:19"), (99, 0, 50.0, "0:00"), (59, 50, 10.0, "0:40")],
)
def test_time_left_counts_the_steps_of_this_process(step, first_step, elapsed_s, left):
    line = progress_line(StepReport(2, step), total_steps=100, first_step=first_step, elapsed_s=elapsed_s)
    assert line.endswith(f"left {left}")


def test_log_file_gets_a_line_now_and_then_and_the_last():
    reports = [(float(step), StepReport(2, step, METRICS)) for step in range(24)] + [(24.0, StepReport(2, 99))]
    lines = shown(Clock(), reports)
    assert [line.split("  ")[1] for line in lines] == ["1/100", "11/100", "21/100", "100/100"]


def test_log_file_never_repeats_a_report():
    assert len(shown(Clock(), [(0.0, StepReport(2, 0)), (50.0, StepReport(2, 0)), (99.0, StepReport(2, 0))])) == 1


def test_nothing_to_show_prints_nothing():
    console = Console(file=io.StringIO(), force_terminal=False)
    with Progress(console, total_steps=1) as progress:
        progress.show(None)
    assert console.file.getvalue() == ""


def test_terminal_is_redrawn_in_place():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Progress(console, total_steps=2) as progress:
        progress.show(StepReport(2, 0, METRICS))
        progress.show(StepReport(2, 1, METRICS))
    text = console.file.getvalue()
    assert "1/2" in text
    assert "2/2" in text
    assert text.count("\n") < 4
