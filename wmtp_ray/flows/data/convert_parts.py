"""Row groups of a source to the files of its splits: Ray Data tasks write the parts, the driver puts them together.

    source files -> row groups -> Ray Data: finish_parts (one task a CPU) -> parts/ -> <split>.jsonl, in source order

A task keeps a few problems in memory and hands back a receipt, so memory does not grow with the source. Parts need as
much disk as the result until they are removed.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from actors.row_converter import FinishedPart, PartSettings, SourcePart, finish_parts, part_files, parts_table
from wmtp_ray.data.codecontests import num_row_groups, read_names, unique_names
from wmtp_ray.data.dataset_manifest import FileDigest
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.block_tasks import run_block_tasks

_COPY_BYTES = 1 << 20

Say = Callable[[str], None]


def list_parts(split: str, files: Sequence[tuple[Path, FileDigest]]) -> list[SourcePart]:
    """List the row groups of a split's files in order.

    Raises DataError for a file that is not of the data set, and for files that hold no problem.
    """
    places = [(path, digest, group) for path, digest in files for group in range(num_row_groups(path))]
    names = [read_names(path, group) for path, _, group in places]
    if not any(names):
        raise DataError(
            f"{', '.join(str(path) for path, _ in files)}: found no problem, expected at least one of the split "
            f"{split}; check that the download or export finished, or leave the split out"
        )
    unique = iter(unique_names(name for of_group in names for name in of_group))
    renamed = [
        tuple((n, new) for n, (name, new) in enumerate(zip(of_group, unique, strict=False)) if new and new != name)
        for of_group in names
    ]
    return [
        SourcePart(split, n, str(path), digest.sha256, group, renamed[n])
        for n, (path, digest, group) in enumerate(places)
    ]


def convert_parts(parts: Sequence[SourcePart], settings: PartSettings, say: Say) -> list[FinishedPart]:
    """Convert or verify every part on the connected Ray, in the order given. Raises DataError of the first bad part.

    A part that is finished stays finished, whatever becomes of the others.
    """
    finished = {}
    for each in _finished_parts(parts, settings):
        finished[each.part] = each
        verb = "kept" if each.reused else "converted"
        rows = each.receipt.counts.rows
        say(f"{len(finished)} of {len(parts)} parts: {verb} {each.part.split} {each.part.number}, {rows:,} rows")
    return [finished[part] for part in parts]


def concatenate_parts(split: str, finished: Sequence[FinishedPart], settings: PartSettings, out: Path) -> list[Path]:
    """Write `<split>.jsonl` and `<split>_problems.jsonl` below `out` from the parts of the split, in their order."""
    parts = [part_files(each.part, settings) for each in finished if each.part.split == split]
    rows, problems = out / f"{split}.jsonl", out / f"{split}_problems.jsonl"
    _concatenate([part.rows for part in parts], rows)
    _concatenate([part.problems for part in parts], problems)
    return [rows, problems]


def remove_parts(settings: PartSettings, splits: Sequence[str]) -> None:
    """Remove what is left of the splits' parts; those of other splits may belong to a conversion that was killed."""
    if not settings.directory.exists():
        return
    for split in splits:
        for path in [*settings.directory.glob(f"{split}-*"), *settings.directory.glob(f".{split}-*")]:
            path.unlink()
    if not any(settings.directory.iterdir()):
        settings.directory.rmdir()


def _finished_parts(parts: Sequence[SourcePart], settings: PartSettings) -> Iterator[FinishedPart]:
    """One block a part, so that a part is a task; in the order in which they are finished."""
    for block in run_block_tasks([parts_table([part]) for part in parts], finish_parts, (settings,), in_order=False):
        for row in block.to_pylist():
            if row["error"]:
                raise DataError(row["error"])
            yield msgspec.json.decode(row["finished"], type=FinishedPart)


def _concatenate(parts: Sequence[Path], whole: Path) -> None:
    with atomic_file(whole) as temporary, temporary.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, _COPY_BYTES)
