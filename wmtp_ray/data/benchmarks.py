"""MBPP and HumanEval, in the forms they are published in, as one type of problem; MBPP's train ids also as rows.

Runs nothing: judging is `evaluation/judge`. The two differ in what a problem asks for, and `tests` differ with it:

    HumanEval  `prompt` is the head of a function that the answer continues; one test, which defines check(candidate)
    MBPP       `prompt` is words; the answer is a program; each test is an assert that calls `entry_point` by name
    MBPP+      MBPP with `suite`, which decides instead of the asserts; HumanEval+ has HumanEval's keys

A file is known by ALL its keys (`SHAPES`): EvalPlus' files have the keys of their origin and more, and judged without
those they would pass wrong programs.
Of MBPP's ids (Austin et al. 2021, section 2.1) 1-10 are for prompts, 11-510 test, 511-600 validation, 601-974 train.
"""

import ast
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.data.json_lines import json_array, json_lines, named
from wmtp_ray.data.kept_rows import LANGUAGES
from wmtp_ray.data.rows import Row
from wmtp_ray.errors import DataError

Split = Literal["prompt", "test", "valid", "train"]
Record = dict[str, Any]  # a JSON object
Shape = Literal["HumanEval", "MBPP", "sanitized MBPP", "MBPP+", "converted", "CodeContests"]


@dataclass(frozen=True)
class Keys:
    """The keys that every record of a shape has, and those that it may have too."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()


def _keys(required: str, optional: str = "") -> Keys:
    return Keys(frozenset(required.split()), frozenset(optional.split()))


SHAPES: dict[Shape, Keys] = {
    "HumanEval": _keys("task_id prompt entry_point canonical_solution test", "difficulty"),
    "MBPP": _keys("task_id text code test_list test_setup_code", "challenge_test_list"),
    "sanitized MBPP": _keys("task_id prompt code test_list test_imports", "source_file"),
    "MBPP+": _keys("task_id prompt code test_list test_imports test", "source_file"),
    "converted": _keys("task_id prompt entry_point tests setup_code reference split", "suite"),
    "CodeContests": _keys(
        "name description public_tests private_tests generated_tests time_limit_s memory_limit_bytes input_file "
        "output_file",
        "contest difficulty cf_rating is_description_translated",
    ),
}
_PUBLISHED: tuple[Shape, ...] = ("HumanEval", "MBPP", "sanitized MBPP", "MBPP+")
_TEXTS = ("prompt", "text", "entry_point", "canonical_solution", "code", "test", "test_setup_code")
_LISTS_OF_TEXTS = ("test_list", "test_imports")
_RAW_EVALPLUS = frozenset({"base_input", "plus_input"})


@dataclass(frozen=True)
class BenchmarkProblem:
    """A problem with its tests; `reference` is a whole program that passes them.

    `setup_code` belongs AFTER the program and before the tests: it may use what the program defines. `entry_point` is
    the function under test, None where the tests do not single one out. `suite` is the source of more tests, which
    decide instead of `tests`; "" for none.
    """

    task_id: str
    prompt: str
    entry_point: str | None
    tests: tuple[str, ...]
    setup_code: str
    reference: str
    split: Split
    suite: str = ""


def read_mbpp(paths: Iterable[Path]) -> list[BenchmarkProblem]:
    """Read MBPP, full or sanitized, or MBPP+ in the order of its ids; task_id "mbpp_<id>".

    Line ends become LF, which Python's own reader would make of them. Raises DataError for a foreign or torn file.
    """
    problems = {}
    for path, record, where in _records(paths, ("MBPP", "sanitized MBPP", "MBPP+")):
        try:
            number = _mbpp_number(record["task_id"])
            problems[number] = _mbpp_problem(record, number, where)
        except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
            raise _foreign(path, record, error) from error
    return [problems[number] for number in sorted(problems)]


def read_humaneval(paths: Iterable[Path]) -> list[BenchmarkProblem]:
    """Read HumanEval or HumanEval+ in the order of its file; prompts keep the newline they end with.

    Raises DataError.
    """
    problems = []
    for path, record, where in _records(paths, ("HumanEval",)):
        try:
            problems.append(_humaneval_problem(record, where))
        except (KeyError, TypeError, AttributeError) as error:
            raise _foreign(path, record, error) from error
    return problems


def training_rows(problems: Iterable[BenchmarkProblem]) -> list[Row]:
    """MBPP's train split as rows: the reference, and the first test, which names the function; other ids give none."""
    return [
        Row(
            instruction=problem.prompt,
            input=f"Your code should pass this test:\n{problem.tests[0]}",
            output=problem.reference,
            task_id=f"{problem.task_id}_correct_0",
            is_correct=True,
            source="mbpp",
            difficulty=0,
            has_tests=True,
            language=LANGUAGES["python3"],
            cf_rating=0,
            contest="",
        )
        for problem in problems
        if problem.split == "train"
    ]


def problem_line(problem: BenchmarkProblem) -> bytes:
    """Encode a problem as a line of JSON without its line end."""
    return orjson.dumps(problem)


def _mbpp_number(task_id: object) -> int:
    """Return 11 for 11 and for "Mbpp/11"."""
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        return task_id
    found = re.fullmatch(r"(?i:mbpp/)?(\d+)", str(task_id))
    if found is None:
        raise ValueError(f"the task_id {task_id!r}")
    return int(found[1])


def _mbpp_problem(record: Record, number: int, where: str) -> BenchmarkProblem:
    is_full = "text" in record
    setup = record["test_setup_code"] if is_full else "\n".join(record["test_imports"])
    reference = _unix(record["code"])
    tests = tuple(_unix(test) for test in record["test_list"])
    suite = _unix(record.get("test", ""))
    if not tests or not all(map(str.strip, tests)) or ("test" in record and not suite.strip()):
        raise without_tests(where, record["task_id"])
    return BenchmarkProblem(
        task_id=f"mbpp_{number}",
        prompt=_unix(record["text" if is_full else "prompt"]),
        entry_point=_function_under_test(reference, tests),
        tests=tests,
        setup_code=_unix(setup),
        reference=reference,
        split="test" if suite else _mbpp_split(number),  # EvalPlus publishes one set, of ids of every split
        suite=suite,
    )


def _humaneval_problem(record: Record, where: str) -> BenchmarkProblem:
    if not tests_its_argument(record["test"]):
        raise without_tests(where, record["task_id"])
    return BenchmarkProblem(
        task_id=str(record["task_id"]),
        prompt=record["prompt"],
        entry_point=record["entry_point"],
        tests=(record["test"],),
        setup_code="",
        reference=record["prompt"] + record["canonical_solution"],
        split="test",
    )


def _mbpp_split(number: int) -> Split:
    if number <= 10:
        return "prompt"
    if number <= 510:
        return "test"
    return "valid" if number <= 600 else "train"


def _function_under_test(reference: str, tests: Sequence[str]) -> str | None:
    """The one function of the reference that every test calls, None if there are none or several."""
    defined = {node.name for node in ast.parse(reference).body if isinstance(node, ast.FunctionDef)}
    for test in tests:
        calls = (node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call))
        defined &= {function.id for function in calls if isinstance(function, ast.Name)}
    return defined.pop() if len(defined) == 1 else None


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shape_of(record: object, where: str) -> Shape:
    """Return the shape of a record, recognised by all its keys; DataError names the keys found and the known shapes."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: found {named(record)}, expected an object with the keys of a benchmark's problem")
    found = frozenset(record)
    if found >= _RAW_EVALPLUS:
        raise DataError(
            f"{where}: found EvalPlus' own file (base_input, plus_input), whose expected results EvalPlus computes, "
            "expected tests; give the data set with its `test` column (evalplus/humanevalplus, evalplus/mbppplus, or "
            "HumanEvalPlus-OriginFmt)"
        )
    for shape, keys in SHAPES.items():
        if keys.required <= found <= keys.required | keys.optional:
            if shape in _PUBLISHED:
                _require_texts(record, where)
            return shape
    raise DataError(f"{where}: found the keys {sorted(found)}{_nearest(found)}; {_HOW_KNOWN}")


def _require_texts(record: Record, where: str) -> None:
    """Refuse a null, and any other value that is no text where the published files have one; `task_id` may count."""
    wrong = [key for key in _TEXTS if key in record and not isinstance(record[key], str)]
    wrong += [key for key in _LISTS_OF_TEXTS if key in record and not _are_texts(record[key])]
    wrong += ["task_id"] if type(record["task_id"]) not in (str, int) or record["task_id"] == "" else []
    if wrong:
        found = ", ".join(f"{named(record[key])} in {key}" for key in wrong)
        raise DataError(
            f"{where}: found {found} of the problem {record['task_id']!r}, expected text; leave the problem out, or "
            "give the file as it is published"
        )


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


_HOW_KNOWN = (
    "expected problems with tests: HumanEval(+) or MBPP(+) as published, or a *problems.jsonl of "
    "scripts/setup_datasets.py, which are known by all their keys; rows for training have no tests"
)


def _nearest(found: frozenset[str]) -> str:
    """Describe how a record differs from the shape that it shares most keys with."""
    shape, keys = max(SHAPES.items(), key=lambda item: len(item[1].required & found) / len(item[1].required | found))
    if not keys.required & found:
        return ""
    lacks, more = sorted(keys.required - found), sorted(found - keys.required - keys.optional)
    parts = [f"{word} {', '.join(names)}" for word, names in (("without", lacks), ("with", more)) if names]
    return f" ({shape} {' and '.join(parts)})"


def tests_its_argument(source: str) -> bool:
    """Whether source defines a `check(candidate)` that uses its candidate: another one passes any program."""
    head = re.search(r"^def\s+check\(\s*(\w+)", source, re.MULTILINE)
    return head is not None and re.search(rf"\b{head[1]}\b", source[head.end() :]) is not None


def without_tests(where: str, task_id: object) -> DataError:
    """Return the error for a problem that any program would pass."""
    return DataError(
        f"{where}: found the problem {task_id} without a test, expected asserts, or source that defines "
        "check(candidate): any program would pass; leave the problem out, or give its tests"
    )


def _foreign(path: Path, record: Record, error: Exception) -> DataError:
    return DataError(
        f"{path}: found a record that cannot be read ({type(error).__name__}: {error}) with the keys {sorted(record)}, "
        "expected those of the benchmark as it is published; check that this is its file"
    )


def _records(paths: Iterable[Path], shapes: Sequence[Shape]) -> list[tuple[Path, Record, str]]:
    found = []
    for path in paths:
        for where, record in read_records(path):
            shape = shape_of(record, where)
            if shape not in shapes:
                raise DataError(f"{where}: found a record of {shape}, expected {' or '.join(shapes)}; give that file")
            found.append((path, record, where))
    return found


def read_records(path: Path) -> list[tuple[str, Any]]:
    """Read .jsonl, .jsonl.gz, .json or .parquet: each value with where it stands; DataError for anything else."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error, "copy it again if it is torn") from error
    if path.suffix == ".parquet":
        try:
            values = pq.read_table(io.BytesIO(content)).to_pylist()
        except pa.ArrowException as error:
            raise _unreadable(
                path, error, "copy it again if it is torn, or give it the suffix of what it is"
            ) from error
        return [(f"{path}: row {number}", value) for number, value in enumerate(values, start=1)]
    if path.suffix == ".json":
        values = json_array(content, path)
        return [(f"{path}: record {number}", value) for number, value in enumerate(values, start=1)]
    return [(f"{path}:{number}", value) for number, value in json_lines(content, path)]


def _unreadable(path: Path, error: Exception, remedy: str) -> DataError:
    return DataError(
        f"{path}: cannot be read ({error}), expected a benchmark as .jsonl, .jsonl.gz, .json or .parquet; {remedy}"
    )
