"""TensorBoard's files, written by its package and read back by it."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.cli import main
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import StepReport
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.result import RunResult, read_result, write_result
from wmtp_ray.tracking.tracker import open_tracker

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    words = ["recipe=baseline", "run_name=run", f"storage_root={tmp_path}", "tracking.sinks=[tensorboard]"]
    config = load_config(parse_arguments([*words, "--tags", "team=a"]), now=datetime(2026, 1, 1))
    config.run_dir.mkdir(parents=True)
    RunFolder(config.run_dir).config.write_text(dump_config(config))
    return config


def train(config: RunConfig, start: int, end: int, stage: int = 2) -> list[str]:
    tracker = open_tracker(config, mlflow_run_id=None)
    tracker.truncate_from(stage, start)
    for step in range(start, end):
        tracker.log(StepReport(stage, step, {"loss/total": 1.0 / (step + 1), "weight/std": float("nan")}))
    return tracker.close("FINISHED", 60.0)


def shown(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(RunFolder(run_dir).tensorboard), size_guidance={"tensors": 0, "scalars": 0})
    return accumulator.Reload()


def steps(run_dir: Path, tag: str) -> list[int]:
    return [each.step for each in shown(run_dir).Scalars(tag)]


def test_a_run_is_shown_with_its_steps_by_stage_settings_tags_and_numbers(config):
    assert train(config, 0, 2, stage=1) == []
    assert train(config, 0, 3) == []
    tracker = open_tracker(config, mlflow_run_id=None)
    tracker.set_result({"pass@1": 0.25})
    tracker.set_tags({"ran.device": "cpu"})
    assert tracker.close("FINISHED", 60.0) == []
    found = shown(config.run_dir)
    assert [(each.step, each.value) for each in found.Scalars("loss/total")] == [
        (step, pytest.approx(1.0 / (step + 1))) for step in range(3)
    ]
    assert steps(config.run_dir, "stage1/loss/total") == [0, 1]
    assert [each.value for each in found.Scalars("result/pass_1")] == [0.25]
    assert found.Tensors("tags/ran.device")[-1].tensor_proto.string_val == [b"cpu"]
    assert found.Tensors("tags/team")[-1].tensor_proto.string_val == [b"a"]

    from tensorboard.plugins.hparams.metadata import (
        SESSION_END_INFO_TAG,
        SESSION_START_INFO_TAG,
        parse_session_start_info_plugin_data,
    )

    content = found.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    settings = parse_session_start_info_plugin_data(content).hparams
    assert settings["train.learning_rate"].number_value == config.train.learning_rate
    assert settings["weighting.type"].string_value == "uniform"
    assert settings["tracking.progress"].bool_value is config.tracking.progress
    assert SESSION_END_INFO_TAG in found.Tags()["tensors"]


def test_a_resumed_run_continues_without_a_point_twice(config):
    assert train(config, 0, 6) == []
    assert train(config, 4, 9) == []
    assert steps(config.run_dir, "loss/total") == list(range(9))
    assert len(list(RunFolder(config.run_dir).tensorboard.iterdir())) == 2


@pytest.mark.parametrize("cut_bytes", [1, 5, 40])
def test_what_a_kill_has_left_of_the_last_step_is_written_again(config, cut_bytes):
    from wmtp_ray.tracking.tensorboard_run import read_events

    train(config, 0, 4)
    (file,) = RunFolder(config.run_dir).tensorboard.iterdir()
    ends = [
        event for event in read_events(file) if not event.summary.value or event.summary.value[0].tag != "loss/total"
    ]
    end_of_session = len(ends[-1].SerializeToString()) + 16
    file.write_bytes(file.read_bytes()[: -end_of_session - cut_bytes])
    assert train(config, 4, 6) == []
    assert steps(config.run_dir, "loss/total") == list(range(6))


def test_numbers_and_tags_are_written_when_they_change(config):
    for value in (0.25, 0.25, 0.5):
        tracker = open_tracker(config, mlflow_run_id=None)
        tracker.set_result({"pass@1": value, "lost": float("nan")})
        assert tracker.close("FINISHED", 60.0) == []
    assert [each.value for each in shown(config.run_dir).Scalars("result/pass_1")] == [0.25, 0.5]
    assert len(shown(config.run_dir).Scalars("result/lost")) == 1
    assert len(shown(config.run_dir).Tensors("tags/recipe")) == 1


def test_sync_brings_a_run_up_to_date_and_takes_the_warning_away(config, capsys):
    """The folder cannot be made, since a file is in its place: warned once, and sent when it is gone."""
    place = RunFolder(config.run_dir).tensorboard
    place.write_text("in the way")
    (problem,) = train(config, 0, 5)
    assert problem.startswith("TensorBoard lacks some of this run: it failed (FileExistsError: ")
    write_result(config.run_dir, RunResult("FINISHED", 5, {"eval/x/pass@1": 0.5}, None, {}, ("another", problem)))
    assert main(["tracking", "sync", str(config.run_dir)]) == 1
    assert "TensorBoard lacks" in capsys.readouterr().out
    place.unlink()
    assert main(["tracking", "sync", str(config.run_dir)]) == 0
    assert "TensorBoard has every number of this run" in capsys.readouterr().out
    assert steps(config.run_dir, "loss/total") == list(range(5))
    assert [each.value for each in shown(config.run_dir).Scalars("result/eval/x/pass_1")] == [0.5]
    assert read_result(config.run_dir).warnings == ("another",)
    assert not (config.storage_root / "mlflow.db").exists()


def test_the_sink_imports_neither_torch_nor_tensorflow(config):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from wmtp_ray.tracking.sink import TrackedRun; "
        "from wmtp_ray.tracking.tensorboard_run import TensorboardRun; p = Path(sys.argv[1]); "
        "r = TensorboardRun(TrackedRun(p, p, 'p', 'n', {'a': 1}, {'t': 'x'})); r.set_result({'x': 1.0}); "
        "r.end('FINISHED'); print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(config.run_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
