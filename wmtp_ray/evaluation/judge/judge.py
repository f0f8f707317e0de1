"""The judge: runs untrusted programs, and reports whether they pass tests.

The program and its tests run in different processes: the program's never holds a test, an expected value or the channel
of the verdict, so nothing it prints, patches, walks through or exits with can pass it. Plain Python, usable without Ray
and from as many threads as one likes; `num_workers` checks run at once.

    with Judge() as judge:
        verdict = judge.check_function(program, tests, "add")

It does not choose which programs to judge, and computes no Pass@K.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from wmtp_ray.evaluation.judge.gate import Gate
from wmtp_ray.evaluation.judge.isolation import open_worker
from wmtp_ray.evaluation.judge.limits import Limits, limits_for
from wmtp_ray.evaluation.judge.outcome import function_verdict, stdio_verdict
from wmtp_ray.evaluation.judge.tests_job import prepare_tests
from wmtp_ray.evaluation.judge.verdict import BrokenTestsError, StdioVerdict, Verdict, printable
from wmtp_ray.evaluation.judge.worker import RefusedError, RunReport, Worker, ZygoteError

_FAILURES = (ZygoteError, RefusedError, OSError)
_HONEST_TIMEOUT_S = 5.0
_NO_TESTS = "the problem has no tests, which no program can pass or fail"
Run = Callable[[Worker], RunReport]
Interpret = Callable[[RunReport], Verdict]


class Judge:
    """Judges programs at one level of isolation, `isolation_level`.

    `isolation`: auto, namespace, landlock, landlock-weak, seatbelt or rlimits; `isolation_required`: the lowest level
    to accept (None: the level asked for by name, else landlock on Linux and seatbelt on macOS). Raises SandboxError
    before any program runs when the machine gives less.

    `timeout_s` is CPU time; on the wall a program has a quarter more, and time that the machine spends on others does
    not count. A time-out of a check that shared the machine with others of this judge is repeated alone before it
    counts. `memory_limit_bytes` bounds memory in use, `output_limit_bytes` one file or output, `disk_limit_bytes` the
    scratch directory.
    """

    def __init__(
        self,
        isolation: str = "auto",
        timeout_s: float = 2.0,
        num_workers: int = 2,
        *,
        isolation_required: str | None = None,
        memory_limit_bytes: int = 1 << 30,
        output_limit_bytes: int = 64 << 20,
        disk_limit_bytes: int = 64 << 20,
    ) -> None:
        assert num_workers >= 1, num_workers
        self._timeout_s = timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._output_limit_bytes = output_limit_bytes
        self._disk_limit_bytes = disk_limit_bytes
        first, self.isolation_level = open_worker(isolation, isolation_required, disk_limit_bytes)
        self._gate = Gate()
        self._workers: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: one that is not started yet
        for worker in [None] * (num_workers - 1) + [first]:
            self._workers.put(worker)
        self._num_workers = num_workers
        self._closing = threading.Lock()

    def check_function(
        self,
        program: str,
        tests: str,
        entry_point: str,
        *,
        timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
    ) -> Verdict:
        """Call the tests' check(candidate) with the program's `entry_point`, as HumanEval does."""
        limits = self._limits(timeout_s, memory_limit_bytes)
        return self._check_calls(program, (tests,), entry_point, call_check=True, limits=limits)

    def check_asserts(
        self,
        program: str,
        asserts: Sequence[str],
        setup_code: str = "",
        *,
        entry_point: str | None = None,
        timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
    ) -> Verdict:
        """Run assert statements on the program's names, as MBPP does; `setup_code` comes after the program.

        `entry_point` is needed only for a function that is called like a builtin beside other names of the program.
        """
        if not asserts:
            return Verdict("error", _NO_TESTS, 0.0)
        limits = self._limits(timeout_s, memory_limit_bytes)
        sections = (setup_code, "\n".join(asserts))
        return self._check_calls(program, sections, entry_point, call_check=False, limits=limits)

    def check_stdio(
        self,
        program: str,
        stdin: str,
        expected_stdout: str,
        *,
        timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
    ) -> Verdict:
        """Run the program as a script and compare what it prints (`stdout.py`); an exit code other than 0 fails."""
        limits = self._limits(timeout_s, memory_limit_bytes)
        source, text = _encoded(program), _encoded(stdin)
        return self._settle(
            lambda worker: worker.run_stdio(source, text, limits),
            lambda report: stdio_verdict(report, expected_stdout, limits),
        )

    def check_stdio_tests(
        self,
        program: str,
        tests: Sequence[tuple[str, str]],
        *,
        timeout_s: float | None = None,
        memory_limit_bytes: int | None = None,
    ) -> StdioVerdict:
        """Run the program on every (stdin, expected stdout), each run with its own limits; stop at a time-out."""
        first = None if tests else Verdict("error", _NO_TESTS, 0.0)
        num_passed, seconds = 0, 0.0
        for stdin, expected in tests:
            verdict = self.check_stdio(
                program, stdin, expected, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes
            )
            seconds += verdict.seconds
            num_passed += verdict.status == "pass"
            if first is None and verdict.status != "pass":
                first = verdict
            if verdict.status in ("timeout", "error"):
                break
        deciding = first or Verdict("pass", "", 0.0)
        return StdioVerdict(deciding.status, deciding.detail, seconds, num_passed, len(tests))

    def close(self) -> None:
        """Wait for checks that run, then end all processes."""
        with self._closing:
            for _ in range(self._num_workers):
                worker = self._workers.get()
                if worker is not None:
                    worker.close()
            self._num_workers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _limits(self, timeout_s: float | None, memory_limit_bytes: int | None) -> Limits:
        return limits_for(
            self._timeout_s if timeout_s is None else timeout_s,
            self._memory_limit_bytes if memory_limit_bytes is None else memory_limit_bytes,
            self._output_limit_bytes,
            self._disk_limit_bytes,
        )

    def _check_calls(
        self, program: str, sections: tuple[str, ...], entry_point: str | None, *, call_check: bool, limits: Limits
    ) -> Verdict:
        try:
            job = prepare_tests(sections, entry_point, call_check=call_check)
        except BrokenTestsError as error:
            return Verdict("error", printable(str(error)), 0.0)
        source = _encoded(program)
        return self._settle(
            lambda worker: worker.run_function(source, job, limits),
            lambda report: function_verdict(report, limits),
        )

    def _settle(self, run: Run, interpret: Interpret) -> Verdict:
        """Run a check; retry it once, alone, if the judge itself failed.

        If it fails again, an honest program tells whether this machine is at fault or the program that was checked.
        """
        try:
            return self._attempt(run, interpret)
        except _FAILURES:
            pass
        try:
            return self._attempt(run, interpret, alone=True)
        except _FAILURES as error:
            reason = printable(str(error))
        return Verdict("fail" if self._works() else "error", reason, 0.0)

    def _works(self) -> bool:
        """Whether a known good program can be judged now."""
        limits = self._limits(_HONEST_TIMEOUT_S, None)
        try:
            verdict = self._attempt(
                lambda worker: worker.run_stdio(b"print(1)", b"", limits),
                lambda report: stdio_verdict(report, "1", limits),
            )
        except _FAILURES:
            return False
        return verdict.status == "pass"

    def _attempt(self, run: Run, interpret: Interpret, alone: bool = False) -> Verdict:
        """Run a check on a worker of its own, alone if it timed out among others; a worker that fails is dropped."""
        assert self._num_workers, "the judge is closed"
        worker = self._workers.get()
        try:
            with self._gate.alone() if alone else self._gate.together() as visit:
                worker = _usable(worker) or Worker(self.isolation_level, self._disk_limit_bytes)
                verdict = interpret(run(worker))
            if verdict.status == "timeout" and visit.overlapped:
                with self._gate.alone():
                    worker = _usable(worker) or Worker(self.isolation_level, self._disk_limit_bytes)
                    verdict = interpret(run(worker))
        except BaseException:
            if worker is not None:
                worker.close()
            self._workers.put(None)
            raise
        self._workers.put(worker)
        return verdict


def _usable(worker: Worker | None) -> Worker | None:
    """Return the worker, or None in place of one that can run no more checks."""
    if worker is None or worker.is_usable:
        return worker
    worker.close()
    return None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
