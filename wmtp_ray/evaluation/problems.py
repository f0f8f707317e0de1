"""Problems with their tests, of any file that an evaluation can be given, as one type. Judges and prompts nothing.

| kind | known by | what is asked | tests |
|---|---|---|---|
| humaneval | `prompt` is the head of the function `entry_point` | what follows it | check(candidate) |
| mbpp | tests are asserts | a program | asserts |
| codecontests | `description`, `public_tests` | a program | inputs and outputs |
| instruction | as humaneval, but `prompt` is words | a program | check(candidate) |

Files as they are published and as `scripts/setup_datasets.py` writes them are both read, and those of the generated
list problems. Of MBPP only its test split (ids 11 to 510) is evaluated where the file has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.data.benchmarks import BenchmarkProblem, read_humaneval, read_mbpp, read_records
from wmtp_ray.data.codecontests import StdioTest, shown_tests
from wmtp_ray.errors import DataError

MBPP_EXAMPLES = ("Mbpp/2", "Mbpp/3", "Mbpp/4")  # Austin et al. 2021 prompt with these


@dataclass(frozen=True)
class FunctionTests:
    """Source that defines check(candidate), as HumanEval's."""

    source: str
    entry_point: str


@dataclass(frozen=True)
class AssertTests:
    """Assert statements on the program's names; `setup_code` belongs behind the program, as in MBPP."""

    asserts: tuple[str, ...]
    setup_code: str
    entry_point: str | None


@dataclass(frozen=True)
class StdioTests:
    """(stdin, expected stdout) pairs; a limit is None where the problem has none."""

    cases: tuple[tuple[str, str], ...]
    time_limit_s: float | None
    memory_limit_bytes: int | None


Tests = FunctionTests | AssertTests | StdioTests


@dataclass(frozen=True)
class Problem:
    """What is asked and how the answer is judged.

    `task_id` is the one that other harnesses know ("HumanEval/0", "Mbpp/11"). `prompt` is the head of a function for
    kind humaneval, else words. `shown` are the tests that training rows of this data set show, "" for none;
    `reference` is a whole program that passes, "" where the file has none.
    """

    task_id: str
    prompt: str
    shown: str
    tests: Tests
    reference: str


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a file in its order. `examples` are worked problems that may stand in a prompt.

    `left_out` says which problems of the file are not evaluated, and why.
    """

    path: Path
    sha256: str
    kind: ProblemKind
    problems: tuple[Problem, ...]
    examples: tuple[Problem, ...]
    left_out: tuple[str, ...]

    def first(self, limit: int | None) -> tuple[Problem, ...]:
        """Return the first `limit` problems, or all."""
        return self.problems[:limit]


def read_problems(path: Path) -> ProblemSet:
    """Read .jsonl, .jsonl.gz, .json or .parquet; raises DataError for what holds no problems with tests."""
    records = read_records(path)
    known = set(records[0]) if records and isinstance(records[0], dict) else set()
    try:
        if {"description", "public_tests"} <= known:
            return _contest_set(path, records)
        if {"tests", "setup_code"} <= known:
            return _benchmark_set(path, [_converted(record) for record in records])
        if {"test", "entry_point"} <= known:
            return _benchmark_set(path, read_humaneval([path]))
        if "test_list" in known:
            return _benchmark_set(path, read_mbpp([path]))
    except (KeyError, TypeError) as error:
        raise _foreign(path, f"a record without {error}") from error
    raise _foreign(path, f"the keys {sorted(known)}" if known else "no record")


def _foreign(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: found {found}, expected problems with tests: HumanEval or MBPP as published, or a *problems.jsonl of "
        "scripts/setup_datasets.py; rows for training have none"
    )


def _converted(record: dict[str, Any]) -> BenchmarkProblem:
    return BenchmarkProblem(**record | {"tests": tuple(record["tests"])})


def _benchmark_set(path: Path, found: list[BenchmarkProblem]) -> ProblemSet:
    if "def check(" in found[0].tests[0]:
        is_head = f"def {found[0].entry_point}(" in found[0].prompt
        problems = tuple(_function_problem(each) for each in found)
        return ProblemSet(path, file_sha256(path), "humaneval" if is_head else "instruction", problems, (), ())
    problems = tuple(_assert_problem(each) for each in found)
    examples = tuple(problem for problem in problems if problem.task_id in MBPP_EXAMPLES)
    tested = tuple(problem for problem, each in zip(problems, found, strict=True) if each.split == "test")
    left_out = (f"{len(problems) - len(tested)} problems of other splits than test",) if tested != problems else ()
    return ProblemSet(path, file_sha256(path), "mbpp", tested or problems, examples, left_out if tested else ())


def _function_problem(problem: BenchmarkProblem) -> Problem:
    assert problem.entry_point is not None, "HumanEval names the function of every problem"
    tests = FunctionTests("\n".join(problem.tests), problem.entry_point)
    return Problem(problem.task_id, problem.prompt, "", tests, problem.reference)


def _assert_problem(problem: BenchmarkProblem) -> Problem:
    """MBPP's; what is shown is what `benchmarks.training_rows` shows."""
    return Problem(
        task_id=problem.task_id.replace("mbpp_", "Mbpp/"),
        prompt=problem.prompt,
        shown=f"Your code should pass this test:\n{problem.tests[0]}",
        tests=AssertTests(problem.tests, problem.setup_code, problem.entry_point),
        reference=problem.reference,
    )


def _contest_set(path: Path, records: Iterable[dict[str, Any]]) -> ProblemSet:
    problems, with_files, without_tests = [], 0, 0
    for record in records:
        problem = _contest_problem(record)
        assert isinstance(problem.tests, StdioTests)
        if record["input_file"] or record["output_file"]:
            with_files += 1
        elif not problem.tests.cases:
            without_tests += 1
        else:
            problems.append(problem)
    counted = {"that read or write files": with_files, "without tests": without_tests}
    left_out = tuple(f"{number} problems {reason}" for reason, number in counted.items() if number)
    if not problems:
        raise _foreign(path, f"nothing to judge: {', '.join(left_out)}")
    return ProblemSet(path, file_sha256(path), "codecontests", tuple(problems), (), left_out)


def _contest_problem(record: dict[str, Any]) -> Problem:
    """All tests count; the first public ones are shown, as in training rows."""
    public, private, generated = (
        [StdioTest(**test) for test in record[f"{name}_tests"]] for name in ("public", "private", "generated")
    )
    cases = tuple((test.input, test.output) for test in (*public, *private, *generated))
    tests = StdioTests(cases, record["time_limit_s"], record["memory_limit_bytes"])
    return Problem(record["name"], record["description"], shown_tests(tuple(public)), tests, "")
