"""A run of MLflow's embedded store, written to a folder: every point, param, tag and artifact, or nothing at all."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp_ray.errors import ArtifactError
from wmtp_ray.tracking.mlflow_export import export_mlflow_run
from wmtp_ray.tracking.mlflow_run import MetricPoint, MlflowRun, MlflowTarget, default_uri


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, prepare_mlflow: Callable[[Path], None]) -> Path:
    """Three runs: one with everything, two of one name."""
    root = tmp_path_factory.mktemp("storage")
    prepare_mlflow(root)
    (root / "plan").mkdir()
    (root / "plan" / "plan.json").write_text("{}")
    (root / "result.json").write_text('{"status": "FINISHED"}')
    for name in ("whole", "twice", "twice"):
        target = MlflowTarget(default_uri(root), "experiment", name, {"seed": 4}, {"team": "a"}, None)
        run = MlflowRun.open(target)
        run.log_params()
        if name == "whole":
            points = [MetricPoint("loss/total", 1.0 / (step + 1), 1000 + step, step) for step in (2, 0, 1)]
            run.log_metrics([*points, MetricPoint("pass_1", 0.25, 2000, None)])
            run.log_artifact(root / "plan")
            run.log_artifact(root / "result.json")
        run.end("FINISHED")
    return root


def test_everything_of_a_run_is_in_the_folder(storage, tmp_path):
    assert export_mlflow_run(default_uri(storage), "whole", tmp_path / "out") == 4
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["run_name"], run["status"], run["params"]) == ("whole", "FINISHED", {"seed": "4"})
    assert run["tags"]["team"] == "a"
    assert run["metrics"] == {"loss/total": pytest.approx(1 / 3), "pass_1": 0.25}
    assert run["started"] <= run["ended"]
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        rows = [(row["key"], int(row["step"]), float(row["value"]), row["time_ms"]) for row in csv.DictReader(file)]
    losses = [("loss/total", step, pytest.approx(1 / (step + 1)), str(1000 + step)) for step in range(3)]
    assert rows == [*losses, ("pass_1", 0, 0.25, "2000")]
    artifacts = tmp_path / "out" / "artifacts"
    assert (artifacts / "plan" / "plan.json").read_text() == "{}"
    assert json.loads((artifacts / "result.json").read_text()) == {"status": "FINISHED"}
    export_mlflow_run(default_uri(storage), run["run_id"], tmp_path / "by_id")
    assert (tmp_path / "by_id" / "run.json").read_bytes() == (tmp_path / "out" / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("absent", r"no run with the id or name absent; .* whole"),
        ("0" * 32, "no run with the id or name 000"),
        ("twice", "2 runs are named twice, expected one"),
        ('a" or "', "MLflow at .* gave no whole run"),
    ],
)
def test_a_run_that_is_not_one_is_told_and_leaves_nothing(storage, tmp_path, wanted, message):
    with pytest.raises(ArtifactError, match=message):
        export_mlflow_run(default_uri(storage), wanted, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_store_is_made_for_a_mistyped_name_and_no_folder_overwritten(storage, tmp_path):
    with pytest.raises(ArtifactError, match=r"mlflow\.db does not exist"):
        export_mlflow_run(default_uri(tmp_path), "whole", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").touch()
    with pytest.raises(ArtifactError, match="is not empty"):
        export_mlflow_run(default_uri(storage), "whole", tmp_path)
