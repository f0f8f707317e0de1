"""Find by trying whether a place can be written: permissions alone do not show read-only mounts, or root's rights."""

import errno
import os
import tempfile
from pathlib import Path

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


def why_not_writable(path: Path) -> str | None:
    """Return why nothing can be made in the directory `path`, which need not exist yet; None where it can."""
    try:
        existing = next(each for each in (path, *path.parents) if each.exists())
        if not existing.is_dir():
            return f"{existing} is no directory"
        _make_something(existing)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _make_something(directory: Path) -> None:
    """Make a file without a name, or, where the file system has none, a directory that is removed again."""
    if hasattr(os, "O_TMPFILE"):
        try:
            os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR))
            return
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
    Path(tempfile.mkdtemp(dir=directory)).rmdir()
