"""MLflow against the real embedded store; the server that does not answer is a loopback port."""

import math
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking import mlflow_sink
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.mlflow_run import MlflowTarget, artifact_location, default_uri, read_mlflow_run_id
from wmtp_ray.tracking.mlflow_sink import MISSING, MlflowSink
from wmtp_ray.tracking.tracker import Tracker

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


def tracker_of(target: MlflowTarget, folder: Path) -> Tracker:
    """Both sinks of a run, its folder in `folder`; continues what its folder knows."""
    run_dir = folder / "runs" / target.run_name
    file = JsonlSink(run_dir)
    return Tracker(file, MlflowSink(replace(target, run_id=read_mlflow_run_id(run_dir)), run_dir))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the sink has warned of."""
    return [record.getMessage() for record in caplog.records if record.name == "wmtp_ray.tracking.mlflow_sink"]


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
        tracker = tracker_of(target_in(storage, "whole"), tmp_path)
        for step in range(3):
            tracker.log(report(step, **{"strange@key": math.nan, "a//b": math.inf}))
        tracker.set_result({"humaneval/pass@1": 0.25})
        tracker.add_artifact(tmp_path / "config.yaml")
        tracker.add_artifact(tmp_path / "plan")
        assert tracker.close("FINISHED", DEADLINE_S) == []

        run = client_of(storage).get_run(tracker.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "whole"
        assert run.data.tags["team"] == "a"
        assert run.data.params["train.max_steps"] == "3"
        assert len(run.data.params["data.train_file"]) == 900
        assert run.data.metrics["humaneval/pass_1"] == 0.25
        assert math.isnan(run.data.metrics["strange_key"])
        assert math.isnan(run.data.metrics["a__b"]), (
            "infinity is null in metrics.jsonl, so it is not the largest double"
        )
        assert history(storage, tracker.mlflow_run_id, "loss/total") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert run.info.artifact_uri.startswith((storage / "mlartifacts").as_uri())
        found = {path.relative_to(storage).parts[-1] for path in (storage / "mlartifacts").rglob("*") if path.is_file()}
        assert {"config.yaml", "plan.json"} <= found

    def test_resumed_run_continues_without_repeating_steps(self, storage, tmp_path):
        first = tracker_of(target_in(storage, "resumed"), tmp_path)
        for step in range(4):
            first.log(report(step))
        first.close("KILLED", DEADLINE_S)
        params = {"train": {"max_steps": 9}, "seed": 1}
        second = tracker_of(replace(target_in(storage, "resumed"), params=params, tags={"team": "b"}), tmp_path)
        second.truncate_from(2, 2)
        for step in range(2, 6):
            second.log(report(step))
        [note] = second.close("FINISHED", DEADLINE_S)
        assert second.mlflow_run_id == first.mlflow_run_id
        assert "parameter train.max_steps stays 3 there (now 9)" in note
        assert [step for step, _ in history(storage, first.mlflow_run_id, "loss/total")] == list(range(6))
        run = client_of(storage).get_run(first.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert (run.data.params["train.max_steps"], run.data.params["seed"]) == ("3", "1")
        assert run.data.tags["team"] == "b"

    def test_more_metrics_than_one_call_takes_all_arrive(self, storage, tmp_path):
        tracker = tracker_of(target_in(storage, "many"), tmp_path)
        for step in range(30):
            tracker.log(StepReport(2, step, {f"metric/{index}": float(step) for index in range(100)}))
        assert tracker.close("FINISHED", DEADLINE_S) == []
        assert len(history(storage, tracker.mlflow_run_id, "metric/99")) == 30

    def test_more_params_than_one_call_takes_all_arrive(self, storage, tmp_path):
        target = replace(target_in(storage, "many params"), params={f"p{n}": n for n in range(230)})
        tracker = tracker_of(target, tmp_path)
        assert tracker.close("FINISHED", DEADLINE_S) == []
        assert len(client_of(storage).get_run(tracker.mlflow_run_id).data.params) == 230

    def test_an_artifact_that_cannot_be_read_costs_itself_alone(self, storage, tmp_path):
        (tmp_path / "config.yaml").write_text("seed: 1\n")
        tracker = tracker_of(target_in(storage, "no artifact"), tmp_path)
        tracker.log(report(0))
        tracker.add_artifact(tmp_path / "absent.html")
        tracker.add_artifact(tmp_path / "config.yaml")
        [problem] = tracker.close("FINISHED", DEADLINE_S)
        assert f"{MISSING} 1 artifact of this run: MLflow at {default_uri(storage)} did not take absent.html" in problem
        client = client_of(storage)
        assert client.get_run(tracker.mlflow_run_id).info.status == "FINISHED"
        assert [entry.path for entry in client.list_artifacts(tracker.mlflow_run_id)] == ["config.yaml"]

    def test_steps_logged_out_of_order_all_arrive(self, storage, tmp_path):
        """Calls to a metrics actor that was restarted are made again, and not in their order."""
        tracker = tracker_of(target_in(storage, "out of order"), tmp_path)
        for step in (0, 3, 1, 2):
            tracker.log(report(step))
            wait_until(lambda: not tracker._mlflow._waiting)
        tracker.close("FINISHED", DEADLINE_S)
        assert sorted(history(storage, tracker.mlflow_run_id, "loss/total")) == [(n, 1.0 / (n + 1)) for n in range(4)]


class TestWhatMlflowRefuses:
    def test_names_and_lengths_are_fitted_and_said_and_all_else_arrives(self, storage, tmp_path):
        tags = {"a(b)": "1", "a[b]": "2", "ticket #1": "x", "이름": "값", "../up": "y", "note": "n" * 9000}
        params = {"bins": {"low@": 1, "fine": 2}, "k" * 300: 3, "long": "x" * 7000}
        tracker = tracker_of(replace(target_in(storage, "refused"), tags=tags, params=params), tmp_path)
        tracker.log(report(0))
        [note] = tracker.close("FINISHED", DEADLINE_S)
        run = client_of(storage).get_run(tracker.mlflow_run_id)
        ours = {key: text for key, text in run.data.tags.items() if not key.startswith("mlflow.")}
        assert sorted(ours.values(), key=len)[:5] == sorted(["1", "2", "x", "값", "y"], key=len)
        assert (ours["a_b_"], ours["ticket _1"], ours["이름"], len(ours["note"])) == ("1", "x", "값", 8000)
        assert (run.data.params["bins.fine"], run.data.params["bins.low_"]) == ("2", "1")
        assert (len(run.data.params), len(run.data.params["long"])) == (4, 6000)
        assert run.info.status == "FINISHED"
        assert history(storage, tracker.mlflow_run_id, "loss/total") == [(0, 1.0)]
        for part in (
            "tag a(b) is a_b_ there",
            "tag note is cut from 9,000 to 8,000",
            "parameter long is cut from 7,000",
        ):
            assert part in note
        assert MISSING not in note

    def test_what_is_refused_none_the_less_costs_itself_and_is_counted(self, storage, tmp_path, monkeypatch):
        """Stands for a server with rules of its own: names that this release refuses are let through."""
        monkeypatch.setattr("wmtp_ray.tracking.mlflow_names.allowed_key", lambda name: name)
        target = replace(target_in(storage, "own rules"), tags={"a(b)": "1", "fine": "2"}, params={"c(d)": 1, "e": 2})
        tracker = tracker_of(target, tmp_path)
        for step in range(3):
            tracker.log(report(step, **{"f(g)": 1.0, "h": 2.0}))
        [problem, note] = tracker.close("FINISHED", DEADLINE_S)
        run = client_of(storage).get_run(tracker.mlflow_run_id)
        assert (run.data.tags["fine"], run.data.params) == ("2", {"e": "2"})
        assert len(history(storage, tracker.mlflow_run_id, "h")) == 3
        assert f"{MISSING} 3 metrics, 1 parameter, 1 tag, the status FINISHED of this run" in problem
        assert "tag a(b) was refused" in note
        assert "parameter c(d) was refused" in note
        assert run.info.status == "RUNNING", "FINISHED would say that every point is there"


class TestDeletedThings:
    def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(self, prepare_mlflow, tmp_path, caplog):
        prepare_mlflow(tmp_path / "st 1")
        target = target_in(tmp_path / "st 1", "run")
        client = client_of(tmp_path / "st 1")
        experiment = client.create_experiment("experiment")
        client.delete_experiment(experiment)
        tracker = tracker_of(target, tmp_path)
        tracker.log(report(0))
        wait_until(lambda: told(caplog))
        [text] = told(caplog)
        assert f"has the experiment experiment (id {experiment}) as deleted" in text
        restore = f"MLFLOW_TRACKING_URI='{target.uri}' mlflow experiments restore -x {experiment}"
        assert restore in text

        from mlflow.experiments import commands

        name, _, address = shlex.split(restore)[0].partition("=")
        done = CliRunner().invoke(commands, shlex.split(restore)[3:], env={name: address}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert [text for text in tracker.close("FINISHED", DEADLINE_S) if text.startswith(MISSING)] == []
        assert history(tmp_path / "st 1", tracker.mlflow_run_id, "loss/total") == [(0, 1.0)]

    def test_a_run_deleted_while_it_is_written_waits_for_its_restoration(self, storage, tmp_path, caplog):
        tracker = tracker_of(target_in(storage, "deleted"), tmp_path)
        wait_until(lambda: tracker._mlflow._run and not tracker._mlflow._run.num_params + tracker._mlflow._run.num_tags)
        run_id = tracker.mlflow_run_id
        client_of(storage).delete_run(run_id)
        tracker.log(report(0, other=1.0))
        wait_until(lambda: told(caplog))
        assert f"mlflow runs restore --run-id {run_id}" in told(caplog)[0]
        [problem] = tracker.close("FINISHED", DEADLINE_S)
        assert f"{MISSING} 2 metrics, the status FINISHED of this run: MLflow at" in problem
        assert f"mlflow runs restore --run-id {run_id}` restores it. Then `wmtp tracking sync " in problem

        client_of(storage).restore_run(run_id)
        resumed = tracker_of(target_in(storage, "deleted"), tmp_path)
        assert resumed.close("FINISHED", DEADLINE_S) == []
        assert (resumed.mlflow_run_id, client_of(storage).get_run(run_id).info.status) == (run_id, "FINISHED")
        assert history(storage, run_id, "loss/total") == [(0, 1.0)]
        assert "MLflow lacked 2 metrics of earlier steps" in told(caplog)[-1]

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_a_run_deleted_before_it_is_resumed_gets_a_new_one_with_every_point(self, storage, tmp_path, is_gone):
        first = tracker_of(target_in(storage, "resume deleted"), tmp_path)
        for step in range(3):
            first.log(report(step))
        first.close("KILLED", DEADLINE_S)
        former = first.mlflow_run_id
        if is_gone:
            (tmp_path / "runs" / "resume deleted" / "mlflow_run_id").write_text("f" * 32)
        else:
            client_of(storage).delete_run(former)
        second = tracker_of(target_in(storage, "resume deleted"), tmp_path)
        second.log(report(3))
        [note] = second.close("FINISHED", DEADLINE_S)
        assert second.mlflow_run_id not in (former, "f" * 32)
        assert f"a new one ({second.mlflow_run_id}) gets all of it" in note
        assert ("is not there" if is_gone else f"mlflow runs restore --run-id {former}` restores it") in note
        assert [step for step, _ in history(storage, second.mlflow_run_id, "loss/total")] == [0, 1, 2, 3]
        assert read_mlflow_run_id(tmp_path / "runs" / "resume deleted") == second.mlflow_run_id


class TestDatabasesThatCannotBeUsed:
    def told(self, tmp_path: Path, storage: Path) -> str:
        tracker = tracker_of(target_in(storage, "run"), tmp_path)
        tracker.log(report(0))
        [problem] = tracker.close("FINISHED", DEADLINE_S)
        assert f"{MISSING} 1 metric, 2 parameters, 1 tag, the status FINISHED of this run" in problem
        return problem

    def set_schema(self, storage: Path, version: str) -> None:
        with sqlite3.connect(storage / "mlflow.db") as database:
            database.execute("update alembic_version set version_num = ?", (version,))

    def test_an_older_schema_is_told_with_the_whole_upgrade_command(self, prepare_mlflow, tmp_path):
        storage = tmp_path / ("a storage with a long name " * 6)
        prepare_mlflow(storage)
        self.set_schema(storage, "cc1f77228345")
        problem = self.told(tmp_path, storage)
        assert "is a database of an older MLflow (schema cc1f77228345, expected" in problem
        assert f"make a backup of it, then run `mlflow db upgrade 'sqlite:///{storage}/mlflow.db'`" in problem

    def test_a_newer_schema_is_not_told_to_be_upgraded(self, prepare_mlflow, tmp_path):
        prepare_mlflow(tmp_path / "storage")
        self.set_schema(tmp_path / "storage", "abcdef012345")
        problem = self.told(tmp_path, tmp_path / "storage")
        assert "install the MLflow that wrote it" in problem
        assert "upgrade" not in problem

    def test_a_file_that_may_not_be_opened_is_told_with_what_to_change(self, tmp_path):
        (tmp_path / "storage" / "mlflow.db").mkdir(parents=True)
        problem = self.told(tmp_path, tmp_path / "storage")
        assert "cannot be opened (" in problem
        assert "give this user the right to write it and its folder" in problem
        assert "[SQL" not in problem

    def test_a_file_that_is_no_database_is_told(self, tmp_path):
        (tmp_path / "storage").mkdir()
        (tmp_path / "storage" / "mlflow.db").write_text("no database " * 100)
        assert "is no sqlite database" in self.told(tmp_path, tmp_path / "storage")


class TestOutage:
    @pytest.fixture
    def away(self, prepare_mlflow, tmp_path) -> Path:
        """A storage whose folder is in the way of itself, until `bring_back`."""
        storage: Path = tmp_path / "later"
        prepare_mlflow(tmp_path / "aside")
        storage.write_text("in the way of the directory")
        return storage

    def bring_back(self, storage: Path) -> None:
        storage.unlink()
        shutil.copytree(storage.with_name("aside"), storage)

    def test_its_begin_and_its_end_are_told_and_what_waited_is_sent(self, away, tmp_path, caplog):
        tracker = tracker_of(target_in(away, "patient"), tmp_path)
        for step in range(3):
            tracker.log(report(step))
        wait_until(lambda: told(caplog))
        self.bring_back(away)
        wait_until(lambda: len(told(caplog)) == 2)
        begin, end = told(caplog)
        assert f"MLflow at {default_uri(away)} cannot be opened (" in begin
        assert "metrics.jsonl has every number" in begin
        assert "is back after" in end
        assert "3 metrics that waited are sent" in end
        assert tracker.close("FINISHED", DEADLINE_S) == []
        assert [step for step, _ in history(away, tracker.mlflow_run_id, "loss/total")] == [0, 1, 2]

    def test_steps_that_the_queue_has_no_room_for_come_from_the_file(self, away, tmp_path, monkeypatch):
        monkeypatch.setattr(mlflow_sink, "MAX_WAITING_STEPS", 10)
        tracker = tracker_of(target_in(away, "long outage"), tmp_path)
        for step in range(40):
            tracker.log(report(step))
        assert len(tracker._mlflow._waiting) == 10
        self.bring_back(away)
        assert [text for text in tracker.close("FINISHED", DEADLINE_S) if MISSING in text] == []
        assert [step for step, _ in history(away, tracker.mlflow_run_id, "loss/total")] == list(range(40))

    def test_a_run_that_ended_without_an_answer_is_made_up_for_when_it_is_continued(self, away, tmp_path):
        first = tracker_of(target_in(away, "later"), tmp_path)
        for step in range(5):
            first.log(report(step, other=2.0))
        [problem] = first.close("FINISHED", DEADLINE_S)
        assert f"{MISSING} 10 metrics, 2 parameters, 1 tag, the status FINISHED of this run" in problem
        assert f"`wmtp tracking sync {tmp_path}/runs/later` sends what is missing" in problem
        self.bring_back(away)
        second = tracker_of(target_in(away, "later"), tmp_path)
        assert second.close("FINISHED", DEADLINE_S) == []
        assert len(history(away, second.mlflow_run_id, "other")) == 5
        assert client_of(away).get_run(second.mlflow_run_id).info.status == "FINISHED"

    def test_a_hole_in_the_middle_is_filled_when_the_run_is_continued(self, storage, tmp_path):
        """As a kill leaves it: some steps reached MLflow, later ones did not, then the run went on elsewhere."""
        first = tracker_of(target_in(storage, "hole"), tmp_path)
        first.log(report(0))
        first.close("KILLED", DEADLINE_S)
        file = JsonlSink(tmp_path / "runs" / "hole")
        for step in (1, 2):
            file.log(report(step))
        file.close()
        client_of(storage).log_metric(first.mlflow_run_id, "loss/total", 0.25, step=3)
        second = tracker_of(target_in(storage, "hole"), tmp_path)
        second.log(report(3))
        second.log(report(4))
        assert second.close("FINISHED", DEADLINE_S) == []
        assert sorted(step for step, _ in history(storage, first.mlflow_run_id, "loss/total")) == [0, 1, 2, 3, 4]


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

    def test_closed_port_costs_no_training_and_is_said(self, closed_port, monkeypatch, tmp_path):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = tracker_of(self.target(closed_port), tmp_path)
        for step in range(60):
            tracker.log(report(step, other=1.0))
        wait_until(tracker.problems)
        [problem] = tracker.close("FINISHED", DEADLINE_S)
        assert f"{MISSING} 120 metrics, the status FINISHED of this run" in problem
        assert f"MLflow at http://127.0.0.1:{closed_port} does not answer (" in problem
        assert "metrics.jsonl has every number" in problem
        assert "or set tracking.mlflow=false" in problem
        assert "secret" not in problem
        assert tracker.mlflow_run_id is None

    def test_close_gives_up_at_its_deadline(self, port, monkeypatch, tmp_path):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = tracker_of(self.target(port), tmp_path)
        tracker.log(report(0))
        [problem] = tracker.close("FINISHED", 0.1)
        assert f"{MISSING} 1 metric, the status FINISHED of this run" in problem


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
