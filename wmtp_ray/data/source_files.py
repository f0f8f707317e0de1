"""Where the files of a public data set are: a local file, a local folder in the hub's shape, or the hub itself.

Names and downloads files; reads none of them. The hub needs `huggingface_hub` (the extra `hf`), imported only then.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wmtp_ray.errors import ArtifactError, DataError

HUB = "hub"

Origin = Literal["hub", "local"]


@dataclass(frozen=True)
class LocatedFiles:
    """The files of each split, sorted by name, below `root`; `revision` is the hub's commit, None for local files."""

    root: Path
    origin: Origin
    revision: str | None
    files: dict[str, tuple[Path, ...]]


def locate(source: str, dataset: str, revision: str, patterns: Mapping[str, Sequence[str]]) -> LocatedFiles:
    """Find the files of each split of `patterns`: "hub", a folder, or a file where there is one split only.

    `patterns` are globs below the folder, the hub's own first; of several the first with any match counts. `revision`
    is a branch, tag or commit of `dataset` on the hub. Raises DataError when a split has no file, ArtifactError when
    the hub cannot be reached.
    """
    if source == HUB:
        root = _download(dataset, revision, [globs[0] for globs in patterns.values()])
        return LocatedFiles(root, "hub", root.name, _find_all(root, patterns))
    path = Path(source).absolute()
    if path.is_dir():
        return LocatedFiles(path, "local", None, _find_all(path, patterns))
    if path.is_file() and len(patterns) == 1:
        return LocatedFiles(path.parent, "local", None, dict.fromkeys(patterns, (path,)))
    found = "one file for several splits" if path.is_file() else "nothing"
    raise DataError(
        f"--source {source}: found {found}, expected a folder of {dataset} with "
        f"{' and '.join(globs[0] for globs in patterns.values())}, or `hub`; check the path"
    )


def _find_all(root: Path, patterns: Mapping[str, Sequence[str]]) -> dict[str, tuple[Path, ...]]:
    return {split: _find(root, split, globs) for split, globs in patterns.items()}


def _find(root: Path, split: str, globs: Sequence[str]) -> tuple[Path, ...]:
    for glob in globs:
        if files := sorted(path for path in root.glob(glob) if path.is_file()):
            return tuple(files)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else "")
    raise DataError(
        f"{root}: found {shown or 'no files'}, expected {' or '.join(globs)} for the split {split}; name the folder "
        "that holds them, or leave the split out"
    )


def _download(dataset: str, revision: str, globs: list[str]) -> Path:
    """Fetch what is missing in the hub's cache; the folder returned is named after the commit."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ArtifactError(
            f"--source hub: found no package huggingface_hub, expected it for a download of {dataset}; run "
            "`pip install 'wmtp_ray[hf]'`, or name a local folder"
        ) from error
    try:
        return Path(hub.snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=globs))
    except (OSError, ValueError) as error:  # what the hub raises for network, names and revisions derives from these
        raise ArtifactError(
            f"--source hub: {dataset} at revision {revision} could not be downloaded ({error}); check the network and "
            "the revision, or download it elsewhere and name the folder"
        ) from error
