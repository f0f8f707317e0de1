from datetime import datetime
from pathlib import Path

import orjson

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.tracker import open_tracker


def config_in(storage: Path, *words: str) -> RunConfig:
    argv = ["recipe=baseline", "run_name=run", f"storage_root={storage}", *words]
    return load_config(parse_arguments(argv), now=datetime(2025, 1, 1))


def steps_in(config: RunConfig) -> list[int]:
    return [orjson.loads(line)["step"] for line in (config.run_dir / "metrics.jsonl").read_bytes().splitlines()]


def test_without_mlflow_the_file_has_everything(tmp_path):
    config = config_in(tmp_path, "tracking.mlflow=false")
    tracker = open_tracker(config, mlflow_run_id=None)
    assert tracker.latest() is None
    tracker.log(StepReport(2, 0, {"loss/total": 1.0}))
    tracker.log(StepReport(2, 1, {"loss/total": 0.5}))
    tracker.set_result({"pass": 0.5})
    assert tracker.latest() == StepReport(2, 1, {"loss/total": 0.5})
    assert tracker.mlflow_run_id is None
    assert tracker.close("FINISHED", 1.0) == []
    assert steps_in(config) == [0, 1]


def test_resumed_tracker_forgets_what_is_trained_again(tmp_path):
    config = config_in(tmp_path, "tracking.mlflow=false")
    tracker = open_tracker(config, mlflow_run_id=None)
    for step in range(5):
        tracker.log(StepReport(2, step))
    tracker.truncate_from(2, 3)
    assert tracker.latest() is None
    tracker.log(StepReport(2, 3))
    tracker.close("FINISHED", 1.0)
    assert steps_in(config) == [0, 1, 2, 3]


def test_both_sinks_get_every_step(prepare_mlflow, tmp_path):
    from mlflow import MlflowClient

    prepare_mlflow(tmp_path)
    config = config_in(tmp_path, "--tags", "team=a")
    tracker = open_tracker(config, mlflow_run_id=None)
    for step in range(3):
        tracker.log(StepReport(2, step, {"loss/total": float(step)}))
    assert tracker.close("FINISHED", 60.0) == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(tracker.mlflow_run_id)
    assert (run.data.params["weighting.type"], run.data.tags["recipe"], run.data.tags["team"]) == (
        "uniform",
        "baseline",
        "a",
    )
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/total")] == steps_in(config)


def test_a_silent_server_leaves_the_file_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = config_in(tmp_path, "tracking.mlflow_uri=http://127.0.0.1:9")
    tracker = open_tracker(config, mlflow_run_id="kept-for-the-checkpoint")
    tracker.log(StepReport(2, 0, {"loss/total": 1.0}))
    (problem,) = tracker.close("FINISHED", 60.0)
    assert "MLflow lacks at most 1 metric, " in problem
    assert tracker.mlflow_run_id == "kept-for-the-checkpoint"
    assert steps_in(config) == [0]
