"""A run's folder is read as far as it goes."""

from pathlib import Path

import numpy as np
import pytest

from wmtp_ray.errors import ArtifactError
from wmtp_ray.report.saved_run import is_run, read_run

from .saved_runs import CRITIC_METRICS, write_config, write_run


def test_everything_that_a_run_saved_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "a", passed=[1, 0, 1]))
    assert (run.name, run.weighting, run.seed) == ("a", "td", 1)
    assert run.config["train.sampling.seed"] == 1
    assert run.curves[2].steps.tolist() == list(range(30))
    assert run.curves[2].metrics["weight/ess_frac"].tolist() == [0.8] * 30
    assert run.health[2].metrics == CRITIC_METRICS
    assert run.evaluations["tiny"].pass_at_k["1"].value == pytest.approx(2 / 3)
    assert run.evidence is not None
    assert run.result is not None


def test_a_run_that_has_only_begun_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert not is_run(tmp_path / "new")
    write_config(tmp_path / "new", "td", 3, {})
    assert is_run(tmp_path / "new")
    run = read_run(tmp_path / "new", "called")
    assert (run.name, run.curves, run.health, run.evaluations) == ("called", {}, {}, {})
    assert (run.result, run.evidence) == (None, None)


def test_a_step_that_lacks_a_metric_leaves_a_gap(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", num_steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage":2,"step":2,"time":0,"loss/new":1.5}\n{"stage":2,"step":3,"time"')
    columns = read_run(run).curves[2].metrics
    assert columns["loss/new"][2] == 1.5
    assert np.isnan(columns["loss/new"][:2]).all()
    assert np.isnan(columns["loss/value"][2])


def test_the_weights_of_a_finish_are_not_the_arm_s(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", num_steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage":2,"step":2,"time":0,"loss/policy":1.5,"weight/ess_frac":1.0,"weight/finish":1.0}\n')
    columns = read_run(run).curves[2].metrics
    assert columns["loss/policy"][2] == 1.5
    assert columns["weight/ess_frac"][:2].tolist() == [0.8, 0.8]
    assert np.isnan(columns["weight/ess_frac"][2])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "- a\n"),
        ("config.yaml", "a: ["),
        ("stage_result.json", "{}"),
        ("token_evidence.json", "[]"),
        ("audit.json", "{}"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str) -> None:
    run = write_run(tmp_path, "a")
    (run / file).write_text(content)
    with pytest.raises(ArtifactError, match=file):
        read_run(run)
