"""`wmtp doctor`: what it finds, what it advises, and that it starts and writes nothing."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.flows.world import make_world, wait_until
from wmtp_ray.data.index import build_index, count_tokens, index_path_of, write_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.flows.doctor import DoctorReport, doctor
from wmtp_ray.preflight.machine_findings import Finding, look_at_versions
from wmtp_ray.preflight.ray_findings import look_at_other_rays

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_world(tmp_path_factory.mktemp("doctor"))
    jsonl = root / "datasets_local_small" / "list_tasks" / "train.jsonl"
    tokenizer = CodeTokenizer(root / "models_v2" / "nano_mtp" / "tokenizer.model")
    built = build_index(jsonl, on_error="fail")
    write_index(replace(built, index=count_tokens(built.index, tokenizer)), index_path_of(jsonl))
    return root


def report_on(site: Path, *words: str) -> DoctorReport:
    return doctor(["preset=quickstart", f"storage_root={site}", *words])


def finding(report: DoctorReport, subject: str) -> Finding:
    [found] = [each for each in report.findings if each.subject == subject]
    return found


def test_a_site_that_has_everything_is_ok_and_shows_the_estimate(site: Path) -> None:
    report = report_on(site)
    assert report.ok, report.render()
    assert finding(report, "index").found.endswith("fresh")
    for part in ("A run can start.", "Memory of stage 2", "machine", "torch", "storage"):
        assert part in report.render()
    assert "evaluating the policy meanwhile" not in report.render()
    assert "evaluating the policy meanwhile" in report_on(site, "evaluation.every_steps=50").render()


def test_a_model_that_cannot_be_read_is_one_problem_whoever_meets_it(site: Path, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"dim": 64}')
    (tmp_path / "model.safetensors").touch()
    frozen = ("critic.source=frozen", f"critic.path={tmp_path}", "train.value_coef=0.0", "stages=[2]")
    for words in (frozen, (f"model.path={tmp_path}",)):
        problems = [each.found for each in report_on(site, *words).findings if each.level == "problem"]
        assert ["params.json describes no model" in text for text in problems] == [True]


def test_nothing_heavy_is_imported_and_nothing_is_written(site: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    program = (
        "import json, sys; from wmtp_ray.flows.doctor import doctor; "
        f"doctor(['preset=quickstart', 'storage_root={site}']); "
        "json.dump(sorted({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules)), sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout) == [], done.stderr
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


def test_a_typo_is_a_problem_and_the_machine_is_still_looked_at(site: Path) -> None:
    report = report_on(site, "weighting.bta=1")
    assert not report.ok
    assert "did you mean weighting.beta?" in finding(report, "configuration").found
    assert finding(report, "machine").level == "ok"


def test_what_is_missing_is_named_with_its_remedy(site: Path) -> None:
    report = report_on(site, f"model.path={site}/absent")
    assert not report.ok
    assert "point model.path at" in finding(report, "files").found
    assert "1 problem would stop a run." in report.render()


def test_an_index_is_missing_stale_or_of_another_tokenizer(site: Path, tmp_path: Path) -> None:
    jsonl = tmp_path / "train.jsonl"
    jsonl.write_bytes((site / "datasets_local_small" / "list_tasks" / "train.jsonl").read_bytes())
    words = (f"data.train_file={jsonl}",)
    missing = finding(report_on(site, *words), "index")
    assert (missing.level, missing.found) == ("warning", "not built yet")
    assert f"wmtp data index {jsonl}" in missing.remedy
    write_index(build_index(jsonl, on_error="fail"), index_path_of(jsonl))
    uncounted = finding(report_on(site, *words), "index")
    assert uncounted.level == "warning"
    assert "counts them anew" in uncounted.remedy
    jsonl.write_bytes(jsonl.read_bytes()[:-1] + b" \n")
    stale = finding(report_on(site, *words), "index")
    assert stale.level == "problem"
    assert "stale" in stale.found


def test_a_model_that_cannot_fit_is_a_problem_with_a_way_out(site: Path, tmp_path: Path) -> None:
    params = {"dim": 8192, "n_layers": 80, "n_heads": 64, "vocab_size": 32000, "n_future_tokens": 4}
    (tmp_path / "params.json").write_text(json.dumps(params))
    report = report_on(site, f"model.path={tmp_path}", "train.device=cuda", "cluster.gpu_type=A100-80GB")
    memory = finding(report, "memory")
    assert memory.level == "problem"
    assert "train.num_workers=" in memory.found


def test_a_cluster_that_does_not_answer_is_a_problem(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        report = report_on(site)
        assert "Nothing answers at RAY_ADDRESS=" in finding(report, "Ray").found
        assert finding(report, "Ray token").level == "warning"
        free.listen()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "any")
        assert finding(report_on(site), "Ray").level == "ok"


def test_a_version_other_than_the_tested_one_is_a_warning(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# pins\nnumpy==1.0\n")
    [numpy] = [each for each in look_at_versions(constraints) if each.subject == "numpy"]
    assert numpy.level == "warning"
    assert "tested with 1.0" in numpy.found


def test_storage_that_cannot_be_written_is_a_problem(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    report = doctor(["preset=quickstart", f"storage_root={file}"])
    assert finding(report, "storage").level == "problem"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address that a `ray start` has left in Ray's temporary folder, and the file; somebody listens there."""
    with (
        tempfile.TemporaryDirectory(prefix="r_", dir="/tmp") as directory,
        socket.create_server(("127.0.0.1", 0)) as at,
    ):
        address = f"127.0.0.1:{at.getsockname()[1]}"
        file = Path(directory) / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        file.write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", directory)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        yield address, file


def test_an_address_that_a_dead_head_has_left_is_named_and_left_alone(head: tuple[str, Path]) -> None:
    _, file = head
    assert [each.level for each in look_at_other_rays()] == ["ok"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{free.getsockname()[1]}"
        file.write_text(dead)
        [found] = look_at_other_rays()
    assert found.level == "warning"
    assert f"{file} names {dead}, where no Ray answers" in found.found
    assert f"rm {file}" in found.remedy
    assert file.read_text() == dead


def test_a_head_whose_agent_found_its_port_taken_is_named_with_who_holds_it(head: tuple[str, Path]) -> None:
    """As `ray start --head` beside a Ray that has the port 52365: it answers, and has no agent for jobs."""
    address, file = head
    raylet = file.parent / "raylet"  # by its name and words what Ray starts
    raylet.symlink_to(Path(sys.executable).resolve())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent = f"python -u ray/dashboard/agent.py --listen-port={port} --gcs-address={address}"
        words = [f"--gcs-address={address}", f"--dashboard_agent_command={agent}"]
        with subprocess.Popen([raylet, "-S", "-c", "import time; time.sleep(60)", *words]) as process:
            try:
                wait_until(lambda: len(look_at_other_rays()) == 2, "the raylet to be seen")
                found = look_at_other_rays()[1]
            finally:
                process.kill()
    assert found.level == "warning"
    assert (
        f"the head at {address} can never take a job: its port {port} is held by process {os.getpid()}" in found.found
    )
    assert "ray start --head --dashboard-agent-listen-port=0" in found.remedy
