"""Hashes of files and tensors, and writes that are either whole or absent. It knows no file format.

Anything under a temporary name begins with a dot, so that nothing that lists `step_*` or `*.safetensors` meets it.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp_ray.interrupts import undone_at_end

if TYPE_CHECKING:
    from torch import Tensor


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the hex SHA-256 over name, dtype, shape and raw bytes of each tensor, in sorted order of the names.

    The same values hash alike on every device and under every insertion order; another dtype is another hash.
    """
    import torch  # here, so that hashing a file needs no torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success sync it and rename it, on an exception drop it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    with undone_at_end(lambda: temporary.unlink(missing_ok=True)):
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing; an older one is replaced in one step."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


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
