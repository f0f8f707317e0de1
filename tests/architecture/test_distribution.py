"""What is built for others: a wheel that works from any directory, and a source archive that builds the same wheel."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.name for path in (ROOT / "configs").glob("*.yaml")}


def built(source: Path, target: str, out: Path) -> Path:
    """Build a wheel or an sdist with the backend that pyproject.toml names."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_packages_and_every_configuration(wheel):
    names = names_in(wheel)
    assert {name.partition("/")[0] for name in names} == {"wmtp_ray", "actors", "vendor"}
    assert {name.removeprefix("wmtp_ray/configs/") for name in names if name.startswith("wmtp_ray/configs/")} == CONFIGS
    assert "wmtp_ray/report/templates/report.html.j2" in names


def test_source_archive_builds_the_same_wheel(wheel, tmp_path):
    archive = built(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    assert names_in(built(unpacked, "wheel", tmp_path / "again")) == names_in(wheel)


def test_installed_package_reads_the_configurations_it_carries(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    command = [sys.executable, "-m", "wmtp_ray.launch", "recipe=verifiable", "preset=nowhere", "--dry-run"]
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"the preset.NAME.yaml files of {installed / 'wmtp_ray' / 'configs'}" in done.stderr
    assert "quickstart" in done.stderr
