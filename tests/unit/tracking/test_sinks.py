"""Trackers beside MLflow: what every sink keeps to, with trackers made here that fail. Needs none of their packages."""

import importlib.util
import logging
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.machine import TrackingConfig
from wmtp_ray.config.schema import RunConfig, effects
from wmtp_ray.contracts import StepReport
from wmtp_ray.errors import ConfigError
from wmtp_ray.preflight.start_checks import require_start, start_checks
from wmtp_ray.tracking import background_sink
from wmtp_ray.tracking.background_sink import BackgroundSink, TrackerKind
from wmtp_ray.tracking.metrics_file import JsonlSink, Position, read_reports
from wmtp_ray.tracking.mlflow_points import Recorded
from wmtp_ray.tracking.sink_packages import PACKAGES, check_packages
from wmtp_ray.tracking.tracker import Tracker, open_tracker
from wmtp_ray.training.estimate.process_overhead import MIB, SINK_MIB, machine_bytes

CALLS = ("open", "positions", "log", "set_result", "set_tags", "add_artifact", "end")
EXTRAS = ("tensorboard", "wandb", "trackio")


class ListRun:
    """A tracker in memory; raises at the call that it is told to."""

    def __init__(self, fails_at: str = "", has: Iterable[Position] = ()) -> None:
        self.fails_at = fails_at
        self.steps: list[Position] = list(has)
        self.numbers: dict[str, float] = {}
        self.status = ""
        self._reach("open")

    def _reach(self, call: str) -> None:
        if call == self.fails_at:
            raise OSError(f"no more {call}")

    def positions(self) -> list[Position]:
        self._reach("positions")
        return self.steps

    def log(self, steps) -> None:
        self._reach("log")
        self.steps = self.steps + [each.position for each in steps]

    def set_result(self, numbers) -> None:
        self._reach("set_result")
        self.numbers |= numbers

    def set_tags(self, tags) -> None:
        self._reach("set_tags")

    def add_artifact(self, path) -> None:
        self._reach("add_artifact")

    def end(self, status) -> None:
        self._reach("end")
        self.status = status


def config_in(storage: Path, *words: str) -> RunConfig:
    argv = ["recipe=baseline", "run_name=run", f"storage_root={storage}", *words]
    return load_config(parse_arguments(argv), now=datetime(2025, 1, 1))


def sink_of(run: ListRun | str, run_dir: Path) -> BackgroundSink:
    made = (lambda: ListRun(run)) if isinstance(run, str) else (lambda: run)
    return BackgroundSink(TrackerKind("A tracker", made, lambda error: "make room"), run_dir)


def record(tracker: Tracker, steps: Iterable[int]) -> None:
    for step in steps:
        tracker.log(StepReport(2, step, {"loss/total": 1.0 / (step + 1)}))


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_fails_at_any_call_warns_once_and_the_file_is_whole(call, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(JsonlSink(tmp_path), None, [sink_of(call, tmp_path)])
        record(tracker, range(3))
        tracker.set_result({"pass@1": 0.5})
        tracker.set_tags({"ran.device": "cpu"})
        tracker.add_artifact(tmp_path)
        problems = tracker.close("FINISHED", 30.0)
    assert [each.getMessage() for each in caplog.records] == problems
    assert len(problems) == 1
    assert problems[0].startswith(f"A tracker lacks some of this run: it failed (OSError: no more {call}). ")
    assert "To fix it: make room. Then `wmtp tracking sync " in problems[0]
    assert [each.step for each in read_reports(tmp_path)] == [0, 1, 2]


def test_a_sink_whose_own_calls_raise_is_dropped_and_the_others_go_on(tmp_path, caplog):
    class Raising:
        def __getattr__(self, name):
            raise RuntimeError(name)

    run = ListRun()
    tracker = Tracker(JsonlSink(tmp_path), None, [Raising(), sink_of(run, tmp_path)])
    record(tracker, range(3))
    tracker.set_tags({})
    (problem,) = tracker.close("FINISHED", 30.0)
    assert "Raising failed (RuntimeError: log) and gets nothing more" in problem
    assert [each.getMessage() for each in caplog.records] == [problem]
    assert (run.steps, run.status) == ([(2, 0), (2, 1), (2, 2)], "FINISHED")


def test_a_resumed_run_sends_what_is_lacking_and_nothing_twice(tmp_path):
    run = ListRun()
    first = Tracker(JsonlSink(tmp_path), None, [sink_of(run, tmp_path)])
    record(first, range(4))
    assert first.close("KILLED", 30.0) == []
    run.steps.remove((2, 1))  # as after a kill before it was written
    second = Tracker(JsonlSink(tmp_path), None, [sink_of(run, tmp_path)])
    second.truncate_from(2, 2)
    record(second, range(2, 6))
    assert second.close("FINISHED", 30.0) == []
    assert sorted(run.steps) == [(2, step) for step in range(6)]


def test_steps_of_both_stages_are_kept_apart(tmp_path):
    run = ListRun()
    tracker = Tracker(JsonlSink(tmp_path), None, [sink_of(run, tmp_path)])
    tracker.log(StepReport(1, 0, {"loss/value": 1.0}))
    tracker.log(StepReport(2, 0, {"loss/total": 1.0}))
    tracker.close("FINISHED", 30.0)
    assert run.steps == [(1, 0), (2, 0)]


def test_a_slow_tracker_delays_no_step_and_costs_the_deadline_at_most(tmp_path):
    going_on = threading.Event()

    class Slow(ListRun):
        def log(self, steps) -> None:
            going_on.wait(30.0)

    tracker = Tracker(JsonlSink(tmp_path), None, [sink_of(Slow(), tmp_path)])
    record(tracker, range(50))
    (problem,) = tracker.close("FINISHED", 0.2)
    going_on.set()
    assert "it was too slow for deadlines.tracking_s. " in problem
    assert "To fix it: raise deadlines.tracking_s. Then " in problem
    assert len(read_reports(tmp_path)) == 50


def test_more_steps_than_may_wait_come_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(background_sink, "MAX_WAITING_STEPS", 3)
    opened = threading.Event()
    run = ListRun()

    def open_late() -> ListRun:
        opened.wait(30.0)
        return run

    file = JsonlSink(tmp_path)
    sink = BackgroundSink(TrackerKind("A tracker", open_late, str), tmp_path)
    for step in range(10):
        report = StepReport(2, step, {"loss/total": 1.0})
        sink.log(Recorded(report, int(file.log(report) * 1000)))
    opened.set()
    sink.close("FINISHED", 30.0)
    assert run.steps == [(2, step) for step in range(10)]


@pytest.mark.parametrize(
    ("words", "used"),
    [
        ((), ("mlflow",)),
        (("tracking.mlflow=false",), ()),
        (("tracking.sinks=[]",), ()),
        (("tracking.sinks=[tensorboard]",), ("tensorboard",)),
        (("tracking.sinks=[wandb,mlflow,tensorboard]",), ("mlflow", "wandb", "tensorboard")),
        (("tracking.mlflow=false", "tracking.sinks=[mlflow,trackio]"), ("trackio",)),
    ],
)
def test_the_older_switch_leaves_mlflow_out_of_the_sinks(words, used, tmp_path):
    assert config_in(tmp_path, *words).tracking.used_sinks == used


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("tracking.sinks=[mlflow,mlflow]", "sinks names mlflow twice; name every tracker once"),
        ("tracking.sinks=[comet]", "tracking.sinks"),
        ("tracking.wandb_mode=cloud", "tracking.wandb_mode"),
    ],
)
def test_a_wrong_sink_is_refused(word, expected, tmp_path):
    with pytest.raises(ConfigError, match="tracking") as refused:
        config_in(tmp_path, word)
    assert expected in str(refused.value)


def test_trackers_may_change_when_a_run_is_resumed():
    keys = [f"tracking.{name}" for name in TrackingConfig.model_fields]
    assert {"tracking.sinks", "tracking.wandb_mode"} <= set(keys)
    assert all(effects().may_change_on_resume(key) for key in keys)


@pytest.mark.parametrize("sink", EXTRAS)
def test_a_missing_package_is_refused_with_its_command_before_the_folder_is_made(sink, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == PACKAGES[sink] else find_spec(name, *more)
    )
    config = config_in(tmp_path, f"tracking.sinks=[mlflow,{sink}]")
    trackers = [check for check in start_checks(config) if check.subject == "trackers"]
    with pytest.raises(ConfigError) as refused:
        require_start(trackers)
    assert f"found no package {sink}, expected it installed: pip install 'wmtp_ray[{sink}]'" in str(refused.value)
    assert not config.run_dir.exists()
    assert check_packages(config_in(tmp_path).tracking.used_sinks).startswith("mlflow ")


@pytest.mark.parametrize(("name", "others"), [("mlflow", 120), ("wandb", 65)])
def test_the_memory_of_a_tracker_counts_in_the_estimate(name, others):
    assert machine_bytes(sinks=(name,)) - machine_bytes(sinks=()) == others * MIB
    assert machine_bytes(sinks=(name, "tensorboard")) > machine_bytes(sinks=(name,))
    assert SINK_MIB.keys() == PACKAGES.keys()


@pytest.mark.parametrize("sink", [name for name in EXTRAS if importlib.util.find_spec(name) is None])
def test_a_package_that_is_gone_where_the_run_runs_only_warns(sink, tmp_path):
    config = config_in(tmp_path, f"tracking.sinks=[{sink}]")
    tracker = open_tracker(config, mlflow_run_id=None)
    record(tracker, range(3))
    (problem,) = tracker.close("FINISHED", 30.0)
    assert f"install it where the run runs: pip install 'wmtp_ray[{sink}]'" in problem
    assert [each.step for each in read_reports(config.run_dir)] == [0, 1, 2]
