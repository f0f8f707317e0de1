"""The record of a converted data set: sources, parameters, files with their hashes, counts. Touches no file.

The manifest is written last, so what it lists was whole. Splits are recorded one by one: a folder may get its splits
in several runs, as long as they are converted alike.
"""

from dataclasses import dataclass, field
from pathlib import Path

from wmtp_ray.data.kept_rows import Counts
from wmtp_ray.data.source_files import Origin
from wmtp_ray.errors import DataError
from wmtp_ray.saved_records import decode_record

FILE_NAME = "manifest.json"
FORMAT = 2  # raised whenever the same source and parameters give other bytes


@dataclass(frozen=True)
class FileDigest:
    """A file's content."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class SourceRecord:
    """Where a split came from; `revision` is the hub's commit, None for local files."""

    origin: Origin
    revision: str | None
    files: dict[str, FileDigest]


@dataclass(frozen=True)
class SplitRecord:
    """One split: its source, what was written (paths below the manifest's folder), what became of its content."""

    source: SourceRecord
    files: dict[str, FileDigest]
    counts: Counts


@dataclass(frozen=True)
class Conversion:
    """All that the bytes of a converted split depend on besides its source."""

    dataset: str
    licence: str
    tokenizer_sha256: str | None
    parameters: dict[str, int | str | list[str]]
    format: int = FORMAT


@dataclass(frozen=True)
class DatasetManifest:
    """The content of manifest.json; `updated` is an ISO date and time.

    `files` were made from the splits' rows: small versions, statistics, the schema of a row.
    """

    conversion: Conversion
    updated: str
    splits: dict[str, SplitRecord]
    files: dict[str, FileDigest] = field(default_factory=dict)


def read_manifest(path: Path) -> DatasetManifest:
    """Read manifest.json; DataError when it is of another form."""
    remedy = "delete it, or name another folder with --out"
    return decode_record(path.read_bytes(), DatasetManifest, path, remedy, DataError)


def require_same_conversion(manifest: DatasetManifest, asked: Conversion, place: str) -> None:
    """Raise DataError that lists what differs, when a folder's content was converted otherwise than asked."""
    found, expected = _flat(manifest.conversion), _flat(asked)
    differences = [
        f"{name} {found.get(name)} there, {expected.get(name)} asked for"
        for name in sorted(found | expected)
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise DataError(
            f"{place}: found a data set converted with other parameters: {'; '.join(differences)}; expected the same: "
            "name another folder with --out, or delete this one"
        )


def _flat(conversion: Conversion) -> dict[str, object]:
    return {**vars(conversion), **conversion.parameters, "parameters": None}
