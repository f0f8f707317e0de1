"""Following a metrics.jsonl that another process writes."""

from pathlib import Path

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.metrics_tail import MetricsTail


def log(sink: JsonlSink, stage: int, *steps: int) -> None:
    for step in steps:
        sink.log(StepReport(stage, step, {"loss/total": float(step)}))


def steps_of(tail: MetricsTail) -> list[int]:
    return [report.step for report in tail.new()]


def test_each_step_comes_once_as_the_file_grows(tmp_path: Path) -> None:
    tail = MetricsTail(tmp_path, stage=2)
    assert tail.new() == []
    sink = JsonlSink(tmp_path)
    log(sink, 2, 0, 1)
    assert [(r.step, r.metrics) for r in tail.new()] == [(0, {"loss/total": 0.0}), (1, {"loss/total": 1.0})]
    assert tail.new() == []
    log(sink, 2, 2)
    assert steps_of(tail) == [2]


def test_other_stages_are_left_out(tmp_path: Path) -> None:
    sink, tail = JsonlSink(tmp_path), MetricsTail(tmp_path, stage=2)
    log(sink, 1, 0, 1, 2)
    log(sink, 2, 0)
    assert steps_of(tail) == [0]


def test_a_run_that_goes_back_to_a_checkpoint_shows_only_what_is_new(tmp_path: Path) -> None:
    sink, tail = JsonlSink(tmp_path), MetricsTail(tmp_path, stage=2)
    log(sink, 2, 0, 1, 2, 3)
    assert steps_of(tail) == [0, 1, 2, 3]
    sink.truncate_from(2, 2)
    assert steps_of(tail) == []
    log(sink, 2, 2, 3, 4)
    assert steps_of(tail) == [4]


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    sink, tail = JsonlSink(tmp_path), MetricsTail(tmp_path, stage=2)
    log(sink, 2, 0)
    sink.close()
    path = tmp_path / "metrics.jsonl"
    line = path.read_bytes().replace(b'"step":0', b'"step":1')
    with path.open("ab") as file:
        file.write(line[:20])
        file.flush()
        assert steps_of(tail) == [0]
        file.write(line[20:])
    assert steps_of(tail) == [1]
