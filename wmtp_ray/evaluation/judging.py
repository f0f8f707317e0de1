"""One answer to be judged, and its verdict: the judge's checks behind the three kinds of tests. Starts no judge."""

from dataclasses import dataclass

from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judge.verdict import Status
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, Tests

INFRASTRUCTURE: Status = "error"  # the judge failed, not the program: never counted as wrong


@dataclass(frozen=True)
class JudgeTask:
    """A whole program and the tests that it has to pass; `sample` numbers the answers to a problem from 0.

    `is_empty`: the answer holds nothing but blanks, so that the program is the prompt alone, or nothing.
    """

    task_id: str
    sample: int
    program: str
    tests: Tests
    is_empty: bool = False


@dataclass(frozen=True)
class Judgement:
    """The verdict on an answer. `passed_frac` is the share of tests passed where tests are separate runs, else None."""

    task_id: str
    sample: int
    status: Status
    detail: str
    seconds: float
    passed_frac: float | None


def judge_answer(judge: Judge, task: JudgeTask) -> Judgement:
    """Run the tests; a problem's own time and memory limits come before the judge's."""
    tests = task.tests
    if isinstance(tests, FunctionTests):
        verdict = judge.check_function(task.program, tests.source, tests.entry_point)
    elif isinstance(tests, AssertTests):
        verdict = judge.check_asserts(task.program, tests.deciding, tests.setup_code, entry_point=tests.entry_point)
    else:
        runs = judge.check_stdio_tests(
            task.program, tests.cases, timeout_s=tests.time_limit_s, memory_limit_bytes=tests.memory_limit_bytes
        )
        return Judgement(task.task_id, task.sample, runs.status, runs.detail, runs.seconds, runs.passed_frac)
    return Judgement(task.task_id, task.sample, verdict.status, verdict.detail, verdict.seconds, None)


def not_judged(task: JudgeTask, reason: str) -> Judgement:
    """Return the verdict on an answer whose judge process died."""
    return Judgement(task.task_id, task.sample, INFRASTRUCTURE, reason, 0.0, None)
