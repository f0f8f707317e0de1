"""A volume of VESSL storage as a place to sync to, through VESSL's own command line (`vessl storage`, 0.1.199).

    vessl storage copy-file FILE volume://STORAGE/VOLUME/FOLDER     puts FILE into FOLDER under its own name
    vessl storage list-files volume://STORAGE/VOLUME/FOLDER         prints paths and rounded sizes

VESSL reports no hashes and downloads whole volumes only. So sent files are recorded beside the storage, in
`.vessl_sync.json`, and counts as there while the volume lists it with that size. From another machine, everything is
sent once more. An upload of a file is all or nothing; there are no parts to go on from.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from wmtp_ray.artifacts.storage_sync import SUMS, SourceFile, sums_text
from wmtp_ray.errors import ArtifactError
from wmtp_ray.saved_records import read_record, write_record

COMMAND = "vessl"
NOTES = ".vessl_sync.json"
_URL = re.compile(r"volume://[^/?#]+/[^/?#]+(/[^?#]+)?")
_LISTED = re.compile(r"\s*(?P<name>\S.*?)\s+(?P<size>\d+(\.\d+)? [KMGTPEZ]?B)\s*")
_UNITS = ("", "K", "M", "G", "T", "P")
_ERROR_LINES = 5


class VesslVolume:
    """`url` is volume://STORAGE/VOLUME or a folder in it; `asks` is False for a dry run, which sends no request."""

    def __init__(self, url: str, storage: Path, *, asks: bool) -> None:
        if not _URL.fullmatch(url):
            raise ArtifactError(f"found {url!r}, expected volume://STORAGE/VOLUME or volume://STORAGE/VOLUME/FOLDER")
        self._url = url.rstrip("/")
        self._notes_path = storage / NOTES
        self._asks = asks
        self._notes: dict[str, dict[str, str]] = {}
        if self._notes_path.exists():
            remedy = "remove the file: what the volume holds is then sent again"
            self._notes = read_record(self._notes_path, dict[str, dict[str, str]], remedy)
        self._sent = self._notes.setdefault(self._url, {})
        self._listed: dict[str, str] | None = None

    def holds(self, file: SourceFile) -> bool:
        if self._sent.get(file.name) != file.sha256:
            return False
        if self._asks and self._listed is None:
            self._listed = self._list()
        return self._listed is None or self._listed.get(file.name) == size_text(file.num_bytes)

    def announce(self, file: SourceFile) -> str:
        return " ".join(copy_command(file.path, self._url, file.name))

    def put(self, file: SourceFile) -> None:
        _run(copy_command(file.path, self._url, file.name))
        self._sent[file.name] = file.sha256
        write_record(self._notes_path, self._notes)

    def finish(self, files: Sequence[SourceFile]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            sums = Path(directory) / SUMS
            sums.write_bytes(sums_text(self._sent))
            _run(copy_command(sums, self._url, SUMS))
        self._listed = self._list()
        if missing := [file.name for file in files if not self.holds(file)]:
            raise ArtifactError(
                f"{self._url} does not list {len(missing)} of the files that were sent, for example {missing[0]}; give "
                "the same command again"
            )

    def _list(self) -> dict[str, str]:
        return parse_listing(_run(list_command(self._url)))


def copy_command(path: Path, url: str, name: str) -> list[str]:
    """Return the command that sends a file to `name` below a volume's URL.

    Raises ArtifactError for a folder whose name VESSL would cut in its URL.
    """
    folder = PurePosixPath(name).parent
    if any(sign in str(folder) for sign in "?#"):
        raise ArtifactError(f"{name}: a volume's URL cannot name the folder {folder}; rename it, without ? and #")
    target = url if folder == PurePosixPath() else f"{url}/{folder}"
    return [COMMAND, "storage", "copy-file", str(path.absolute()), target]


def list_command(url: str) -> list[str]:
    """Return the command that lists all files below a volume's URL."""
    return [COMMAND, "storage", "list-files", url]


def parse_listing(printed: str) -> dict[str, str]:
    """Read sizes, as they are printed, by path. "a.json   1.5 KB" -> {"a.json": "1.5 KB"}."""
    matches = [_LISTED.fullmatch(line) for line in printed.splitlines()]
    return {match["name"]: match["size"] for match in matches if match and not match["name"].startswith("../")}


def size_text(num_bytes: int) -> str:
    """Print a size as VESSL does: 0 -> "0 B", 1536 -> "1.5 KB"."""
    if num_bytes == 0:
        return "0 B"
    exponent = next((e for e in range(len(_UNITS)) if num_bytes < 1024 ** (e + 1)), len(_UNITS) - 1)
    return f"{num_bytes / 1024**exponent:.1f} {_UNITS[exponent]}B"


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ArtifactError(
            f"there is no command {COMMAND} here; install it in an environment of its own (`pip install vessl`), log "
            "in with `vessl configure`, and have it on the PATH"
        ) from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:])
        raise ArtifactError(f"`{' '.join(command)}` failed ({said}); fix that and give the same command again")
    return done.stdout
