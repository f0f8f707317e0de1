"""Copies of a storage elsewhere: what differs is sent, what arrived is checked by SHA-256, nothing is deleted.

`sync` decides and counts; a `Destination` knows what it holds and takes a file: `MountedFolder` here, a volume of VESSL
in `vessl_volume.py`. SHA256SUMS at the destination lists every file that was sent, in the form of `sha256sum -c`. Names
that begin with a dot (temporary files, caches) are not sent.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.durable_files import atomic_write, publish
from wmtp_ray.errors import ArtifactError

SUMS = "SHA256SUMS"
CHUNK_BYTES = 8 << 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class SourceFile:
    """A file to be sent; `name` is its path below the storage, with slashes."""

    name: str
    path: Path
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class SyncCounts:
    """How many files were sent, skipped and so on."""

    sent: int
    sent_bytes: int
    there_already: int


class Destination(Protocol):
    """The destination of a sync. Every method raises ArtifactError for an error that the user can fix."""

    def holds(self, file: SourceFile) -> bool:
        """Whether a file of this name and content is there."""
        ...

    def announce(self, file: SourceFile) -> str:
        """Describe what `put` will do."""
        ...

    def put(self, file: SourceFile) -> None:
        """Send a file; replace an older file of its name atomically."""
        ...

    def finish(self, files: Sequence[SourceFile]) -> None:
        """Write SHA256SUMS, and run the checks that need the whole destination."""
        ...


def list_files(storage: Path, folders: Sequence[str]) -> list[SourceFile]:
    """Hash the files of some folders of a storage; ArtifactError when a folder is missing."""
    found = []
    for folder in folders:
        if not (storage / folder).is_dir():
            raise ArtifactError(f"{storage / folder} is no folder; name some of {storage} with --folders")
        found += [path for path in sorted((storage / folder).rglob("*")) if path.is_file()]
    relative = [(path.relative_to(storage), path) for path in found]
    return [
        SourceFile(name.as_posix(), path, path.stat().st_size, file_sha256(path))
        for name, path in relative
        if not any(part.startswith(".") for part in name.parts)
    ]


def sync(files: Sequence[SourceFile], destination: Destination, say: Say, *, dry_run: bool) -> SyncCounts:
    """Send every file that the destination does not hold. After a kill, the same call sends the rest."""
    missing = [file for file in files if not destination.holds(file)]
    for number, file in enumerate(missing, start=1):
        say(f"{number}/{len(missing)} {destination.announce(file)} ({file.num_bytes / 1e6:,.1f} MB)")
        if not dry_run:
            destination.put(file)
    if not dry_run:
        destination.finish(files)
    return SyncCounts(len(missing), sum(file.num_bytes for file in missing), len(files) - len(missing))


class MountedFolder:
    """A folder that may be slow. Unless `reread`, a file that SHA256SUMS lists is known by its name and size."""

    def __init__(self, root: Path, *, reread: bool) -> None:
        self._root = root
        self._sums = {} if reread else read_sums(root / SUMS)

    def holds(self, file: SourceFile) -> bool:
        path = self._root / file.name
        if not path.is_file() or path.stat().st_size != file.num_bytes:
            return False
        return self._sums.get(file.name) == file.sha256 or file_sha256(path) == file.sha256

    def announce(self, file: SourceFile) -> str:
        return f"copy to {self._root / file.name}"

    def put(self, file: SourceFile) -> None:
        try:
            _copy(file, self._root / file.name)
        except OSError as error:
            raise ArtifactError(
                f"{self._root / file.name} could not be written ({error.strerror}); fix that and give the same "
                "command again: it goes on where it stopped"
            ) from error

    def finish(self, files: Sequence[SourceFile]) -> None:
        path = self._root / SUMS
        atomic_write(path, sums_text(read_sums(path) | {file.name: file.sha256 for file in files}))


def read_sums(path: Path) -> dict[str, str]:
    """Read SHA-256 by name from a file in the form of `sha256sum`; none where there is no file."""
    if not path.exists():
        return {}
    lines = [line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: sha256 for sha256, _, name in lines}


def sums_text(sums: dict[str, str]) -> bytes:
    """Inverse of `read_sums`."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()


def _copy(file: SourceFile, destination: Path) -> None:
    """Copy under a temporary name, going on where an earlier copy stopped; rename when the content is right."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    partial.touch()
    with file.path.open("rb") as reader, partial.open("r+b") as writer:
        digest = hashlib.sha256()
        _skip_common(reader, writer, digest.update)
        writer.truncate()
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        partial.unlink()
        raise ArtifactError(f"{file.path} changed while it was copied; wait until it is written, then start again")
    if file_sha256(partial) != file.sha256:
        partial.unlink()
        raise ArtifactError(f"{destination} did not arrive as it was sent; check the mounted disk, then start again")
    publish(partial, destination)


def _skip_common(reader: BinaryIO, writer: BinaryIO, seen: Callable[[bytes], None]) -> None:
    """Advance both files to where they begin to differ, at most a chunk before it."""
    while theirs := writer.read(CHUNK_BYTES):
        ours = reader.read(len(theirs))
        if ours != theirs:
            reader.seek(-len(ours), 1)
            writer.seek(-len(theirs), 1)
            return
        seen(ours)
