"""From scanned rows to findings: malformed lines, labels, repetitions, and what two splits share.

Rows that are equal by hash are read again and compared before they are named; a pair that differs after all is not
counted. Of a finding at most KEPT_EXAMPLES pairs are kept and so compared. Suffixes: N rows of all files, one file
behind the other, D rows that repeat an earlier one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations
from pathlib import Path

import numpy as np

from wmtp_ray.contracts import Bool, Int64
from wmtp_ray.data.index_ranges import open_jsonl
from wmtp_ray.data.rows import Row, parse_row
from wmtp_ray.data.validation.normal_form import normal_program, normal_prose
from wmtp_ray.data.validation.rules import Finding, Rule
from wmtp_ray.data.validation.scan import ScannedRows, UInt64

KEPT_EXAMPLES = 1000


@dataclass(frozen=True, eq=False)
class ScannedFile:
    """A file and its rows; `name` is how findings call it."""

    path: Path
    name: str
    rows: ScannedRows

    def read(self, row: int) -> Row:
        """Read a row again. Raises DataError when the file has changed."""
        line_number = int(self.rows.line_N[row])
        with open_jsonl(self.path) as file:
            file.seek(int(self.rows.offset_N[row]))
            return parse_row(file.readline().rstrip(b"\r\n"), line_number, self.path)

    def place(self, row: int) -> str:
        """Return where a row stands: "train.jsonl:12"."""
        return f"{self.name}:{self.rows.line_N[row]}"


@dataclass(frozen=True, eq=False)
class _Repeats:
    """Row `again_D[d]` equals `first_D[d]`, the first of all rows that are equal to it."""

    first_D: Int64
    again_D: Int64

    def where(self, keep_D: Bool) -> "_Repeats":
        return _Repeats(self.first_D[keep_D], self.again_D[keep_D])


def find_in_rows(files: Sequence[ScannedFile]) -> list[Finding]:
    """Apply every rule but those about benchmarks and checksums."""
    return [
        *_without_rows(files),
        *_malformed(files),
        *_suspicious(files),
        *_repeated_task_ids(files),
        *_labels_against_task_ids(files),
        *_repetitions_and_both_labels(files),
        *_shared_problems(files),
        *_shared_instructions(files),
    ]


def _without_rows(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    for file in files:
        if not len(file.rows):
            yield Finding(Rule.NO_ROWS, (file.name,), 1, "file", (f"{file.name} has {file.rows.num_lines:,} lines",))


def _malformed(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    for file in files:
        if file.rows.num_malformed:
            examples = tuple(f"{file.name}:{line.line}: {line.reason}" for line in file.rows.malformed)
            yield Finding(Rule.MALFORMED, (file.name,), file.rows.num_malformed, "lines", examples)
        if file.rows.num_empty:
            examples = tuple(f"{file.name}:{line.line}: {line.reason}" for line in file.rows.empty)
            yield Finding(Rule.EMPTY_PROGRAM, (file.name,), file.rows.num_empty, "lines", examples)


def _suspicious(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    """Rows that are read and trained on, though nothing can be learned from them."""
    for file in files:
        for rule, rows in (
            (Rule.NO_CODE, file.rows.without_code),
            (Rule.NO_INSTRUCTION, file.rows.without_instruction),
        ):
            if rows:
                examples = tuple(f"{file.place(row)} {file.read(row).task_id}" for row in rows[:KEPT_EXAMPLES])
                yield Finding(rule, (file.name,), len(rows), "rows", examples)


def _repeated_task_ids(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    """Find repeated task_ids within each file; across files the problem's name decides."""
    for file in files:
        pairs = _Pairs([file], _repeats(file.rows.task_id_N))
        yield from pairs.findings(Rule.REPEATED_TASK_ID, "rows", lambda one, other: one.task_id == other.task_id)


def _labels_against_task_ids(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    for file in files:
        rows = file.rows.mislabelled
        if rows:
            examples = tuple(
                f"{file.place(row)}: is_correct is {str(bool(file.rows.is_correct_N[row])).lower()} in "
                f"{file.read(row).task_id}"
                for row in rows[:KEPT_EXAMPLES]
            )
            yield Finding(Rule.LABEL_AGAINST_TASK_ID, (file.name,), len(rows), "rows", examples)


def _repetitions_and_both_labels(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    same_row = _repeats(np.concatenate([file.rows.exact_N for file in files]))
    yield from _Pairs(files, same_row).findings(Rule.REPEATED_ROW, "rows", _are_same_row)
    same_program = _repeats(np.concatenate([file.rows.program_N for file in files]))
    is_correct_N = np.concatenate([file.rows.is_correct_N for file in files])
    repeats_row_N = np.zeros(len(is_correct_N), np.bool_)
    repeats_row_N[same_row.again_D] = True
    other_text = same_program.where(~repeats_row_N[same_program.again_D])
    yield from _Pairs(files, other_text).findings(Rule.REPEATED_PROGRAM, "rows", _are_same_program)
    denied = same_program.where(is_correct_N[same_program.first_D] != is_correct_N[same_program.again_D])
    _, once_D = np.unique(denied.first_D, return_index=True)
    once = _Repeats(denied.first_D[once_D], denied.again_D[once_D])
    yield from _Pairs(files, once).findings(Rule.BOTH_LABELS, "programs", _are_same_program)


def _shared_problems(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    for one, other in combinations(files, 2):
        shared = [name for name in one.rows.problems if name in other.rows.problems]
        if shared:
            examples = tuple(
                f"{name}: {one.place(one.rows.problems[name])} and {other.place(other.rows.problems[name])}"
                for name in shared[:KEPT_EXAMPLES]
            )
            yield Finding(Rule.PROBLEM_IN_TWO_SPLITS, (one.name, other.name), len(shared), "problems", examples)


def _shared_instructions(files: Sequence[ScannedFile]) -> Iterator[Finding]:
    for one, other in combinations(files, 2):
        shared = [text for text in one.rows.instructions if text in other.rows.instructions]
        first_D = np.array([one.rows.instructions[text] for text in shared], np.int64)
        again_D = np.array([other.rows.instructions[text] for text in shared], np.int64) + len(one.rows)
        pairs = _Pairs([one, other], _Repeats(first_D, again_D))
        yield from pairs.findings(Rule.INSTRUCTION_IN_TWO_SPLITS, "instructions", _are_same_instruction)


def _are_same_row(one: Row, other: Row) -> bool:
    return (one.instruction, one.input, one.output) == (other.instruction, other.input, other.output)


def _are_same_instruction(one: Row, other: Row) -> bool:
    return normal_prose(one.instruction) == normal_prose(other.instruction)


def _are_same_program(one: Row, other: Row) -> bool:
    same_text = normal_program(one.output, one.language) == normal_program(other.output, other.language)
    return same_text and _are_same_instruction(one, other)


def _repeats(hash_N: UInt64) -> _Repeats:
    """Pair every row with the first of its hash: [7, 5, 7, 7] -> first [0, 0], again [2, 3]."""
    order_N = np.argsort(hash_N, kind="stable")
    is_repeat_N = np.zeros(len(hash_N), np.bool_)
    is_repeat_N[1:] = hash_N[order_N[1:]] == hash_N[order_N[:-1]]
    place_D = np.flatnonzero(is_repeat_N)
    is_second_D = ~is_repeat_N[place_D - 1]  # the one before it is the first of its hash
    first_D = place_D[is_second_D][np.cumsum(is_second_D) - 1] - 1
    return _Repeats(order_N[first_D], order_N[place_D])


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of rows of some files, numbered through all of them."""

    files: Sequence[ScannedFile]
    repeats: _Repeats

    @cached_property
    def _starts(self) -> Int64:
        return np.array([*accumulate((len(file.rows) for file in self.files), initial=0)], np.int64)

    def findings(self, rule: Rule, unit: str, same: Callable[[Row, Row], bool]) -> Iterator[Finding]:
        """One finding for the repeats inside each file, and one for each two files; `same` compares the texts."""
        file_of_first_D = np.searchsorted(self._starts, self.repeats.first_D, side="right") - 1
        file_of_again_D = np.searchsorted(self._starts, self.repeats.again_D, side="right") - 1
        codes_D = file_of_first_D * len(self.files) + file_of_again_D
        for code in np.unique(codes_D).tolist():
            first, again = divmod(code, len(self.files))
            names = [self.files[first].name, self.files[again].name]
            pairs = self.repeats.where(codes_D == code)
            examples, num_wrong = self._examples(pairs, same)
            count = len(pairs.again_D) - num_wrong
            if count:
                yield Finding(rule, tuple(dict.fromkeys(names)), count, unit, examples)

    def _examples(self, pairs: _Repeats, same: Callable[[Row, Row], bool]) -> tuple[tuple[str, ...], int]:
        """Describe the first pairs that are the same, in file order; and count those that only hash alike."""
        examples: list[str] = []
        listed = np.argsort(pairs.again_D)[:KEPT_EXAMPLES]
        for first, again in zip(pairs.first_D[listed].tolist(), pairs.again_D[listed].tolist(), strict=True):
            (one_place, one), (other_place, other) = self._read(first), self._read(again)
            if same(one, other):
                examples.append(f"{one_place} {one.task_id} and {other_place} {other.task_id}")
        return tuple(examples), len(listed) - len(examples)

    def _read(self, row: int) -> tuple[str, Row]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        file, row_of_file = self.files[number], row - int(self._starts[number])
        return file.place(row_of_file), file.read(row_of_file)
