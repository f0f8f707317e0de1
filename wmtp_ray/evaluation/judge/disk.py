"""The files beneath a directory that a hostile program fills: how much they take, and how to remove them.

A name is looked up from its open directory, one level at a time: neither a path longer than the kernel takes nor a
symbolic link leads anywhere else.
"""

import contextlib
import errno
import os
import stat
from itertools import islice

MAX_FILES = 2048
_BLOCK_BYTES = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # removed, or replaced by something else


class UnmeasurableError(Exception):
    """There are more than MAX_FILES files, or a directory cannot be read."""


def used_bytes(path: str) -> int:
    """Return what the files beneath a directory take on disk, while a program may change them.

    Every directory from the top to the one that is looked at is open, so the limit of open files must allow MAX_FILES.
    """
    total = 0
    trail: list[tuple[int, list[str]]] = []  # open directories, with the names that are left to look at
    try:
        count = _enter(trail, path, None)
        while trail:
            here, names = trail[-1]
            if not names:
                os.close(here)
                trail.pop()
                continue
            name = names.pop()
            try:
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                raise UnmeasurableError from None
            total += status.st_blocks * _BLOCK_BYTES
            if stat.S_ISDIR(status.st_mode):
                count += _enter(trail, name, here)
            if count > MAX_FILES:
                raise UnmeasurableError
    finally:
        for directory, _ in trail:
            os.close(directory)
    return total


def _enter(trail: list[tuple[int, list[str]]], name: str, parent: int | None) -> int:
    """Open a directory and list it, unless it is gone; return how many names are in it, or MAX_FILES + 1 for more."""
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in _GONE:
            return 0
        raise UnmeasurableError from None
    names: list[str] = []
    trail.append((directory, names))
    try:
        with os.scandir(directory) as entries:
            names.extend(entry.name for entry in islice(entries, MAX_FILES + 1))
    except OSError:
        raise UnmeasurableError from None
    return len(names)


def empty(path: str) -> None:
    """Remove everything beneath a directory that no process uses any more, however deep; make it anew if it is gone."""
    here = _open_or_make(path)
    trail: list[tuple[str, list[str]]] = []  # names of the levels above, and what is still to remove there
    directories = _unlink_files(here)
    while directories or trail:
        if directories:
            name = directories.pop()
            _make_accessible(name, here)
            trail.append((name, directories))
            here = _step(here, name)
            directories = _unlink_files(here)
        else:
            name, directories = trail.pop()
            here = _step(here, "..")
            os.rmdir(name, dir_fd=here)
    os.close(here)


def _open_or_make(path: str) -> int:
    """Open a directory that should be there and be accessible, and may be neither."""
    try:
        _make_accessible(path, None)
    except FileNotFoundError:
        os.mkdir(path, 0o700)  # noqa: PTH102 the zygote is forked every few milliseconds: it carries no pathlib
    return os.open(path, _DIRECTORY)


def remove(path: str) -> None:
    """Remove a directory with all it holds, as far as that is possible."""
    with contextlib.suppress(OSError):
        empty(path)
        os.rmdir(path)  # noqa: PTH106


def _make_accessible(name: str, parent: int | None) -> None:
    """Have the owner enter a directory, and nothing that a symbolic link points at."""
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & 0o7777 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent)


def _step(here: int, name: str) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _unlink_files(directory: int) -> list[str]:
    """Remove all but the directories of a directory; return those."""
    left = []
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            left.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return left
