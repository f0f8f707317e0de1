"""Weights & Biases' own package: offline read back from its file; online only against a server that does not answer."""

import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking import wandb_run
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.tracking.tracker import open_tracker

pytest.importorskip("wandb", reason="needs the extra wandb")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def config_in(storage: Path, *words: str) -> RunConfig:
    argv = ["recipe=baseline", "run_name=run", f"storage_root={storage}", "tracking.sinks=[wandb]", *words]
    return load_config(parse_arguments([*argv, "--tags", "team=a"]), now=datetime(2026, 1, 1))


def train(config: RunConfig, start: int, end: int, stage: int = 2, artifact: Path | None = None) -> list[str]:
    tracker = open_tracker(config, mlflow_run_id=None)
    tracker.truncate_from(stage, start)
    for step in range(start, end):
        tracker.log(StepReport(stage, step, {"loss/total": 1.0 / (step + 1)}))
    tracker.set_result({"pass@1": 0.25})
    if artifact is not None:
        tracker.add_artifact(artifact)
    return tracker.close("FINISHED", 120.0)


def records(path: Path) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, fragments of crc, length and kind (1 whole, 2, 3, 4 parts)."""
    data, start, parts = path.read_bytes(), 7, b""
    while start + 7 <= len(data):
        if 32768 - start % 32768 < 7:
            start += 32768 - start % 32768
        _, length, kind = struct.unpack_from("<IHB", data, start)
        parts += data[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def saved(run_dir: Path):
    """The records of the one offline run in the folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = RunFolder(run_dir).wandb.glob("offline-run-*/*.wandb")
    return [Record.FromString(each) for each in records(file)]


def history(run_dir: Path) -> list[dict[str, float]]:
    import json

    rows = [each.history for each in saved(run_dir) if each.WhichOneof("record_type") == "history"]
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def test_an_offline_run_has_name_settings_steps_by_stage_and_files(tmp_path):
    config = config_in(tmp_path, "tracking.wandb_mode=offline", "tracking.experiment=ours")
    (config.run_dir / "eval").mkdir(parents=True)
    (config.run_dir / "eval" / "results.json").write_text("{}")
    assert train(config, 0, 2, stage=1) == []
    assert train(config, 0, 3, artifact=config.run_dir / "eval") == []
    runs = [each.run for each in saved(config.run_dir) if each.WhichOneof("record_type") == "run"]
    assert (runs[0].display_name, runs[0].project) == ("run", "ours")
    settings = {item.key: item.value_json for item in runs[0].config.update}
    assert settings["weighting.type"] == '"uniform"'
    rows = history(config.run_dir)
    assert [(row["stage1/step"], row["stage1/loss/total"]) for row in rows[:2]] == [(0, 1.0), (1, 0.5)]
    assert [(row["step"], row["loss/total"]) for row in rows[2:]] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    (folder,) = RunFolder(config.run_dir).wandb.glob("offline-run-*")
    assert (folder / "files" / "run" / "eval" / "results.json").read_text() == "{}"
    assert b"pass_1" in b"".join(each.SerializeToString() for each in saved(config.run_dir))


def test_a_resumed_offline_run_keeps_its_id_and_has_every_step_once(tmp_path):
    config = config_in(tmp_path, "tracking.wandb_mode=offline")
    assert train(config, 0, 6) == []
    run_id = RunFolder(config.run_dir).wandb_run_id.read_text()
    assert train(config, 4, 9) == []
    assert RunFolder(config.run_dir).wandb_run_id.read_text() == run_id
    assert {each.run.run_id for each in saved(config.run_dir) if each.WhichOneof("record_type") == "run"} == {run_id}
    assert [row["step"] for row in history(config.run_dir)] == list(range(9))
    times = [row["_timestamp"] for row in history(config.run_dir)]
    assert times == sorted(times)


def test_the_environment_may_set_the_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = config_in(tmp_path)
    assert train(config, 0, 2) == []
    assert [row["step"] for row in history(config.run_dir)] == [0, 1]


def test_a_missing_key_is_a_warning_with_the_remedy(tmp_path, caplog):
    config = config_in(tmp_path)
    (problem,) = train(config, 0, 3)
    assert problem.startswith("Weights & Biases lacks some of this run: it failed (UsageError: ")
    assert "set WANDB_API_KEY in the environment of the run" in problem
    assert "tracking.wandb_mode=offline" in problem
    assert [each.getMessage() for each in caplog.records if "Biases lacks" in each.getMessage()] == [problem]
    assert [each.step for each in read_reports(config.run_dir)] == [0, 1, 2]


def test_a_server_that_is_not_there_is_a_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT_S", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = config_in(tmp_path, "tracking.wandb_mode=online")
    (problem,) = train(config, 0, 3)
    assert problem.startswith("Weights & Biases lacks some of this run: it failed (")
    assert "check the network and WANDB_BASE_URL, or set tracking.wandb_mode=offline" in problem
    assert [each.step for each in read_reports(config.run_dir)] == [0, 1, 2]
