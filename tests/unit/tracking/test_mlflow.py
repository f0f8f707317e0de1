"""MLflow against the real embedded store; the server that does not answer is a loopback port."""

import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking import mlflow_sink
from wmtp_ray.tracking.mlflow_run import MlflowTarget, artifact_location, default_uri, flat_params, metric_key
from wmtp_ray.tracking.mlflow_sink import MlflowSink

DEADLINE_S = 60.0


def report(step: int, stage: int = 2, **metrics: float) -> StepReport:
    return StepReport(stage, step, {"loss/total": 1.0 / (step + 1), **metrics})


def wait_until(reached: Callable[[], object]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < end_s, "the sink's thread did not get there"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def storage(tmp_path_factory, prepare_mlflow) -> Path:
    directory: Path = tmp_path_factory.mktemp("a storage")
    prepare_mlflow(directory)
    return directory


def target_in(storage: Path, run_name: str) -> MlflowTarget:
    params = {"train": {"max_steps": 3}, "data": {"train_file": "x" * 900}}
    return MlflowTarget(default_uri(storage), "experiment", run_name, params, {"team": "a"}, None)


def client_of(storage: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(storage))


def history(storage: Path, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client_of(storage).get_metric_history(run_id, key)]


class TestEmbeddedStore:
    def test_run_holds_params_tags_metrics_artifacts_and_status(self, storage, tmp_path):
        (tmp_path / "plan").mkdir()
        (tmp_path / "plan" / "plan.json").write_text("{}")
        (tmp_path / "config.yaml").write_text("seed: 1\n")
        sink = MlflowSink(target_in(storage, "whole"))
        for step in range(3):
            sink.log(report(step, **{"strange@key": math.nan}))
        sink.set_result({"humaneval/pass@1": 0.25})
        sink.add_artifact(tmp_path / "config.yaml")
        sink.add_artifact(tmp_path / "plan")
        sink.close("FINISHED", DEADLINE_S)
        assert sink.problems() == []

        run = client_of(storage).get_run(sink.run_id)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "whole"
        assert run.data.tags["team"] == "a"
        assert run.data.params["train.max_steps"] == "3"
        assert len(run.data.params["data.train_file"]) == 500
        assert run.data.metrics["humaneval/pass_1"] == 0.25
        assert math.isnan(run.data.metrics["strange_key"])
        assert history(storage, sink.run_id, "loss/total") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert run.info.artifact_uri.startswith((storage / "mlartifacts").as_uri())
        found = {path.relative_to(storage).parts[-1] for path in (storage / "mlartifacts").rglob("*") if path.is_file()}
        assert {"config.yaml", "plan.json"} <= found

    def test_resumed_run_continues_without_repeating_steps(self, storage):
        first = MlflowSink(target_in(storage, "resumed"))
        for step in range(4):
            first.log(report(step))
        first.close("KILLED", DEADLINE_S)
        changed = replace(
            target_in(storage, "resumed"), run_id=first.run_id, params={"train": {"max_steps": 9}, "seed": 1}
        )
        second = MlflowSink(changed)
        assert second.run_id == first.run_id
        for step in range(2, 6):
            second.log(report(step))
        second.close("FINISHED", DEADLINE_S)
        assert second.problems() == []
        assert [step for step, _ in history(storage, first.run_id, "loss/total")] == list(range(6))
        run = client_of(storage).get_run(first.run_id)
        assert run.info.status == "FINISHED"
        assert (run.data.params["train.max_steps"], run.data.params["seed"]) == ("3", "1")

    def test_more_metrics_than_one_call_takes_all_arrive(self, storage):
        sink = MlflowSink(target_in(storage, "many"))
        for step in range(30):
            sink.log(StepReport(2, step, {f"metric/{index}": float(step) for index in range(100)}))
        sink.close("FINISHED", DEADLINE_S)
        assert sink.problems() == []
        assert len(history(storage, sink.run_id, "metric/99")) == 30

    def test_what_the_server_refuses_is_counted(self, storage):
        sink = MlflowSink(target_in(storage, "refused"))
        wait_until(lambda: sink.run_id)
        client_of(storage).delete_run(sink.run_id)
        sink.log(report(0))
        sink.close("FINISHED", DEADLINE_S)
        (problem,) = sink.problems()
        assert "1 metrics were not logged there; metrics.jsonl has every number" in problem

    def test_metrics_wait_for_a_server_that_comes_back(self, prepare_mlflow, tmp_path):
        (tmp_path / "later").write_text("in the way of the directory")
        sink = MlflowSink(target_in(tmp_path / "later", "patient"))
        sink.log(report(0))
        wait_until(sink.problems)
        sink.log(report(1))
        (tmp_path / "later").unlink()
        prepare_mlflow(tmp_path / "later")
        sink.close("FINISHED", DEADLINE_S)
        assert sink.problems() == []
        assert history(tmp_path / "later", sink.run_id, "loss/total") == [(0, 1.0), (1, 0.5)]

    def test_an_artifact_that_cannot_be_read_leaves_the_run_ended(self, storage, tmp_path):
        sink = MlflowSink(target_in(storage, "no artifact"))
        sink.log(report(0))
        sink.add_artifact(tmp_path / "absent.html")
        sink.close("FAILED", DEADLINE_S)
        (problem,) = sink.problems()
        assert "0 metrics were not logged there, 1 artifacts were not uploaded" in problem
        assert client_of(storage).get_run(sink.run_id).info.status == "FAILED"


class TestServerThatDoesNotAnswer:
    @pytest.fixture
    def port(self) -> Iterator[int]:
        """A loopback port on which nobody accepts: connecting succeeds, an answer never comes."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            yield listener.getsockname()[1]

    @pytest.fixture
    def closed_port(self) -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return int(listener.getsockname()[1])

    def target(self, port: int) -> MlflowTarget:
        return MlflowTarget(f"http://name:secret@127.0.0.1:{port}", "experiment", "run", {}, {}, None)

    def test_closed_port_costs_no_training_and_is_said_once(self, closed_port, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        sink = MlflowSink(self.target(closed_port))
        for step in range(60):
            sink.log(report(step, other=1.0))
        wait_until(sink.problems)
        sink.close("FINISHED", DEADLINE_S)
        (problem,) = sink.problems()
        assert f"MLflow at http://127.0.0.1:{closed_port} did not answer (" in problem
        assert "120 metrics were not logged there; metrics.jsonl has every number" in problem
        assert "set tracking.mlflow=false" in problem
        assert "secret" not in problem
        assert sink.run_id is None

    def test_close_gives_up_at_its_deadline(self, port, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        sink = MlflowSink(self.target(port))
        sink.log(report(0))
        sink.close("FINISHED", 0.1)
        (problem,) = sink.problems()
        assert "1 metrics were not logged there" in problem

    def test_waiting_metrics_are_bounded_and_the_oldest_go_first(self, closed_port, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setattr(mlflow_sink, "MAX_WAITING", 10)
        sink = MlflowSink(self.target(closed_port))
        for step in range(25):
            sink.log(report(step))
        assert [point.step for point in sink._waiting] == list(range(15, 25))
        sink.close("FINISHED", DEADLINE_S)
        assert "25 metrics were not logged there" in sink.problems()[0]


def test_metric_names_keep_stages_apart_and_are_allowed():
    assert metric_key("loss/total", 2) == "loss/total"
    assert metric_key("loss/total", 1) == "stage1/loss/total"
    assert metric_key("humaneval/pass@1 (n=5)", 2) == "humaneval/pass_1 _n_5_"


def test_params_are_flattened_to_texts():
    assert flat_params({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": {}}) == {
        "a.b": "1",
        "a.c.d": "None",
        "e": "[1, 2]",
        "f": "{}",
    }


def test_default_uri_is_absolute_with_artifacts_beside_it():
    uri = default_uri(Path("/data/my storage"))
    assert uri == "sqlite:////data/my storage/mlflow.db"
    assert artifact_location(uri) == "file:///data/my%20storage/mlartifacts"
    assert artifact_location("http://host:5000") is None


def test_starting_a_sink_module_does_not_import_mlflow():
    program = "import sys, wmtp_ray.tracking.tracker; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    root = Path(mlflow_sink.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["False", "False"]
