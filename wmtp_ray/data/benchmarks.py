"""MBPP and HumanEval, in the forms they are published in, as one type of problem; MBPP's train ids also as rows.

Runs nothing: judging is `evaluation/judge`. The two differ in what a problem asks for, and `tests` differ with it:

    HumanEval  `prompt` is the head of a function that the answer continues; one test, which defines check(candidate)
    MBPP       `prompt` is words; the answer is a program; each test is an assert that calls `entry_point` by name

Of MBPP's ids (Austin et al. 2021, section 2.1) 1-10 are for prompts, 11-510 test, 511-600 validation, 601-974 train.
"""

import ast
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.data.kept_rows import LANGUAGES
from wmtp_ray.data.rows import Row
from wmtp_ray.errors import DataError

Split = Literal["prompt", "test", "valid", "train"]
Record = dict[str, Any]  # a JSON object
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class BenchmarkProblem:
    """A problem with its tests; `reference` is a whole program that passes them.

    `setup_code` belongs AFTER the program and before the tests: it may use what the program defines. `entry_point` is
    the function under test, None where the tests do not single one out.
    """

    task_id: str
    prompt: str
    entry_point: str | None
    tests: tuple[str, ...]
    setup_code: str
    reference: str
    split: Split


def read_mbpp(paths: Iterable[Path]) -> list[BenchmarkProblem]:
    """Read MBPP, full or sanitized, in the order of its ids; task_id "mbpp_<id>".

    Line ends become LF, which Python's own reader would make of them. Raises DataError for a foreign or torn file.
    """
    problems = {}
    for path, record in _records(paths):
        number, problem = _decoded(_mbpp_problem, record, path)
        problems[number] = problem
    return [problems[number] for number in sorted(problems)]


def read_humaneval(paths: Iterable[Path]) -> list[BenchmarkProblem]:
    """Read HumanEval in the order of its file; prompts keep the newline they end with. Raises DataError."""
    return [_decoded(_humaneval_problem, record, path) for path, record in _records(paths)]


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
    """Spell a problem as a line of JSON without its line end."""
    return orjson.dumps(problem)


def _mbpp_problem(record: Record) -> tuple[int, BenchmarkProblem]:
    number = record["task_id"]
    sanitized = "prompt" in record
    setup = "\n".join(record["test_imports"]) if sanitized else record["test_setup_code"]
    reference = _unix(record["code"])
    tests = tuple(_unix(test) for test in record["test_list"])
    problem = BenchmarkProblem(
        task_id=f"mbpp_{number}",
        prompt=_unix(record["prompt" if sanitized else "text"]),
        entry_point=_function_under_test(reference, tests),
        tests=tests,
        setup_code=_unix(setup),
        reference=reference,
        split=_mbpp_split(number),
    )
    return number, problem


def _humaneval_problem(record: Record) -> BenchmarkProblem:
    return BenchmarkProblem(
        task_id=record["task_id"],
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


def _decoded(decode: Callable[[Record], Decoded], record: Record, path: Path) -> Decoded:
    try:
        return decode(record)
    except (KeyError, TypeError, AttributeError, SyntaxError) as error:
        keys = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(
            f"{path}: found a record that cannot be read ({type(error).__name__}: {error}) with the keys {keys}, "
            "expected those of the benchmark as it is published; check that this is its file"
        ) from error


def _records(paths: Iterable[Path]) -> list[tuple[Path, Record]]:
    return [(path, record) for path in paths for record in read_records(path)]


def read_records(path: Path) -> list[Record]:
    """Read all records of .jsonl, .jsonl.gz, .json or .parquet; DataError for anything else."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if path.suffix == ".parquet":
            return list(pq.read_table(io.BytesIO(content)).to_pylist())
        if path.suffix == ".json":
            return list(orjson.loads(content))
        return [orjson.loads(line) for line in content.splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error, pa.ArrowException, orjson.JSONDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), expected a benchmark as .jsonl, .jsonl.gz, .json or .parquet; "
            "fetch the file again"
        ) from error
