"""`wmtp tracking sync`: what a run's folder has and MLflow lacks, sent once."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.cli import main
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.mlflow_run import default_uri, read_mlflow_run_id
from wmtp_ray.tracking.mlflow_sink import MISSING
from wmtp_ray.tracking.result import RunResult, read_result, write_result
from wmtp_ray.tracking.tracker import open_tracker

NUM_STEPS = 12


@pytest.fixture
def run_dir(tmp_path: Path, prepare_mlflow: Callable[[Path], None]) -> Path:
    """A run that ended: 12 steps in metrics.jsonl, of which MLflow has the first three and the sixth."""
    prepare_mlflow(tmp_path)
    words = ["recipe=baseline", "run_name=run", f"storage_root={tmp_path}"]
    config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(dump_config(config))
    tracker = open_tracker(config, mlflow_run_id=None)
    for step in (0, 1, 2, 5):
        tracker.log(report(step))
    assert tracker.close("KILLED", 60.0) == []
    file = JsonlSink(config.run_dir)
    for step in set(range(NUM_STEPS)) - {0, 1, 2, 5}:
        file.log(report(step))
    file.close()
    metrics = {**report(NUM_STEPS - 1).metrics, "eval/humaneval/pass@1": 0.25}
    warnings = ("another", f"{MISSING} 16 metrics")
    write_result(config.run_dir, RunResult("FINISHED", NUM_STEPS, metrics, None, {}, warnings))
    return config.run_dir


def report(step: int) -> StepReport:
    return StepReport(2, step, {"loss/total": 1.0 / (step + 1), "weight/std": 0.5})


def there(run_dir: Path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(run_dir.parents[1]))
    run_id = read_mlflow_run_id(run_dir)
    return client, run_id, sorted((each.step, each.value) for each in client.get_metric_history(run_id, "loss/total"))


def sync(run_dir: Path) -> int:
    return main(["tracking", "sync", str(run_dir)])


def test_what_is_missing_is_counted_and_sent_and_a_second_time_there_is_nothing(run_dir, capsys):
    client, run_id, _ = there(run_dir)
    assert client.get_run(run_id).info.status == "KILLED"
    (run_dir / "plan.json").write_text("{}")
    assert sync(run_dir) == 0
    said = capsys.readouterr().out
    assert "24 metrics of 12 steps" in said
    assert "17 metrics, 2 artifacts were missing and were sent; its status is FINISHED" in said
    _, _, points = there(run_dir)
    assert points == [(step, 1.0 / (step + 1)) for step in range(NUM_STEPS)]
    assert client.get_run(run_id).data.metrics["eval/humaneval/pass_1"] == 0.25
    assert read_result(run_dir).warnings == ("another",)

    before = client.get_run(run_id)
    assert sync(run_dir) == 0
    assert "nothing was missing; its status is FINISHED" in capsys.readouterr().out
    assert there(run_dir)[2] == points
    assert client.get_run(run_id).to_dictionary() == before.to_dictionary()


def test_a_run_that_mlflow_never_saw_arrives_whole(run_dir, capsys):
    (run_dir / "mlflow_run_id").unlink()
    assert sync(run_dir) == 0
    assert "25 metrics" in (said := capsys.readouterr().out)
    assert "parameters" in said
    client, run_id, points = there(run_dir)
    assert len(points) == NUM_STEPS
    assert client.get_run(run_id).data.params["seed"] == "42"
    assert client.get_run(run_id).data.tags["recipe"] == "baseline"


def test_a_run_that_was_killed_keeps_its_status_in_mlflow(run_dir, capsys):
    (run_dir / "result.json").unlink()
    client, run_id, _ = there(run_dir)
    client.update_run(run_id, status="RUNNING")
    assert sync(run_dir) == 0
    assert "16 metrics, 1 artifact were missing and were sent; its status is RUNNING" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_refused(run_dir, capsys):
    assert sync(run_dir.parent / "absent") == 2
    assert "holds no config.yaml; expected the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("sqlite:////no/such/folder/mlflow.db", 2, "cannot be opened"),
        ("http://127.0.0.1:9", 1, "does not answer"),
    ],
)
def test_an_mlflow_that_cannot_be_used_is_told(run_dir, capsys, monkeypatch, uri, code, message):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = (run_dir / "config.yaml").read_text().replace("mlflow_uri: null", f"mlflow_uri: {uri}")
    (run_dir / "config.yaml").write_text(config)
    assert sync(run_dir) == code
    assert message in (said := capsys.readouterr().err)
    assert "Then give this command again" in said


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(run_dir, capsys):
    client, run_id, _ = there(run_dir)
    experiment = client.get_run(run_id).info.experiment_id
    client.delete_experiment(experiment)
    assert sync(run_dir) == 2
    assert f"mlflow experiments restore -x {experiment}`" in capsys.readouterr().err
