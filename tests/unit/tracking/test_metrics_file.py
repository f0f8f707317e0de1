import math
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import JsonlSink, read_reports, read_training_reports


def report(step: int, stage: int = 2, **metrics: float) -> StepReport:
    return StepReport(stage, step, {"loss/total": 0.5, **metrics})


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [orjson.loads(line) for line in (run_dir / "metrics.jsonl").read_bytes().splitlines()]


def positions(run_dir: Path) -> list[tuple[float, float]]:
    return [(line["stage"], line["step"]) for line in lines(run_dir)]


def test_each_step_is_one_object_readable_at_once(tmp_path):
    sink = JsonlSink(tmp_path / "runs" / "new")
    sink.log(StepReport(1, 0, {"loss/total": 2.5, "weight/std": 0.25}))
    (line,) = lines(tmp_path / "runs" / "new")
    assert {key: line[key] for key in ("stage", "step", "loss/total", "weight/std")} == {
        "stage": 1,
        "step": 0,
        "loss/total": 2.5,
        "weight/std": 0.25,
    }
    assert line["time"] > 0


def test_what_json_cannot_hold_is_null_and_numpy_is_a_number(tmp_path):
    JsonlSink(tmp_path).log(report(0, bad=float("nan"), huge=float("inf"), small=np.float32(0.25)))
    (line,) = lines(tmp_path)
    assert (line["bad"], line["huge"], line["small"]) == (None, None, 0.25)


def test_a_metric_may_not_take_the_name_of_the_step(tmp_path):
    with pytest.raises(AssertionError):
        JsonlSink(tmp_path).log(StepReport(2, 0, {"step": 1.0}))


def test_reopening_appends(tmp_path):
    for step in range(3):
        sink = JsonlSink(tmp_path)
        sink.log(report(step))
        sink.close()
    assert positions(tmp_path) == [(2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("torn", [b"{", b'{"stage":2,"step":2', b'{"stage":2,"step":2,"time":1.0}', b"\0\0\0\n"])
def test_line_torn_by_a_kill_is_dropped(tmp_path, torn):
    first = JsonlSink(tmp_path)
    first.log(report(0))
    first.log(report(1))
    first.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    second = JsonlSink(tmp_path)
    second.log(report(2))
    assert positions(tmp_path) == [(2, 0), (2, 1), (2, 2)]


def test_truncating_drops_that_step_and_all_later_ones(tmp_path):
    sink = JsonlSink(tmp_path)
    for stage, step in [(1, 0), (1, 5), (2, 0), (2, 1), (2, 2)]:
        sink.log(report(step, stage))
    sink.truncate_from(2, 1)
    assert positions(tmp_path) == [(1, 0), (1, 5), (2, 0)]
    sink.log(report(1))
    assert positions(tmp_path) == [(1, 0), (1, 5), (2, 0), (2, 1)]
    sink.truncate_from(1, 0)
    assert positions(tmp_path) == []


def test_a_report_that_comes_late_takes_its_place_and_costs_no_other(tmp_path):
    sink = JsonlSink(tmp_path)
    for step in (0, 1, 4, 3):
        sink.log(report(step, attempt=1.0))
    for step in (2, 3, 5):
        sink.log(report(step, attempt=2.0))
    assert [(line["step"], line["attempt"]) for line in lines(tmp_path)] == [
        (0, 1.0),
        (1, 1.0),
        (2, 2.0),
        (3, 2.0),
        (4, 1.0),
        (5, 2.0),
    ]


def test_reports_are_the_whole_lines(tmp_path):
    assert read_reports(tmp_path) == []
    sink = JsonlSink(tmp_path)
    assert read_reports(tmp_path) == []
    sink.log(report(0))
    sink.log(report(1, bad=float("nan")))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage":2,"step":2')
    first, newest = read_reports(tmp_path)
    assert (first.stage, first.step) == (2, 0)
    assert (newest.stage, newest.step, newest.metrics["loss/total"]) == (2, 1, 0.5)
    assert math.isnan(newest.metrics["bad"])


def test_nothing_temporary_stays(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.log(report(0))
    sink.truncate_from(2, 0)
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 2), st.integers(0, 4)), max_size=12), torn=st.binary(max_size=5))
def test_no_step_occurs_twice_and_order_holds(tmp_path_factory, steps, torn):
    run_dir = tmp_path_factory.mktemp("run")
    expected: set[tuple[int, int]] = set()
    for stage, step in steps:
        sink = JsonlSink(run_dir)
        sink.log(report(step, stage))
        sink.close()
        with (run_dir / "metrics.jsonl").open("ab") as file:
            file.write(torn.replace(b"\n", b""))
        expected.add((stage, step))
    JsonlSink(run_dir).close()
    assert positions(run_dir) == sorted(expected)


def evaluation(step: int, **metrics: float) -> StepReport:
    return report(step, stage=3, **metrics)


def test_an_evaluation_is_a_line_of_its_step_wherever_it_comes(tmp_path):
    sink = JsonlSink(tmp_path)
    for each in (report(0), report(1), evaluation(0), report(2), report(3), evaluation(2), report(4)):
        sink.log(each)
    expected = [(2, 0), (2, 1), (3, 0), (2, 2), (2, 3), (3, 2), (2, 4)]
    assert positions(tmp_path) == expected
    JsonlSink(tmp_path).close()
    assert positions(tmp_path) == expected, "who opens the file again leaves it as it is"
    assert [(each.stage, each.step) for each in read_training_reports(tmp_path)] == [(2, step) for step in range(5)]


def test_steps_after_an_evaluation_are_appended_and_not_sorted_in(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.log(evaluation(9))
    before = sink.path.stat().st_ino
    for step in range(3):
        sink.log(report(step))
    sink.log(evaluation(10))
    assert sink.path.stat().st_ino == before, "the file was not written anew"
    assert positions(tmp_path) == [(3, 9), (2, 0), (2, 1), (2, 2), (3, 10)]


def test_a_step_that_comes_late_leaves_evaluations_behind_the_steps_that_were_there_before(tmp_path):
    sink = JsonlSink(tmp_path)
    for each in (report(0), evaluation(0), report(2), evaluation(1), report(1)):
        sink.log(each)
    assert positions(tmp_path) == [(2, 0), (3, 0), (2, 1), (2, 2), (3, 1)]


def test_an_evaluation_that_comes_again_takes_the_place_of_the_first(tmp_path):
    sink = JsonlSink(tmp_path)
    for each in (report(0), evaluation(0, found=1.0), report(1), evaluation(0, found=2.0), evaluation(4)):
        sink.log(each)
    assert positions(tmp_path) == [(2, 0), (3, 0), (2, 1), (3, 4)]
    assert [line["found"] for line in lines(tmp_path) if "found" in line] == [2.0]


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ((2, 4), [(1, 0), (2, 0), (3, 0), (3, 4)]),
        ((2, 3), [(1, 0), (2, 0), (3, 0)]),
        ((2, 0), [(1, 0), (3, 0)]),
        ((1, 0), []),
    ],
)
def test_where_a_run_continues_the_evaluations_of_the_policies_before_stay(tmp_path, end, kept):
    sink = JsonlSink(tmp_path)
    for each in (report(0, stage=1), report(0), evaluation(0), report(4), evaluation(4), report(8), evaluation(8)):
        sink.log(each)
    sink.truncate_from(*end)
    assert positions(tmp_path) == kept
