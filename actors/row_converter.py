"""The Ray Data task of a conversion: one row group of the source becomes one part of the rows and of the problems.

A part's files are named after all that their bytes depend on, and its receipt, written last, says what is in them. So a
part that a killed conversion finished is recognised and verified, and nothing else is ever taken for one. Memory: a few
problems at a time. Paths have to mean the same on every node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec
import pyarrow as pa

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.data.codecontests import problem_line, read_problems, rows_of
from wmtp_ray.data.dataset_manifest import FORMAT, FileDigest
from wmtp_ray.data.kept_rows import Counts, RowLimits, keep_rows, total
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import WmtpError
from wmtp_ray.saved_records import read_record, write_record


@dataclass(frozen=True)
class SourcePart:
    """One row group of one source file; `number` counts the parts of a split in the source's order.

    `renamed` are the problems, by their number in the row group, whose name an earlier problem of the split has.
    """

    split: str
    number: int
    path: str
    sha256: str
    row_group: int
    renamed: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class PartSettings:
    """What every part is converted with, and the folder that the parts are written to."""

    directory: Path
    tokenizer: CodeTokenizer
    limits: RowLimits


@dataclass(frozen=True)
class PartReceipt:
    """What is in a part's two files."""

    rows: FileDigest
    problems: FileDigest
    counts: Counts


@dataclass(frozen=True)
class PartFiles:
    """Where a part is written."""

    rows: Path
    problems: Path
    receipt: Path


@dataclass(frozen=True)
class FinishedPart:
    """A part with its receipt; `reused` when an earlier conversion had finished it."""

    part: SourcePart
    receipt: PartReceipt
    reused: bool


def part_files(part: SourcePart, settings: PartSettings) -> PartFiles:
    """Name the files of a part after its place, its source's content and the settings."""
    limits = settings.limits
    source = (part.sha256, part.row_group, part.renamed)
    key = (FORMAT, *source, limits.languages, limits.max_tokens, settings.tokenizer.sha256)
    digest = sha256(repr(key).encode()).hexdigest()[:16]
    stem = settings.directory / f"{part.split}-{part.number:05d}-{digest}"
    return PartFiles(
        stem.with_suffix(".rows.jsonl"), stem.with_suffix(".problems.jsonl"), stem.with_suffix(".receipt.json")
    )


def finish_part(part: SourcePart, settings: PartSettings) -> FinishedPart:
    """Convert a part, unless its files are there and whole."""
    files = part_files(part, settings)
    receipt = _verified(files)
    if receipt is not None:
        return FinishedPart(part, receipt, reused=True)
    return FinishedPart(part, _convert(part, files, settings), reused=False)


def finish_parts(table: pa.Table, settings: PartSettings) -> pa.Table:
    """Ray Data task over `parts_table` rows: a FinishedPart or an error of ours for each.

    Ray Data would hand on an error of ours as text inside one of its own: it travels as a row instead.
    """
    finished, error = [], ""
    try:
        parts = [msgspec.json.decode(part, type=SourcePart) for part in table["part"].to_pylist()]
        finished = [msgspec.json.encode(finish_part(part, settings)) for part in parts]
    except WmtpError as refusal:
        finished, error = [b""], str(refusal)
    return pa.table(
        {"finished": pa.array(finished, pa.binary()), "error": pa.array([error] * len(finished), pa.string())}
    )


def parts_table(parts: Sequence[SourcePart]) -> pa.Table:
    """The input of `finish_parts`."""
    return pa.table({"part": pa.array([msgspec.json.encode(part) for part in parts], pa.binary())})


def _convert(part: SourcePart, files: PartFiles, settings: PartSettings) -> PartReceipt:
    counts = []
    with (
        atomic_file(files.rows) as rows_path,
        atomic_file(files.problems) as problems_path,
        rows_path.open("wb") as rows,
        problems_path.open("wb") as problems,
    ):
        names = dict(part.renamed)
        for number, problem in enumerate(read_problems(Path(part.path), part.row_group)):
            if not problem.description.strip():
                counts.append(Counts(problems=1, problems_without_rows=1, problems_left_out={"no_description": 1}))
                continue
            problem = replace(problem, name=names.get(number, problem.name))
            kept = keep_rows(rows_of(problem), settings.tokenizer, settings.limits)
            rows.writelines(line + b"\n" for line in kept.lines)
            problems.write(problem_line(problem) + b"\n")
            counts.append(replace(kept.counts, problems_renamed=int(number in names)))
    receipt = PartReceipt(_digest(files.rows), _digest(files.problems), total(counts))
    write_record(files.receipt, receipt)
    return receipt


def _verified(files: PartFiles) -> PartReceipt | None:
    """The receipt of a part whose files are what it says, None otherwise."""
    if not all(path.exists() for path in (files.receipt, files.rows, files.problems)):
        return None
    receipt = read_record(files.receipt, PartReceipt, "remove the file: the part is converted again")
    whole = (_digest(files.rows), _digest(files.problems)) == (receipt.rows, receipt.problems)
    return receipt if whole else None


def _digest(path: Path) -> FileDigest:
    return FileDigest(file_sha256(path), path.stat().st_size)
