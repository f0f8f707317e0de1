"""What a round trains on: rows of data.train_file and collected ones, in one file and in a share.

`rounds.share_collected` of the rows are collected, exact to one row: the most rows that it allows are drawn. With 100
rows of the file and 40 collected ones, a share of 0.5 takes 40 and 40, a share of 0.25 takes 100 and 33, and no share
at all 100 and 40. Which rows of the side that has too many is a draw by seed and round.

Among the rounds that are kept a program of a problem counts once, with its newest row; one whose rows contradict each
other is no row. The file decides the plan: the plan itself knows nothing of rounds.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.sample_data import lines_of_rows
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.collecting.answer_classes import program_key
from wmtp_ray.plan.randomness import draw
from wmtp_ray.rounds.rounds_record import MixedRows
from wmtp_ray.saved_records import read_record, write_record


@dataclass(frozen=True)
class Mix:
    """How rows are mixed: `share` of them collected (None: all of both), `only_correct` ones, drawn by `seed`.

    `number` is the round, whose draw is its own.
    """

    share: float | None
    only_correct: bool
    seed: int
    number: int


@dataclass(frozen=True)
class _Manifest:
    """The content of <rows>.manifest.json: what the rows were made of, and what came of it."""

    mix: Mix
    file_fingerprint: str | None
    collected_sha256: tuple[str, ...]
    rows: MixedRows


def mix_rows(out: Path, file: RowIndex | None, collected: Sequence[Path], mix: Mix) -> MixedRows:
    """Write rows of the indexed `file` (None: none) and of `collected`, the newest last, to `out`.

    A file that was made of the same is not written again. Raises DataError where one side has no row that the share
    asks for.
    """
    made_of = None if file is None else file.file_fingerprint, tuple(map(file_sha256, collected))
    manifest = out.with_name(f"{out.name}.manifest.json")
    if out.is_file() and manifest.is_file():
        found = read_record(manifest, _Manifest, "remove it, and the rows beside it: they are made again")
        if (found.mix, found.file_fingerprint, found.collected_sha256) == (mix, *made_of):
            return found.rows
    rows = _write(out, file, _read(collected, mix), mix)
    write_record(manifest, _Manifest(mix, *made_of, rows))
    return rows


def rows_of_share(num_file: int, num_collected: int, share: float | None) -> tuple[int, int]:
    """Return how many rows of the file and how many collected ones make the most rows of that share.

    100 and 40 at 0.5 -> 40 and 40, at 0.25 -> 100 and 33, at 1.0 -> 0 and 40, at None -> 100 and 40.
    """
    if share is None:
        return num_file, num_collected
    exact = Fraction(str(share))
    if exact in (0, 1):
        return (0, num_collected) if exact else (num_file, 0)
    if num_collected * (1 - exact) > num_file * exact:
        return num_file, _nearest(num_file * exact / (1 - exact))
    return _nearest(num_collected * (1 - exact) / exact), num_collected


def _nearest(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))


@dataclass(frozen=True)
class _Collected:
    """The lines that may be drawn from, oldest first, and what was left out of them."""

    lines: list[bytes]
    repeated: int
    contradicted: int


def _read(files: Sequence[Path], mix: Mix) -> _Collected:
    """Read the rows of the kept rounds; each different program of a problem once."""
    newest: dict[tuple[str, str, str], tuple[bytes, set[bool]]] = {}
    num_lines = 0
    for path in files:
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            row = parse_row(line, number, path)
            key = row.instruction, row.input, program_key(row.output)
            _, classes = newest.pop(key, (b"", set()))
            newest[key] = line, classes | {row.is_correct}
            num_lines += 1
    one_class = [(line, classes) for line, classes in newest.values() if len(classes) == 1]
    lines = [line for line, classes in one_class if True in classes or not mix.only_correct]
    return _Collected(lines, num_lines - len(newest), len(newest) - len(one_class))


def _write(out: Path, file: RowIndex | None, found: _Collected, mix: Mix) -> MixedRows:
    candidates = np.zeros(0, np.int64) if file is None else _candidates(file, mix)
    num_file, num_collected = rows_of_share(len(candidates), len(found.lines), mix.share)
    _require_rows(mix, file=(num_file, len(candidates)), collected=(num_collected, len(found.lines)))
    drawn_file = np.sort(draw(candidates, num_file, mix.seed, "rounds", mix.number, "file"))
    numbers = np.arange(len(found.lines), dtype=np.int64)
    drawn = np.sort(draw(numbers, num_collected, mix.seed, "rounds", mix.number, "collected"))
    digest = hashlib.sha256()
    with atomic_file(out) as temporary, temporary.open("wb") as target:
        for line in _lines(file, drawn_file, [found.lines[number] for number in drawn.tolist()]):
            target.write(line)
            digest.update(line)
    return MixedRows(
        from_file=num_file,
        from_file_of=len(candidates),
        collected=num_collected,
        collected_of=len(found.lines),
        repeated=found.repeated,
        contradicted=found.contradicted,
        sha256=digest.hexdigest(),
    )


def _candidates(file: RowIndex, mix: Mix) -> Int64:
    """Return the rows of the file that may be drawn."""
    return np.flatnonzero(file.is_correct_R if mix.only_correct else np.ones(len(file), np.bool_)).astype(np.int64)


def _lines(file: RowIndex | None, row_ids: Int64, collected: Sequence[bytes]) -> Iterator[bytes]:
    if file is not None:
        yield from lines_of_rows(Path(file.path), file, row_ids)
    yield from collected


def _require_rows(mix: Mix, *, file: tuple[int, int], collected: tuple[int, int]) -> None:
    """Raise DataError where a share cannot be kept, or nothing is left; each side is (drawn, there are)."""
    has_both = mix.share in (None, 0.0, 1.0) or (file[0] and collected[0])
    if file[0] + collected[0] and has_both:
        return
    what = "correct rows" if mix.only_correct else "rows"
    raise DataError(
        f"round {mix.number}: found {file[1]} {what} of data.train_file and {collected[1]} collected ones, of which "
        f"rounds.share_collected={mix.share} takes {file[0]} and {collected[0]}, expected a row or more of each side "
        "that the share asks for. Collect more (rounds.num_samples, rounds.until_both), begin with a better policy, or "
        "take all rows there are with rounds.share_collected=null; under a new run_name"
    )
