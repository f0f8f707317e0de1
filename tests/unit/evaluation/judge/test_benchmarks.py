"""Reference solutions pass at every level, wrong ones do not: small tasks written here, and the real files."""

import ast
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.judge.conftest import open_judge
from wmtp_ray.evaluation.judge import Judge

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
HUMANEVAL, MBPP = SHARED / "humaneval" / "HumanEval.jsonl.gz", SHARED / "mbpp" / "mbpp.jsonl"
SLOW_MBPP = {123}
LEVELS = ["namespace", "landlock", "rlimits"]
TASKS = [
    ("def add(a, b):\n    return a + b\n", "assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0", "add"),
    ("def rev(s):\n    return s[::1 - 2]\n", "assert candidate('ab') == 'ba'\n    assert candidate('') == ''", "rev"),
    ("def big(xs):\n    return max(xs) + 0\n", "assert candidate([1, 3]) == 3\n    assert candidate([2]) == 2", "big"),
    ("def even(n):\n    return n % 2 == 0\n", "assert candidate(2) is True\n    assert candidate(3) is False", "even"),
]


class Mutation(ast.NodeTransformer):
    """Shifts the first number of a program by one."""

    def __init__(self) -> None:
        self.done = False

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.done or type(node.value) is not int:
            return node
        self.done = True
        return ast.Constant(node.value + 1)


def mutant(program: str) -> str | None:
    """Return the program with its first number changed, or None if it has none."""
    mutation = Mutation()
    tree = ast.fix_missing_locations(mutation.visit(ast.parse(program)))
    return ast.unparse(tree) if mutation.done else None


@pytest.mark.parametrize("level", LEVELS)
def test_references_pass_and_mutants_fail(level):
    with open_judge(level) as judge:
        for program, body, entry_point in TASKS:
            tests = f"def check(candidate):\n    {body}\n"
            assert judge.check_function(program, tests, entry_point).status == "pass"
            changed = mutant(program)
            if changed is not None:
                assert judge.check_function(changed, tests, entry_point).status == "fail"


def human_eval_statuses(judge: Judge, tasks: list[dict[str, Any]], programs: list[str]) -> list[str]:
    def check(task: dict[str, Any], program: str) -> str:
        return judge.check_function(program, task["test"], task["entry_point"], timeout_s=5.0).status

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(check, tasks, programs))


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("level", LEVELS)
def test_every_humaneval_reference_passes(level):
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        tasks = [json.loads(line) for line in file]
    programs = [task["prompt"] + task["canonical_solution"] for task in tasks]
    with open_judge(level) as judge:
        assert set(human_eval_statuses(judge, tasks, programs)) == {"pass"}


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL.exists(), reason="the shared data are not here")
def test_humaneval_prompts_without_a_solution_fail():
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        tasks = [json.loads(line) for line in file]
    with open_judge("landlock") as judge:
        assert set(human_eval_statuses(judge, tasks, [task["prompt"] + "    pass\n" for task in tasks])) == {"fail"}


@pytest.mark.slow
@pytest.mark.skipif(not MBPP.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("level", LEVELS)
def test_every_mbpp_reference_passes(level):
    tasks = [json.loads(line) for line in MBPP.read_text(encoding="utf-8").splitlines()]
    tasks = [task for task in tasks if task["task_id"] not in SLOW_MBPP]

    def check(task: dict[str, Any]) -> str:
        return judge.check_asserts(task["code"], task["test_list"], task["test_setup_code"], timeout_s=10.0).status

    with open_judge(level) as judge, ThreadPoolExecutor(2) as pool:
        statuses = dict(zip([task["task_id"] for task in tasks], pool.map(check, tasks), strict=True))
    assert {number: status for number, status in statuses.items() if status != "pass"} == {}
