"""Labels of an earlier generation of files: `train_metadata.json` beside a `train.jsonl` whose rows lack their own.

    {"metadata": [{"is_correct": true, "difficulty": 7, "problem_id": "1060_A. Phone Numbers"}, ...], ...}

One entry a line that is not blank, in file order; further keys are ignored. A `problem_id` that is a string names the
problem, a number leaves that to the task_id. The file is read as a whole, some 150 bytes of memory a row, and only when
a row lacks a label: a file whose rows carry their labels has no use for it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from wmtp_ray.config.earlier_names import FILES
from wmtp_ray.contracts import Bool, Int16, Int32, Int64, RowIndex
from wmtp_ray.data import records
from wmtp_ray.errors import DataError

LISTED_LINES = 10
READ_BYTES = 1 << 20
_STEMS = {Path(name).stem: Path(earlier).stem for name, earlier in FILES.items()}
_OTHER_STEMS = _STEMS | {earlier: stem for stem, earlier in _STEMS.items()}


class _Label(msgspec.Struct, gc=False):
    is_correct: bool
    difficulty: records.Int16
    problem_id: str | int


class _LabelsFile(msgspec.Struct):
    metadata: list[_Label]


def labels_path_of(jsonl: Path) -> Path:
    """Where the labels of a JSONL of the earlier generation lie; that of the valid split goes by two names."""
    names = (jsonl.stem, _OTHER_STEMS.get(jsonl.stem, jsonl.stem))
    paths = [jsonl.with_name(f"{name}_metadata.json") for name in names]
    return next((path for path in paths if path.exists()), paths[0])


@dataclass(frozen=True)
class Labels:
    """One entry a line that is not blank; `problem_L` holds codes into `problem_names`, None where ids are numbers."""

    path: Path
    is_correct_L: Bool
    difficulty_L: Int16
    problem_L: Int32 | None
    problem_names: tuple[str, ...]

    def fill_is_correct(self, is_correct_R: Bool, lacking_R: Bool, line_R: Int64) -> None:
        """Set the labels of the rows that lack them; lines beyond the last entry are refused by `apply`."""
        is_correct_R[lacking_R] = self.is_correct_L.take(line_R[lacking_R], mode="clip")

    def fill_difficulty(self, difficulty_R: Int16, lacking_R: Bool, line_R: Int64) -> None:
        """Set the difficulties of the rows that lack them, likewise."""
        difficulty_R[lacking_R] = self.difficulty_L.take(line_R[lacking_R], mode="clip")

    def apply(self, index: RowIndex, line_R: Int64, num_lines: int) -> RowIndex:
        """Return the index with these labels' problems; raises DataError when the two files are not of one export."""
        if len(self.is_correct_L) != num_lines:
            raise DataError(
                f"{self.path}: found labels of {len(self.is_correct_L)} rows, expected {num_lines}, one a line of "
                f"{index.path} that is not blank; take both files from the same export"
            )
        self._refuse_contradictions(index, index.is_correct_R != self.is_correct_L[line_R], "is_correct")
        self._refuse_contradictions(index, index.difficulty_R != self.difficulty_L[line_R], "difficulty")
        if self.problem_L is None:
            return index
        problem_R, problem_names = _in_order_of_appearance(self.problem_L[line_R], self.problem_names)
        return replace(index, problem_R=problem_R, problem_names=problem_names)

    def _refuse_contradictions(self, index: RowIndex, other_R: Bool, label: str) -> None:
        if not other_R.any():
            return
        with Path(index.path).open("rb") as file:
            lines = [str(line_number(file, offset)) for offset in index.offset_R[other_R][:LISTED_LINES].tolist()]
        raise DataError(
            f"{self.path}: found another {label} than the rows of {index.path} carry themselves in {other_R.sum()} "
            f"lines (the first: {', '.join(lines)}), expected the same; take both files from the same export"
        )


def read_labels(jsonl: Path) -> Labels:
    """Read the labels beside a JSONL; raises DataError when they are not of the form above."""
    path = labels_path_of(jsonl)
    try:
        entries = msgspec.json.decode(
            path.read_bytes().removeprefix(records.BYTE_ORDER_MARK), type=_LabelsFile
        ).metadata
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as labels ({error}), expected a list `metadata` of is_correct, difficulty and "
            f"problem_id, one a row of {jsonl}; fix it, or write the labels into the rows"
        ) from error
    codes: dict[str, int] = {}
    named = all(isinstance(entry.problem_id, str) for entry in entries)
    problems = [codes.setdefault(str(entry.problem_id), len(codes)) for entry in entries] if named else None
    return Labels(
        path=path,
        is_correct_L=np.array([entry.is_correct for entry in entries], np.bool_),
        difficulty_L=np.array([entry.difficulty for entry in entries], np.int16),
        problem_L=None if problems is None else np.array(problems, np.int32),
        problem_names=tuple(codes),
    )


def _in_order_of_appearance(problem_R: Int32, names: tuple[str, ...]) -> tuple[Int32, tuple[str, ...]]:
    """Leave out the names of malformed lines: [2, 0, 2] of (a, b, c) gives [0, 1, 0] of (c, a)."""
    codes: dict[int, int] = {}
    renumbered_R = np.array([codes.setdefault(code, len(codes)) for code in problem_R.tolist()], np.int32)
    return renumbered_R, tuple(names[code] for code in codes)


def line_number(file: BinaryIO, offset: int) -> int:
    """Return the number of the line that holds the byte at `offset` of a file, from 1."""
    file.seek(0)
    num_line_ends = 0
    while left := offset - file.tell():
        num_line_ends += file.read(min(left, READ_BYTES)).count(b"\n")
    return num_line_ends + 1
