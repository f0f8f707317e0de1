"""The channel from policy to critic: one file a version, whole or absent, in a directory of this attempt.

A file survives a restart of either side: a restarted critic loads the version it is asked for, a checkpoint copies the
versions that later steps need, and no message has to announce a version. Each (re)start of the ranks
writes to a directory of its own, so that a version of an attempt that died is never mistaken for one of this run's.
Point `snapshot_dir` of the caller at a RAM disk where weights are large.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wmtp_ray.artifacts.streamed_tensors import TensorForm, write_streamed
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import ArtifactError

_POLL_S = 0.02


@dataclass(frozen=True)
class SnapshotDirectory:
    """The versions of one attempt."""

    path: Path

    def file_of(self, version: int) -> Path:
        """Return the path of a version, published or not."""
        return self.path / f"version_{version:08d}.safetensors"

    def put(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a version; readers see all of it or nothing. Raises ArtifactError when the write fails."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with self._written(version), atomic_file(self.file_of(version)) as temporary:
            save_file(contiguous, temporary)

    def put_streamed(self, version: int, forms: Mapping[str, TensorForm], read: Callable[[str], Tensor]) -> None:
        """Write a version as `put` does, but with one tensor in memory at a time: `read` returns it by name."""
        with self._written(version):
            write_streamed(self.file_of(version), forms, read)

    @contextmanager
    def _written(self, version: int) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"Version {version} of the critic could not be written to {self.path}: {error}. Free disk space, then "
                "start the same command again with --resume."
            ) from error

    def get(self, version: int, deadline_s: float) -> dict[str, Tensor]:
        """Return a version's tensors, waiting until it is published.

        Raises ArtifactError after `deadline_s`, or at once when the attempt is over (its directory is gone) or the
        file is damaged.
        """
        give_up = time.monotonic() + deadline_s
        while True:
            try:
                return load_file(self.file_of(version))
            except FileNotFoundError:  # not there yet, or gone since: asking before opening would leave a gap
                self._require_pending(version, deadline_s, give_up)
            except SafetensorError as error:
                raise ArtifactError(
                    f"{self.file_of(version)} is no whole snapshot ({error}); check the disk, then start again with "
                    "--resume"
                ) from error
            time.sleep(_POLL_S)

    def _require_pending(self, version: int, deadline_s: float, give_up: float) -> None:
        """Raise ArtifactError when a version can no longer be published, or when its deadline has passed."""
        if not self.path.is_dir():
            raise ArtifactError(
                f"Version {version} of the critic was requested by an attempt that has ended: {self.path} is gone. The "
                "ranks have restarted in another directory; no action is needed"
            )
        if time.monotonic() > give_up:
            raise ArtifactError(
                f"Version {version} of the critic was not published to {self.path} within {deadline_s:.0f} s; "
                f"there are {[f.name for f in self.files()]}. Look at rank 0, which publishes."
            )

    def files(self, oldest: int = 0) -> list[Path]:
        """Return the files of versions >= `oldest`, oldest first."""
        return [path for path in sorted(self.path.glob("version_*.safetensors")) if version_of_file(path) >= oldest]

    def drop_before(self, oldest: int) -> None:
        """Remove versions that no step needs any more."""
        for path in self.files():
            if version_of_file(path) < oldest:
                path.unlink(missing_ok=True)


def open_attempt(root: Path, attempt: str, carried: list[Path]) -> SnapshotDirectory:
    """Create an attempt's directory with the versions of a checkpoint; remove the directories of other attempts.

    Call it on one rank only.
    """
    if root.is_dir():
        for other in root.iterdir():
            if other.name != attempt:
                shutil.rmtree(other, ignore_errors=True)
    directory = SnapshotDirectory(root / attempt)
    directory.path.mkdir(parents=True, exist_ok=True)
    for path in carried:
        with atomic_file(directory.path / path.name) as temporary:
            shutil.copyfile(path, temporary)
    return directory


def version_of_file(path: Path) -> int:
    """Return the version a snapshot file holds."""
    return int(path.stem.removeprefix("version_"))
