"""A run is never kept where Ray deletes it."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.errors import ConfigError

NOW = datetime(2026, 1, 1)
COPY = "session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


def test_a_relative_storage_in_the_copy_of_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / COPY
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError) as refused:
        load_config(Arguments(recipe="verifiable"), now=NOW)
    assert f"storage_root: found {copy / 'storage'}" in str(refused.value)
    assert "give an absolute path that every node sees: storage_root=/DIR" in str(refused.value)


def test_an_absolute_storage_is_kept_wherever_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / COPY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / COPY)
    arguments = Arguments(recipe="verifiable", overrides=(f"storage_root={tmp_path / 'shared'}",))
    assert load_config(arguments, now=NOW).storage_root == tmp_path / "shared"
