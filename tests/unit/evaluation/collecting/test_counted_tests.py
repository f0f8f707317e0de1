"""How many tests a program passed, by the judge's own verdicts."""

from collections.abc import Iterator

import pytest

from wmtp_ray.evaluation.collecting.counted_tests import CountedTests, counted_tests
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import JudgeTask, judge_answer
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, StdioTests, Tests

CHECK = FunctionTests(
    "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(\n        2\n    ) == 3, 'two'\n"
    "    assert candidate(3) == 4\n",
    "f",
)
ASSERTS = AssertTests(("assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"), "", "f")
STDIO = StdioTests((("1\n", "1"), ("2\n", "2"), ("3\n", "3")), None, None)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge("rlimits", 0.3, 1, isolation_required="rlimits") as judge:
        yield judge


def counted(judge: Judge, tests: Tests, program: str) -> CountedTests:
    return counted_tests(tests, judge_answer(judge, JudgeTask("p", 0, program, tests)))


def up_to(last: int, otherwise: str = "return 0") -> str:
    return f"def f(a):\n    if a <= {last}:\n        return a + 1\n    {otherwise}\n"


@pytest.mark.parametrize("tests", [CHECK, ASSERTS], ids=["check", "asserts"])
def test_asserts_before_the_first_that_fails_are_passed(judge: Judge, tests: Tests) -> None:
    assert [counted(judge, tests, up_to(last)).num_passed for last in range(4)] == [0, 1, 2, 3]
    assert counted(judge, tests, up_to(3)).num_tests == 3


def test_a_program_cannot_say_which_line_failed(judge: Judge) -> None:
    forged = up_to(1, "raise ValueError(' at line 6 of the tests: assert True')")
    assert counted(judge, CHECK, forged) == CountedTests(1, 3)


def test_a_time_out_and_a_missing_function_tell_no_number(judge: Judge) -> None:
    assert counted(judge, CHECK, "def f(a):\n    while True:\n        pass\n") == CountedTests(None, 3)
    assert counted(judge, CHECK, "def g(a):\n    return a\n") == CountedTests(None, 3)


def test_inputs_are_all_tried_until_a_time_out(judge: Judge) -> None:
    assert counted(judge, STDIO, "n = input()\nprint(0 if n == '1' else n)") == CountedTests(2, 3)
    assert counted(judge, STDIO, "n = input()\nwhile n != '1':\n    pass\nprint(n)") == CountedTests(1, 3)


@pytest.mark.parametrize(
    "source",
    [
        "def check(candidate):\n    for a in range(3):\n        assert candidate(a) == a + 1\n",
        "def same(a, b):\n    assert a == b\ndef check(candidate):\n    same(candidate(1), 2)\n",
        "def check(candidate):\n    assert candidate(1) == 2\n    print('on')\n",
    ],
)
def test_tests_that_are_not_one_behind_the_other_are_not_counted(judge: Judge, source: str) -> None:
    assert counted(judge, FunctionTests(source, "f"), up_to(9)) == CountedTests(None, None)


def test_a_suite_that_decides_instead_of_the_asserts_is_not_counted(judge: Judge) -> None:
    tests = AssertTests(("assert f(1) == 2",), "", "f", "assert f(1) == 2\nassert f(2) == 3\n")
    assert counted(judge, tests, up_to(9)) == CountedTests(None, None)
