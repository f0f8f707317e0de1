"""Whether a file's bytes are those that a `manifest.json` beside or above it was written for. Hashes nothing itself.

    {"splits": {"train": {"files": {"processed/train.jsonl": {"sha256": "...", ...}, ...}, ...}}, ...}

is what `dataset_manifest.py` writes; `files` may also stand at the top, and map a name to its SHA-256 itself. Names
count from the manifest's folder. A manifest without such an entry says nothing about the file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.data.dataset_manifest import FILE_NAME as MANIFEST_FILE
from wmtp_ray.data.validation.rules import Finding, Rule
from wmtp_ray.errors import DataError


@dataclass(frozen=True)
class Checksum:
    """The SHA-256 of a file as found and as its manifest has it; both None where no manifest names the file."""

    sha256: str
    manifest: Path | None
    expected: str | None


def expected_checksum(path: Path, sha256: str) -> Checksum:
    """Look the file up in the manifest of its folder, then of the folder above. DataError for one that is no JSON."""
    for folder in path.absolute().parents[:2]:
        manifest = folder / MANIFEST_FILE
        expected = _entry(manifest, path.absolute().relative_to(folder).as_posix()) if manifest.exists() else None
        if expected is not None:
            return Checksum(sha256, manifest, expected)
    return Checksum(sha256, None, None)


def find_other_bytes(name: str, checksum: Checksum) -> list[Finding]:
    """Report a file whose bytes differ from its manifest's."""
    if checksum.expected in (None, checksum.sha256):
        return []
    example = f"{name} has {checksum.sha256}, {checksum.manifest} expects {checksum.expected}"
    return [Finding(Rule.OTHER_BYTES, (name,), 1, "file", (example,))]


def _entry(manifest: Path, name: str) -> str | None:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{manifest}: cannot be read as JSON ({error}); expected the manifest of the folder: restore or remove it"
        ) from error
    sections = [content, *_object(_object(content).get("splits")).values()]
    entries = [_object(_object(section).get("files")).get(name) for section in sections]
    hashes = [entry.get("sha256") if isinstance(entry, dict) else entry for entry in entries]
    return next((sha256 for sha256 in hashes if isinstance(sha256, str)), None)


def _object(value: object) -> dict[str, object]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}
