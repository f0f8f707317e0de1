"""How many of its tests a program passed, as far as a verdict tells. Runs nothing.

| tests | of how many | passed, where not all |
|---|---|---|
| inputs and outputs | all inputs | those that passed; after a time-out none is tried |
| asserts one behind the other | all asserts | those before the first that failed: nothing is run behind it |
| any other code (loops, helpers with asserts) | unknown | unknown |

The first failing assert is known by its line, which the judge's own process writes at the end of the verdict's detail.
"""

import ast
import re
from dataclasses import dataclass

from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, StdioTests, Tests
from wmtp_ray.evaluation.python_source import parse

_FAILED_LINE = re.compile(r" at line (\d+) of the tests: ")
_PLAIN = (ast.Assert, ast.Assign, ast.AnnAssign, ast.Pass)


@dataclass(frozen=True)
class CountedTests:
    """None is unknown."""

    num_passed: int | None
    num_tests: int | None


def counted_tests(tests: Tests, judgement: Judgement) -> CountedTests:
    """Return how many of its tests an answer passed, and of how many."""
    if isinstance(tests, StdioTests):
        total = len(tests.cases)
        passed = None if judgement.passed_frac is None else round(judgement.passed_frac * total)
        return CountedTests(passed, total)
    asserts = _asserts_of(tests)
    if asserts is None:
        return CountedTests(None, None)
    if judgement.status == "pass":
        return CountedTests(len(asserts), len(asserts))
    failed = _FAILED_LINE.findall(judgement.detail)
    if judgement.status != "fail" or not failed:
        return CountedTests(None, len(asserts))
    line = int(failed[-1])  # what stands before it may quote the program
    reached = [number for number, (first, last) in enumerate(asserts) if first <= line <= last]
    return CountedTests(reached[0] if reached else None, len(asserts))


def _asserts_of(tests: FunctionTests | AssertTests) -> list[tuple[int, int]] | None:
    """Return the first and last lines of the asserts, None where other code decides too."""
    if isinstance(tests, AssertTests):
        if tests.suite or tests.setup_code.strip():  # a line of the setup code cannot be told from one of the asserts
            return None
        tree = parse("\n".join(tests.asserts))
        return None if tree is None else _plain_asserts(tree.body, tree)
    tree = parse(tests.source)
    checks = [] if tree is None else [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    if tree is None or len(checks) != 1 or checks[0].name != "check":
        return None
    return _plain_asserts(checks[0].body, tree)


def _plain_asserts(body: list[ast.stmt], tree: ast.Module) -> list[tuple[int, int]] | None:
    found = [(each.lineno, each.end_lineno or each.lineno) for each in body if isinstance(each, ast.Assert)]
    num_anywhere = sum(isinstance(each, ast.Assert) for each in ast.walk(tree))
    is_plain = all(isinstance(each, _PLAIN) or _is_text(each) for each in body)
    return found if found and is_plain and len(found) == num_anywhere else None


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
