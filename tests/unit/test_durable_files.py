"""What is written is whole or absent, and on the disk before it has its name."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from wmtp_ray.durable_files import append_durably, atomic_directory, atomic_file, atomic_write, publish


def _fail_inside(temporary: AbstractContextManager[Path], write: Callable[[Path], object]) -> None:
    with temporary as path:
        write(path)
        raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "config"
    atomic_write(target, b"old")
    with pytest.raises(ZeroDivisionError):
        _fail_inside(atomic_file(target), lambda path: path.write_bytes(b"torn"))
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [("config", b"old")]
    atomic_write(target, b"new")
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [("config", b"new")]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "step_5"
    with pytest.raises(ZeroDivisionError):
        _fail_inside(atomic_directory(target), lambda path: (path / "weights").write_bytes(b"torn"))
    assert not list(tmp_path.iterdir())
    with atomic_directory(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "weights").write_bytes(b"whole")
        assert not list(tmp_path.glob("step_*"))
    assert (target / "deep" / "weights").read_bytes() == b"whole"


def test_a_replaced_directory_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "latest") as temporary:
            (temporary / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["latest", "latest/second"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes | None]]:
    """What the system was asked to bring to the disk, in order: names, and the bytes of files at that moment."""
    found: list[tuple[str, bytes | None]] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        found.append((path.name, path.read_bytes() if path.is_file() else None))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return found


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of descriptors come from /proc")


@linux
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_write_returns(
    tmp_path: Path, synced: list[tuple[str, bytes | None]]
) -> None:
    atomic_write(tmp_path / "config", b"new")
    (temporary, content), directory = synced
    assert (temporary.startswith(".config."), content, directory) == (True, b"new", (tmp_path.name, None))
    (tmp_path / ".model.partial").write_bytes(b"copied")
    publish(tmp_path / ".model.partial", tmp_path / "model")
    assert synced[2:] == [(".model.partial", b"copied"), (tmp_path.name, None)]


@linux
def test_a_directory_is_on_the_disk_with_all_that_is_in_it(
    tmp_path: Path, synced: list[tuple[str, bytes | None]]
) -> None:
    with atomic_directory(tmp_path / "step_5") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "weights").write_bytes(b"whole")
    names = [name for name, _ in synced]
    assert {"deep", "weights"} < set(names)
    assert names[-2].startswith(".step_5.")
    assert names[-1] == tmp_path.name


@linux
def test_appended_bytes_are_on_the_disk_when_the_call_returns(
    tmp_path: Path, synced: list[tuple[str, bytes | None]]
) -> None:
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b"1\n")
        append_durably(file, b"2\n")
        assert synced == [("ledger", b"1\n2\n")]


def test_it_needs_neither_torch_nor_numpy() -> None:
    program = "import sys, wmtp_ray.durable_files; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
