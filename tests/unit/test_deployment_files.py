"""The files of a deployment: what is uploaded, what the runs on VESSL ask for, and that none holds a secret."""

import re
import shlex
import shutil
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from wmtp_ray.config.load import load_config, parse_arguments

ROOT = Path(__file__).resolve().parents[2]
UPLOAD_LIMIT_BYTES = 100 << 20
SMALL_BYTES = 5 << 20
VESSL_FILES = sorted((ROOT / "deploy").glob("vessl-*.yaml"))
# Fields of a run and of its parts in the client of vessl 0.1.199 (V1RunSpecFormBodyInput).
VESSL_RUN = {"name", "description", "tags", "resources", "image", "import", "mount", "export", "env", "run", "ports"}
VESSL_RUN |= {"interactive", "service_account_name", "termination_protection"}
VESSL_RESOURCES = {"cluster", "cluster_id", "preset", "preset_id", "spot", "requests", "node_id", "node_names"}
VESSL_COMMAND = {"command", "workdir", "wait"}


def uploaded(directory: Path, target: Path) -> list[str]:
    """Return the names that Ray zips for `--working-dir`, of which `target` is the zip."""
    from ray._private.runtime_env.packaging import create_package  # what `ray job submit` calls

    create_package(str(directory), target, include_gitignore=False)
    return zipfile.ZipFile(target).namelist()


def test_what_a_job_uploads_is_code_alone_and_small(tmp_path: Path) -> None:
    names = uploaded(ROOT, tmp_path / "package.zip")
    assert {"wmtp_ray/launch.py", "actors/policy_worker.py", "configs/defaults.yaml", "pyproject.toml"} <= set(names)
    assert (tmp_path / "package.zip").stat().st_size < SMALL_BYTES < UPLOAD_LIMIT_BYTES


def test_data_secrets_and_environments_stay_at_home(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (
        ".git/x",
        ".venv/lib/x",
        ".env",
        "storage/runs/x",
        "mlflow.db",
        "mlruns/x",
        "a/__pycache__/x",
        "kept.py",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    shutil.copy(ROOT / ".rayignore", tree)
    files = {name for name in uploaded(tree, tmp_path / "package.zip") if not name.endswith("/")}
    assert files == {".rayignore", "kept.py"}


def test_the_examples_hold_placeholders_only() -> None:
    for path in (ROOT / ".env.example", *VESSL_FILES):
        text = path.read_text(encoding="utf-8")
        secrets = re.findall(r"^\s*(\w*(?:TOKEN|PASSWORD|USERNAME|KEY|SECRET)\w*)\s*[:=]\s*(.*)$", text, re.MULTILINE)
        assert secrets, path.name
        assert [name for name, value in secrets if not re.fullmatch(r"<.*>", value)] == [], path.name


@pytest.mark.parametrize("path", VESSL_FILES, ids=lambda path: path.name)
def test_a_vessl_file_is_a_run_of_its_schema_and_of_ours(path: Path) -> None:
    run: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(run) <= VESSL_RUN
    assert set(run["resources"]) <= VESSL_RESOURCES
    [step] = run["run"]
    assert set(step) <= VESSL_COMMAND
    words = shlex.split(step["command"].replace("\\\n", " ").split("wmtp_ray.launch ")[1])
    assert words.pop() == "$resume"
    config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
    [cards] = map(int, re.findall(r"(\d) A100", run["resources"]["preset"]))
    cluster = config.cluster
    asked = config.train.num_workers * cluster.gpus_per_worker + config.critic.pool_size * cluster.gpus_per_critic
    assert asked == cards
    assert str(config.storage_root) + "/" in run["mount"], "runs are written where they outlive the machine"


def test_both_sizes_of_vessl_runs_are_there() -> None:
    assert [path.name for path in VESSL_FILES] == ["vessl-a100-1.yaml", "vessl-a100-4.yaml"]


def test_every_node_of_the_compose_file_shares_storage_token_and_time_to_stop() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"head", "worker"}
    for service in services.values():
        assert [volume.rpartition(":")[2] for volume in service["volumes"]] == ["/storage"]
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert int(service["environment"]["RAY_JOB_STOP_WAIT_TIME_S"]) == 600
