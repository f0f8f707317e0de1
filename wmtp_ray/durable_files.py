"""Every write that must survive a crash: a file or a directory is whole or absent, appended bytes are on the disk.

No other module renames into place or calls fsync. Anything under a temporary name begins with a dot, so that nothing
that lists `step_*` or `*.safetensors` meets it. It knows no file format.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wmtp_ray.interrupts import undone_at_end


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success sync it and rename it, on an exception drop it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    with undone_at_end(lambda: temporary.unlink(missing_ok=True)):
        try:
            yield temporary
            publish(temporary, path)
        finally:
            with suppress(OSError):  # the error that matters is the one that ends the block
                temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing; an older one is replaced in one step."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def publish(temporary: Path, path: Path) -> None:
    """Give a written file its name, in place of an older one, once all of it is on the disk."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def append_durably(file: BinaryIO, content: bytes) -> None:
    """Append to an open file and return when all that it holds is on the disk."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success sync all of it and rename it, on an exception drop it.

    An older directory is moved aside first and removed last: a crash in between leaves no `path` (and the old one under
    its temporary name) rather than a mixed one.
    """
    temporary, aside = _temporary_name(path), _temporary_name(path)
    with undone_at_end(lambda: shutil.rmtree(temporary, ignore_errors=True)):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                _sync(entry)
            if path.exists():
                path.rename(aside)
            temporary.rename(path)
            _sync(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sync(path: Path) -> None:
    """Flush a file's or a directory's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
