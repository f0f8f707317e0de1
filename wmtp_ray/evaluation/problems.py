"""Problems with their tests, of any file that an evaluation can be given, as one type. Judges and prompts nothing.

| kind | known by | what is asked | tests |
|---|---|---|---|
| humaneval | HumanEval's keys, `prompt` is the head of `entry_point` | what follows it | check(candidate) |
| mbpp | MBPP's keys: tests are asserts | a program | asserts; of MBPP+ its `test` |
| codecontests | the keys of a converted contest | a program | inputs and outputs |
| instruction | as humaneval, but `prompt` is words | a program | check(candidate) |

Files as they are published and as `scripts/setup_datasets.py` writes them are both read, and those of the generated
list problems. A file is known by all its keys (`data/benchmarks.py`), in every record the same. Of MBPP only its test
split (ids 11 to 510) is evaluated where the file has it, of MBPP+ everything.
"""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.data.benchmarks import (
    BenchmarkProblem,
    Shape,
    Split,
    read_humaneval,
    read_mbpp,
    read_records,
    shape_of,
    tests_its_argument,
    without_tests,
)
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
    """Assert statements on the program's names; `setup_code` belongs behind the program, as in MBPP.

    `suite` is the source of MBPP+'s tests, which decide instead of the asserts; "" for none.
    """

    asserts: tuple[str, ...]
    setup_code: str
    entry_point: str | None
    suite: str = ""

    @property
    def deciding(self) -> tuple[str, ...]:
        """Return the tests that are run."""
        return (self.suite,) if self.suite else self.asserts


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

    `left_out` says which problems of the file are not evaluated, and why; `num_all` is the number of `problems` before
    some were chosen (`only`), None where none were.
    """

    path: Path
    sha256: str
    kind: ProblemKind
    problems: tuple[Problem, ...]
    examples: tuple[Problem, ...]
    left_out: tuple[str, ...]
    num_all: int | None = None

    @property
    def size(self) -> int:
        """How many problems there are to choose from."""
        return self.num_all or len(self.problems)

    def only(self, task_ids: Container[str]) -> "ProblemSet":
        """Return the set with these problems alone."""
        kept = tuple(problem for problem in self.problems if problem.task_id in task_ids)
        return replace(self, problems=kept, num_all=self.size)

    def first(self, limit: int | None) -> tuple[Problem, ...]:
        """Return the first `limit` problems, or all."""
        return self.problems[:limit]


def read_problems(path: Path, split: Split = "test") -> ProblemSet:
    """Read .jsonl, .jsonl.gz, .json or .parquet; raises DataError for what holds no problems with tests.

    Of MBPP the problems of `split`: those of the test split where the file has it, those of another one or DataError.
    """
    records = read_records(path)
    if not records:
        raise DataError(f"{path}: found no record, expected problems with tests; the file is empty")
    shapes: dict[Shape, str] = {}
    for where, record in records:
        shapes.setdefault(shape_of(record, where), where)
    if len(shapes) > 1:
        found = ", ".join(f"{shape} at {where}" for shape, where in shapes.items())
        raise DataError(f"{path}: found records of several kinds ({found}), expected one; split the file")
    [shape] = shapes
    try:
        if shape == "CodeContests":
            return _contest_set(path, [record for _, record in records])
        if shape == "converted":
            return _benchmark_set(path, [_converted(record, where) for where, record in records], split)
        return _benchmark_set(path, read_humaneval([path]) if shape == "HumanEval" else read_mbpp([path]), split)
    except (KeyError, TypeError) as error:
        raise _foreign(path, f"a record without {error}") from error


def _foreign(path: Path, found: str) -> DataError:
    return DataError(f"{path}: found {found}, expected problems with tests; check that this is the file of a benchmark")


def _converted(record: dict[str, Any], where: str) -> BenchmarkProblem:
    tests = record["tests"]
    if not tests or any("def check(" in each and not tests_its_argument(each) for each in tests):
        raise without_tests(where, record["task_id"])
    return BenchmarkProblem(**record | {"tests": tuple(record["tests"])})


def _benchmark_set(path: Path, found: list[BenchmarkProblem], split: Split) -> ProblemSet:
    _require_different_ids(path, [each.task_id for each in found])
    checks = [bool(re.search(r"^def\s+check\(", each.tests[0], re.MULTILINE)) for each in found]
    if any(checks):
        heads = [bool(re.search(rf"\bdef\s+{re.escape(each.entry_point or '')}\b", each.prompt)) for each in found]
        for name, has in (("check(candidate)", checks), ("the head of a function as its prompt", heads)):
            if any(has) and not all(has):
                odd = found[has.index(False)].task_id
                raise DataError(
                    f"{path}: found {odd} without {name} beside problems with it, expected one kind of problems; split "
                    "the file"
                )
        kind: ProblemKind = "humaneval" if heads[0] else "instruction"
        problems = tuple(_function_problem(each, kind) for each in found)
        return ProblemSet(path, file_sha256(path), kind, problems, (), ())
    problems = tuple(_assert_problem(each) for each in found)
    examples = tuple(problem for problem in problems if problem.task_id in MBPP_EXAMPLES)
    chosen = tuple(problem for problem, each in zip(problems, found, strict=True) if each.split == split)
    if not chosen and split != "test":
        raise DataError(
            f"{path}: found no problem of MBPP's {split} split among {len(problems)}, expected some; give the file "
            "that has them (`python scripts/setup_datasets.py mbpp --help`)"
        )
    left_out = (f"{len(problems) - len(chosen)} problems of other splits than {split}",) if chosen != problems else ()
    return ProblemSet(path, file_sha256(path), "mbpp", chosen or problems, examples, left_out if chosen else ())


def _require_different_ids(path: Path, task_ids: list[str]) -> None:
    if len(set(task_ids)) < len(task_ids):
        twice = next(task_id for task_id in task_ids if task_ids.count(task_id) > 1)
        raise DataError(f"{path}: found {twice} more than once, expected every task_id once; leave out the others")


def _function_problem(problem: BenchmarkProblem, kind: ProblemKind) -> Problem:
    """HumanEval's, whose reference begins with the prompt; a prompt in words is no part of a program."""
    assert problem.entry_point is not None, "HumanEval names the function of every problem"
    tests = FunctionTests("\n".join(problem.tests), problem.entry_point)
    reference = problem.reference if kind == "humaneval" else problem.reference.removeprefix(problem.prompt)
    return Problem(problem.task_id, problem.prompt, "", tests, reference)


def _assert_problem(problem: BenchmarkProblem) -> Problem:
    """MBPP's; what is shown is what `benchmarks.training_rows` shows."""
    return Problem(
        task_id=problem.task_id.replace("mbpp_", "Mbpp/"),
        prompt=problem.prompt,
        shown=f"Your code should pass this test:\n{problem.tests[0]}",
        tests=AssertTests(problem.tests, problem.setup_code, problem.entry_point, problem.suite),
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
    _require_different_ids(path, [problem.task_id for problem in problems])
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
