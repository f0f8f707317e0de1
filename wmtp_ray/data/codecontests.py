"""deepmind/code_contests as the hub serves it (Parquet), read problem by problem, to rows and evaluation problems.

Decides nothing about lengths or languages (`kept_rows.py`) and writes no file. What a null of a record means is in
`codecontests_record.py`. `difficulty` is the data set's own code and no scale (see `rows.py`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.data.codecontests_record import Problem, Solution, StdioTest, decode_problem
from wmtp_ray.data.rows import Row
from wmtp_ray.errors import DataError

__all__ = [
    "DATASET",
    "LICENCE",
    "Problem",
    "Solution",
    "StdioTest",
    "num_row_groups",
    "problem_line",
    "read_names",
    "read_problems",
    "rows_of",
    "shown_tests",
    "unique_names",
]

DATASET = "deepmind/code_contests"
SOURCE = "code_contests"
LICENCE = "CC BY 4.0"
PUBLIC_TESTS_SHOWN = 2

# A row group holds hundreds of problems and more than a gigabyte: pages are read through a buffer of this size and a
# few problems are decoded at a time, whatever the size of the group.
_READ_BYTES = 1 << 20
_PROBLEMS_AT_ONCE = 4

_TESTS = pa.struct([("input", pa.list_(pa.string())), ("output", pa.list_(pa.string()))])
_SOLUTIONS = pa.struct([("language", pa.list_(pa.int64())), ("solution", pa.list_(pa.string()))])
COLUMNS = pa.schema(
    [
        ("name", pa.string()),
        ("description", pa.string()),
        ("public_tests", _TESTS),
        ("private_tests", _TESTS),
        ("generated_tests", _TESTS),
        ("source", pa.int64()),
        ("difficulty", pa.int64()),
        ("solutions", _SOLUTIONS),
        ("incorrect_solutions", _SOLUTIONS),
        ("cf_rating", pa.int64()),
        ("is_description_translated", pa.bool_()),
        ("time_limit", pa.struct([("seconds", pa.int64()), ("nanos", pa.int64())])),
        ("memory_limit_bytes", pa.int64()),
        ("input_file", pa.string()),
        ("output_file", pa.string()),
    ]
)


def num_row_groups(path: Path) -> int:
    """Count the row groups of a source file; raises DataError when it is none or lacks columns, without reading it."""
    with _opened(path) as file:
        _check_columns(path, file.schema_arrow)
        return int(file.num_row_groups)


def read_problems(path: Path, row_group: int) -> Iterator[Problem]:
    """Read one row group in order, a few problems in memory at a time.

    Raises DataError for a torn or foreign file, and for a record that cannot be a problem (`codecontests_record.py`).
    """
    with _opened(path) as file:
        _check_columns(path, file.schema_arrow)
        batches = file.iter_batches(_PROBLEMS_AT_ONCE, row_groups=[row_group], columns=COLUMNS.names, use_threads=False)
        number = 0
        try:
            for batch in batches:
                for row in range(batch.num_rows):
                    place = f"{path}: problem {number} of row group {row_group}, counted from 0"
                    yield decode_problem(batch.slice(row, 1).to_pylist()[0], place)
                    number += 1
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: problem {number} of row group {row_group}: found text that is not UTF-8 ({error}), expected "
                "UTF-8; fix the record or leave it out"
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def read_names(path: Path, row_group: int) -> list[str | None]:
    """Read the names of a row group's problems alone; None where one is null or no UTF-8, `read_problems` says so."""
    with _opened(path) as file:
        try:
            column = file.read_row_group(row_group, columns=["name"], use_threads=False)["name"]
            return [None if name is None else str(name) for name in column.to_pylist()]
        except UnicodeDecodeError:
            return [None] * int(file.metadata.row_group(row_group).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def unique_names(names: Iterable[str | None]) -> list[str | None]:
    """Number repeated names, since two sites may use the same name: a, b, a -> a, b, "a (2)".

    Rows are told apart by the names of their problems, so two problems of one name would become one.
    """
    given = list(names)
    taken, unique = {name for name in given if name is not None}, list[str | None]()
    seen: set[str | None] = set()
    for name in given:
        new, number = name, 2
        while name is not None and (new in seen or (new != name and new in taken)):
            new, number = f"{name} ({number})", number + 1
        seen.add(new)
        unique.append(new)
    return unique


def rows_of(problem: Problem) -> Iterator[Row]:
    """Yield every solution as a row, in every language: the correct ones, then the incorrect ones.

    The number in a task_id counts all solutions of its kind, also those that are not kept: with C++, Python 3 and
    Python 2 as the correct solutions of "p", the Python rows are "p_correct_1" and "p_correct_2" whoever else is kept.
    """
    shown = shown_tests(problem.public_tests)
    has_tests = bool(problem.public_tests or problem.private_tests or problem.generated_tests)
    for kind, solutions in (("correct", problem.solutions), ("incorrect", problem.incorrect_solutions)):
        for number, solution in enumerate(solutions):
            yield Row(
                instruction=problem.description,
                input=shown,
                output=solution.program,
                task_id=f"{problem.name}_{kind}_{number}",
                is_correct=kind == "correct",
                source=SOURCE,
                difficulty=problem.difficulty,
                has_tests=has_tests,
                language=solution.language,
                cf_rating=problem.cf_rating,
                contest=problem.contest,
            )


def shown_tests(tests: tuple[StdioTest, ...]) -> str:
    """The first two tests as a row shows them, "" without any.

    ("1 2\\n", "3\\n") and ("4 5\\n", "9\\n") -> "Input: 1 2\\n\\nOutput: 3\\n\\n\\nInput: 4 5\\n\\nOutput: 9\\n"
    """
    return "\n\n".join(f"Input: {test.input}\nOutput: {test.output}" for test in tests[:PUBLIC_TESTS_SHOWN])


def problem_line(problem: Problem) -> bytes:
    """Encode what an evaluation needs of a problem: all tests and limits, no solutions; unknown is null."""
    record = {
        "name": problem.name,
        "description": problem.description,
        "public_tests": problem.public_tests,
        "private_tests": problem.private_tests,
        "generated_tests": problem.generated_tests,
        "time_limit_s": problem.time_limit_s,
        "memory_limit_bytes": problem.memory_limit_bytes,
        "difficulty": problem.difficulty,
        "cf_rating": problem.cf_rating or None,
        "contest": problem.contest or None,
        "input_file": problem.input_file,
        "output_file": problem.output_file,
        "is_description_translated": problem.is_description_translated,
    }
    return orjson.dumps(record)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: found a torn or foreign file ({error}), expected a Parquet file of {DATASET}; download it again (a "
        "Git LFS pointer is a common cause)"
    )


def _check_columns(path: Path, found: pa.Schema) -> None:
    wrong = [
        f"{column.name} ({found.field(column.name).type if column.name in found.names else 'absent'}, expected "
        f"{column.type})"
        for column in COLUMNS
        if column.name not in found.names or not _same_shape(found.field(column.name).type, column.type)
    ]
    if wrong:
        raise DataError(
            f"{path}: found no or other columns: {'; '.join(wrong)}; expected the columns of {DATASET} as the hub "
            "serves them; check that --source is that data set"
        )


def _same_shape(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether the types hold the same values; widths of integers and offsets may differ."""
    if pa.types.is_struct(expected):
        return pa.types.is_struct(found) and all(
            found.get_field_index(field.name) >= 0 and _same_shape(found.field(field.name).type, field.type)
            for field in expected
        )
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _same_shape(found.value_type, expected.value_type)
    kinds = (pa.types.is_boolean, pa.types.is_integer, _is_text)
    return any(is_kind(found) and is_kind(expected) for is_kind in kinds)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
