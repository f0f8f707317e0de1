"""The problems that results are measured on: none of them may give a row. Known by name, by prompt and by tests.

Names: all of HumanEval, MBPP's ids 1 to 600 (those of its prompts, test and validation), and every problem of the files
of an evaluation but the generated lists, whose numbers begin again with every seed. Prompts and tests: those of these
files, by hashes; neither white space nor case changes that of a prompt.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.data.validation.normal_form import normal_prose
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.problems import (
    AssertTests,
    FunctionTests,
    Problem,
    ProblemSet,
    Tests,
    read_problems,
)

_MBPP = re.compile(r"mbpp[/_](\d+)")
_GENERATED = re.compile(r"list_\d+")
_LAST_HELD_OUT_OF_MBPP = 600
_BESIDE = ("valid_problems.jsonl", "test_problems.jsonl")  # as scripts/setup_datasets.py names other splits
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class EvaluatedProblems:
    """Where each evaluated name, prompt and set of tests is from."""

    names: dict[str, str]
    prompts: dict[str, str]
    tests: dict[str, str]

    @classmethod
    def of(cls, files: Iterable[ProblemSet]) -> "EvaluatedProblems":
        """Return those of some files."""
        every = [(problem, each.path) for each in files for problem in (*each.problems, *each.examples)]
        named = [(name, path) for problem, path in every if not _GENERATED.fullmatch(name := _name(problem.task_id))]
        origins = [(problem, f"{problem.task_id} of {path}") for problem, path in every]
        return cls(
            names={name: str(path) for name, path in named},
            prompts={prompt_hash(problem.prompt): origin for problem, origin in origins},
            tests={tests_hash(problem.tests): origin for problem, origin in origins},
        )

    def reason(self, problem: Problem) -> str | None:
        """Say why a problem is an evaluated one, None for one that is not."""
        name = _name(problem.task_id)
        number = _MBPP.fullmatch(name)
        if name.startswith("humaneval/") or (number and int(number[1]) <= _LAST_HELD_OUT_OF_MBPP):
            return "its name is of a benchmark"
        if name in self.names:
            return f"its name is in {self.names[name]}"
        if (same := self.prompts.get(prompt_hash(problem.prompt))) is not None:
            return f"its prompt is that of {same}"
        same = self.tests.get(tests_hash(problem.tests))
        return None if same is None else f"its tests are those of {same}"


def prompt_hash(prompt: str) -> str:
    """Return the SHA-256 of a prompt, without regard to white space and case."""
    return hashlib.sha256(normal_prose(prompt).casefold().encode("utf-8", "surrogatepass")).hexdigest()


def tests_hash(tests: Tests) -> str:
    """Return the SHA-256 of the tests that decide, without the limits of time and memory."""
    decide: object
    if isinstance(tests, FunctionTests):
        decide = tests.source  # which calls the function by another name
    else:
        decide = tests.deciding if isinstance(tests, AssertTests) else tests.cases
    return hashlib.sha256(repr(decide).encode("utf-8", "surrogatepass")).hexdigest()


def read_evaluated(problems: ProblemSet, files: Iterable[Path]) -> EvaluatedProblems:
    """Read the files of an evaluation that exist, and the held-out splits beside a file of training problems."""
    beside = [problems.path.with_name(name) for name in _BESIDE]
    present = dict.fromkeys(path.absolute() for path in (*files, *beside) if path.is_file())
    return EvaluatedProblems.of(read_problems(path) for path in present)


def require_none_evaluated(problems: ProblemSet, evaluated: EvaluatedProblems) -> None:
    """Raise DataError that names the evaluated problems among training problems."""
    found = [(each.task_id, why) for each in problems.problems if (why := evaluated.reason(each)) is not None]
    if found:
        raise DataError(
            f"{problems.path}: found {len(found)} of {len(problems.problems)} problems that results are measured on "
            f"({_some(found)}), expected training problems alone: a policy that trains on its answers to them is "
            "measured on what it has seen. Give training problems, or leave these out with --on-evaluated skip"
        )


def without_evaluated(problems: ProblemSet, evaluated: EvaluatedProblems) -> tuple[Problem, ...]:
    """Return the problems that no result is measured on; DataError where none is left."""
    kept = tuple(each for each in problems.problems if evaluated.reason(each) is None)
    if not kept:
        require_none_evaluated(problems, evaluated)
    return kept


def _name(task_id: str) -> str:
    """Spell a name in one way: "mbpp_11" and "Mbpp/11" are the same."""
    return re.sub(r"^mbpp_", "mbpp/", task_id.casefold())


def _some(found: Sequence[tuple[str, str]]) -> str:
    more = ", .." if len(found) > _SHOWN else ""
    return "; ".join(f"{task_id}: {why}" for task_id, why in found[:_SHOWN]) + more
