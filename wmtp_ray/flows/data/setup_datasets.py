"""Public data sets to files that a run can read: rows, problems with their tests, and a manifest, written last.

    <out>/processed/<split>.jsonl, <split>_problems.jsonl     code_contests
    <out>/processed/problems.jsonl, train.jsonl               mbpp; humaneval has no rows
    <out>/{train,valid,..}.jsonl, {train,valid}_problems.jsonl   list_tasks, generated
    <out>/manifest.json                                       sources, parameters, hashes, counts

and beside the rows what `derived_files.py` makes of them: indexes, small versions, stats/, schema.json.

What is there, whole and from the same source is left alone. A folder holds one conversion: other parameters are
refused. A conversion of code_contests that was killed goes on where it was (`actors/row_converter.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from actors.row_converter import PartSettings
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.data import benchmarks, codecontests
from wmtp_ray.data.dataset_manifest import (
    FILE_NAME,
    Conversion,
    DatasetManifest,
    FileDigest,
    SourceRecord,
    SplitRecord,
    read_manifest,
    require_same_conversion,
)
from wmtp_ray.data.kept_rows import LANGUAGES, Counts, RowLimits, keep_rows, total
from wmtp_ray.data.list_tasks import DEFAULT_TASKS, ListTasks, write_list_tasks
from wmtp_ray.data.source_files import LocatedFiles, locate
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ConfigError, DataError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.data.convert_parts import concatenate_parts, convert_parts, list_parts, remove_parts
from wmtp_ray.flows.data.derived_files import write_derived
from wmtp_ray.saved_records import write_record

SPLITS = ("train", "valid", "test")  # of code_contests
MBPP = "google-research-datasets/mbpp"
HUMANEVAL = "openai/openai_humaneval"
MBPP_FILES = {
    "full": ("full/*.parquet", "mbpp.jsonl"),
    "sanitized": ("sanitized/*.parquet", "sanitized-mbpp.json"),
}
LEAST_MAX_TOKENS = 8  # of data.max_tokens
HUMANEVAL_FILES = ("openai_humaneval/test-*.parquet", "HumanEval.jsonl", "HumanEval.jsonl.gz")

Say = Callable[[str], None]
Convert = Callable[[list[str]], dict[str, SplitRecord]]


@dataclass(frozen=True)
class Place:
    """Where a data set comes from and goes to: `source` is "hub", a folder or a file, `revision` the hub's."""

    source: str
    revision: str
    out: Path


@dataclass(frozen=True)
class RowParameters:
    """Which rows are kept: languages by name (`kept_rows.LANGUAGES`), at most `max_tokens` tokens of a tokenizer."""

    tokenizer_path: Path
    languages: tuple[str, ...]
    max_tokens: int


def setup_codecontests(place: Place, splits: Sequence[str], rows: RowParameters, now: datetime, say: Say) -> None:
    """Convert splits ("train", "valid", "test") of deepmind/code_contests; raises DataError or ArtifactError."""
    tokenizer = CodeTokenizer(rows.tokenizer_path.absolute())
    patterns = {split: (f"data/{split}-*.parquet", f"{split}-*.parquet") for split in splits}
    located = locate(place.source, codecontests.DATASET, place.revision, patterns)
    sources = _source_records(located)
    settings = PartSettings(place.out.absolute() / "parts", tokenizer, _limits(rows))

    def convert(stale: list[str]) -> dict[str, SplitRecord]:
        parts = [
            part
            for split in stale
            for part in list_parts(split, list(zip(located.files[split], sources[split].files.values(), strict=True)))
        ]
        with joined(num_cpus=None):
            finished = convert_parts(parts, settings, say)
        records = {}
        for split in stale:
            files = concatenate_parts(split, finished, settings, place.out / "processed")
            counts = total(each.receipt.counts for each in finished if each.part.split == split)
            _require_rows(split, counts, rows)
            records[split] = SplitRecord(sources[split], _digests(files, place.out), counts)
        return records

    conversion = _conversion(codecontests.DATASET, codecontests.LICENCE, rows, tokenizer)
    _bring_up_to_date(place.out, conversion, sources, convert, rows, now, say)
    remove_parts(settings, splits)


def setup_mbpp(place: Place, variant: str, rows: RowParameters, now: datetime, say: Say) -> None:
    """Convert MBPP, "full" or "sanitized": problems of every split, rows of its train split; raises like above."""
    tokenizer = CodeTokenizer(rows.tokenizer_path)
    located = locate(place.source, MBPP, place.revision, {"all": MBPP_FILES[variant]})
    sources = _source_records(located)

    def convert(_: list[str]) -> dict[str, SplitRecord]:
        problems = benchmarks.read_mbpp(located.files["all"])
        kept = [keep_rows([row], tokenizer, _limits(rows)) for row in benchmarks.training_rows(problems)]
        counts = total([*(each.counts for each in kept), _without_rows(len(problems) - len(kept))])
        files = {
            "problems.jsonl": [benchmarks.problem_line(problem) for problem in problems],
            "train.jsonl": [line for each in kept for line in each.lines],
        }
        files = {name: lines for name, lines in files.items() if lines}
        return {"all": SplitRecord(sources["all"], _write(files, place.out), counts)}

    _bring_up_to_date(place.out, _conversion(MBPP, "CC BY 4.0", rows, tokenizer), sources, convert, rows, now, say)


def setup_humaneval(place: Place, now: datetime, say: Say) -> None:
    """Convert HumanEval: problems only; raises DataError or ArtifactError."""
    located = locate(place.source, HUMANEVAL, place.revision, {"test": HUMANEVAL_FILES})
    sources = _source_records(located)

    def convert(_: list[str]) -> dict[str, SplitRecord]:
        problems = benchmarks.read_humaneval(located.files["test"])
        files = {"problems.jsonl": [benchmarks.problem_line(problem) for problem in problems]}
        return {"test": SplitRecord(sources["test"], _write(files, place.out), _without_rows(len(problems)))}

    _bring_up_to_date(place.out, Conversion(HUMANEVAL, "MIT", None, {}), sources, convert, None, now, say)


def setup_list_tasks(out: Path, say: Say, tasks: ListTasks = DEFAULT_TASKS) -> None:
    """Generate list problems, `DEFAULT_TASKS` unless others are asked for: rows of two splits, problems with tests.

    What an earlier call left in the folder is written anew. Raises ConfigError as `write_list_tasks`.
    """
    if tasks.num_valid_problems == 0:
        raise ConfigError("list tasks: num_valid_problems is 0, expected 1 or more: the valid split needs a row")
    files = write_list_tasks(out, tasks)
    derived = write_derived(out, [files.train, files.valid], tokenizer=None, max_tokens=None)
    for path in (files.train, files.valid, *(path for path in derived if path.suffix == ".jsonl")):
        say(f"{path}: {sum(1 for _ in path.open('rb')):,} rows")


def _bring_up_to_date(
    out: Path,
    conversion: Conversion,
    sources: dict[str, SourceRecord],
    convert: Convert,
    rows: RowParameters | None,
    now: datetime,
    say: Say,
) -> None:
    """Convert the splits that are not there yet, or not whole, or of another source; then write the manifest.

    With `rows`, what is made from the rows is brought up to date as well.
    """
    path = out / FILE_NAME
    known: dict[str, SplitRecord] = {}
    derived: dict[str, FileDigest] = {}
    if path.exists():
        manifest = read_manifest(path)
        require_same_conversion(manifest, conversion, str(path))
        known, derived = manifest.splits, manifest.files
    stale = [split for split in sources if not _is_whole(out, known.get(split), sources[split])]
    is_complete = rows is None or (bool(derived) and _are_there(out, derived))
    if not stale and is_complete:
        say(f"{path}: {', '.join(sources)} are whole and of the same source: nothing to do")
        return
    converted = convert(stale) if stale else {}
    splits = known | converted
    if rows is not None:
        derived = _derived(out, splits, rows)
    content = DatasetManifest(conversion, now.isoformat("T", "seconds"), splits, derived)
    write_record(path, content)
    for split, record in converted.items():
        say(_described(split, record))
    say(f"{path}: written")


def _derived(out: Path, splits: dict[str, SplitRecord], rows: RowParameters) -> dict[str, FileDigest]:
    names = [name for record in splits.values() for name in record.files if not name.endswith("problems.jsonl")]
    tokenizer = CodeTokenizer(rows.tokenizer_path.absolute())
    files = [out.absolute() / name for name in names]
    max_tokens = max(rows.max_tokens, LEAST_MAX_TOKENS)
    return _digests(write_derived(out.absolute(), files, tokenizer=tokenizer, max_tokens=max_tokens), out.absolute())


def _are_there(out: Path, files: dict[str, FileDigest]) -> bool:
    paths = [out / name for name in files]
    return all(path.exists() for path in paths) and _digests(paths, out) == files


def _is_whole(out: Path, record: SplitRecord | None, source: SourceRecord) -> bool:
    """Whether a split was made from these very files and is still what was written."""
    if record is None or list(record.source.files.values()) != list(source.files.values()):
        return False
    return _are_there(out, record.files)


def _source_records(located: LocatedFiles) -> dict[str, SourceRecord]:
    return {
        split: SourceRecord(located.origin, located.revision, _digests(paths, located.root))
        for split, paths in located.files.items()
    }


def _digests(paths: Sequence[Path], root: Path) -> dict[str, FileDigest]:
    return {path.relative_to(root).as_posix(): FileDigest(file_sha256(path), path.stat().st_size) for path in paths}


def _require_rows(split: str, counts: Counts, rows: RowParameters) -> None:
    """Refuse a split of which nothing is left: an empty file could not be indexed."""
    if counts.rows:
        return
    raise DataError(
        f"{split}: found no solution to keep in {counts.problems:,} problems (dropped: {_dropped(counts)}), expected "
        f"one in {', '.join(rows.languages)} of at most {rows.max_tokens:,} tokens; choose other --languages, a higher "
        "--max-tokens, or leave the split out of --splits"
    )


def _write(files: dict[str, list[bytes]], out: Path) -> dict[str, FileDigest]:
    paths = [out / "processed" / name for name in files]
    for path, lines in zip(paths, files.values(), strict=True):
        atomic_write(path, b"".join(line + b"\n" for line in lines))
    return _digests(paths, out)


def _without_rows(num_problems: int) -> Counts:
    return Counts(problems=num_problems, problems_without_rows=num_problems)


def _limits(rows: RowParameters) -> RowLimits:
    return RowLimits(tuple(sorted({LANGUAGES[name] for name in rows.languages})), rows.max_tokens)


def _conversion(dataset: str, licence: str, rows: RowParameters, tokenizer: CodeTokenizer) -> Conversion:
    return Conversion(
        dataset, licence, tokenizer.sha256, {"languages": sorted(set(rows.languages)), "max_tokens": rows.max_tokens}
    )


def _described(split: str, record: SplitRecord) -> str:
    counts = record.counts
    problems = [f"{counts.problems:,} problems"]
    problems += [f"left out: {number:,} {reason}" for reason, number in counts.problems_left_out.items()]
    problems += [f"renamed: {counts.problems_renamed:,}"] if counts.problems_renamed else []
    return (
        f"{split}: {', '.join(problems)}; {counts.rows:,} rows, {counts.correct_rows:,} correct and "
        f"{counts.incorrect_rows:,} incorrect; solutions dropped: {_dropped(counts)}"
    )


def _dropped(counts: Counts) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.dropped.items()) or "none"
