"""A real MLflow server that is killed and started again on the same file, while a run is written to it."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.faults import free_port, mlflow_server
from tests.flows.world import kill_family, wait_until
from wmtp_ray.cli import main
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.mlflow_run import read_mlflow_run_id
from wmtp_ray.tracking.mlflow_sink import MISSING
from wmtp_ray.tracking.result import RunResult, write_result
from wmtp_ray.tracking.tracker import Tracker, open_tracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def report(step: int) -> StepReport:
    metrics = {"loss/total": 1.0 / (step + 1), "not/a number": float("nan"), "in/finite": float("inf")}
    return StepReport(2, step, metrics)


def continued(config: RunConfig) -> Tracker:
    return open_tracker(config, mlflow_run_id=read_mlflow_run_id(config.run_dir))


def steps_there(uri: str, run_id: str | None, key: str = "loss/total") -> list[int]:
    from mlflow import MlflowClient

    return sorted(point.step for point in MlflowClient(uri).get_metric_history(run_id, key))


def status_there(uri: str, run_id: str | None) -> str:
    from mlflow import MlflowClient

    return str(MlflowClient(uri).get_run(run_id).info.status)


def test_an_outage_costs_no_point_whoever_is_killed(
    tmp_path: Path,
    prepare_mlflow: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare_mlflow(tmp_path)
    port = free_port()
    words = [
        "recipe=baseline",
        "run_name=run",
        f"storage_root={tmp_path}",
        f"tracking.mlflow_uri=http://127.0.0.1:{port}",
    ]
    config = load_config(parse_arguments([*words, "--tags", "a(b)=c"]), now=datetime(2026, 1, 1))
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(dump_config(config))

    with mlflow_server(tmp_path, port) as (uri, server):
        tracker = open_tracker(config, mlflow_run_id=None)
        for step in range(10):
            tracker.log(report(step))
        wait_until(lambda: tracker.mlflow_run_id is not None, "the run")
        run_id = tracker.mlflow_run_id
        wait_until(lambda: steps_there(uri, run_id) == list(range(10)), "ten steps")
        kill_family(server)
    for step in range(10, 20):
        tracker.log(report(step))
    wait_until(lambda: "does not answer (" in caplog.text, "the outage to be told")
    with mlflow_server(tmp_path, port) as (uri, server):
        wait_until(lambda: "is back after" in caplog.text, "its end to be told")
        assert steps_there(uri, run_id) == list(range(20))
        kill_family(server)
    for step in range(20, 30):
        tracker.log(report(step))
    problems = tracker.close("FINISHED", 60.0)
    assert any(text.startswith(f"{MISSING} 30 metrics, ") for text in problems), problems
    write_result(config.run_dir, RunResult("FINISHED", 30, report(29).metrics, None, {}, tuple(problems)))

    assert main(["tracking", "sync", str(config.run_dir)]) == 1
    assert "does not answer" in capsys.readouterr().err
    with mlflow_server(tmp_path, port) as (uri, _):
        assert status_there(uri, run_id) == "RUNNING", "FINISHED would say that every point is there"
        assert main(["tracking", "sync", str(config.run_dir)]) == 0
        assert "30 metrics" in capsys.readouterr().out
        assert main(["tracking", "sync", str(config.run_dir)]) == 0
        assert "nothing was missing; its status is FINISHED" in capsys.readouterr().out
        for key in ("loss/total", "not/a number", "in/finite"):
            assert steps_there(uri, run_id, key) == list(range(30))
        resumed = continued(config)
        resumed.log(report(30))
        time.sleep(1.0)
        assert [text for text in resumed.close("FINISHED", 60.0) if MISSING in text] == []
        assert steps_there(uri, run_id) == list(range(31))
        assert status_there(uri, run_id) == "FINISHED"
