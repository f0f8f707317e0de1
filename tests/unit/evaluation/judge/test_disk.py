"""Counting and removing what a program left, whatever its names and however deep."""

import os
import stat
from pathlib import Path

import pytest

from wmtp_ray.evaluation.judge import disk
from wmtp_ray.evaluation.judge.disk import MAX_FILES, UnmeasurableError, empty, remove, used_bytes

DEPTH = 900  # a test may have no more than 1024 files open


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def dig(path: Path, name: str, depth: int) -> None:
    """Make directories in each other, and a file of 64 kB in the last."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    file = os.open("f" * 250, os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, bytes(1 << 16))
    os.fsync(file)
    os.close(file)
    os.close(here)


@pytest.mark.parametrize(("name", "depth"), [("d", DEPTH), ("d" * 250, 40)])
def test_a_tree_deeper_or_longer_than_a_path_can_say_is_counted_and_removed(scratch, name, depth):
    dig(scratch, name, depth)
    assert 1 << 16 <= used_bytes(str(scratch)) < 8 << 20
    empty(str(scratch))
    assert list(scratch.iterdir()) == []


def test_more_files_than_are_counted_are_said_to_be(scratch):
    for number in range(MAX_FILES + 1):
        (scratch / str(number)).touch()
    with pytest.raises(UnmeasurableError):
        used_bytes(str(scratch))


def test_a_symbolic_link_is_neither_followed_nor_does_it_loop(scratch, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "large").write_bytes(bytes(1 << 20))
    (scratch / "out").symlink_to(tmp_path / "other")
    (scratch / "loop").symlink_to(".")
    assert used_bytes(str(scratch)) < 1 << 20
    empty(str(scratch))
    assert (tmp_path / "other" / "large").exists()


def test_a_directory_that_vanishes_while_it_is_counted_is_left_out(scratch, monkeypatch):
    (scratch / "a" / "b").mkdir(parents=True)
    (scratch / "file").write_bytes(b"x")
    look = os.stat

    def look_and_remove(name, **keywords):
        found = look(name, **keywords)
        if name == "a":
            (scratch / "a" / "b").rmdir()
            (scratch / "a").rmdir()
        return found

    monkeypatch.setattr(disk.os, "stat", look_and_remove)
    assert used_bytes(str(scratch)) < 1 << 20


@pytest.mark.parametrize("mode", [0, 0o300, 0o400])
def test_what_nobody_may_enter_is_removed(scratch, mode):
    (scratch / "locked" / "inner").mkdir(parents=True)
    (scratch / "locked").chmod(mode)
    scratch.chmod(mode)
    empty(str(scratch))
    assert list(scratch.iterdir()) == []
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700


def test_a_directory_that_is_gone_is_made_anew_and_one_that_is_another_s_is_left_alone(scratch, tmp_path):
    scratch.rmdir()
    empty(str(scratch))
    assert scratch.is_dir()
    scratch.rmdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    scratch.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="scratch"):
        empty(str(scratch))
    remove(str(scratch))
    assert (tmp_path / "other" / "file").exists()


def test_a_tree_deeper_than_python_recurses_is_removed_with_its_top(scratch):
    dig(scratch, "d", 1200)
    remove(str(scratch))
    assert not scratch.exists()
