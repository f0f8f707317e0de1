"""From what the zygote saw to a verdict."""

import json
import signal

from wmtp_ray.evaluation.judge.disk import MAX_FILES
from wmtp_ray.evaluation.judge.limits import MAX_THREADS, Limits
from wmtp_ray.evaluation.judge.stdout import first_difference
from wmtp_ray.evaluation.judge.verdict import STATUSES, Status, Verdict, printable
from wmtp_ray.evaluation.judge.worker import RunReport, ZygoteError


def function_verdict(report: RunReport, limits: Limits) -> Verdict:
    """Return the tests' verdict, unless a limit was passed. Raises ZygoteError when the tests ended without one."""
    passed = _limit_verdict(report, limits)
    if passed is not None:
        return passed
    status, detail = _written_verdict(report)
    if status == "fail" and report.exit_code < 0:
        detail = f"{detail} ({_ending(report.exit_code)})"
    return Verdict(status, printable(detail), report.seconds)


def _written_verdict(report: RunReport) -> tuple[Status, str]:
    try:
        status, detail = json.loads(report.written)
    except (ValueError, TypeError):
        raise ZygoteError(f"the tests ended without a verdict, {_ending(report.tests_exit_code)}") from None
    if status not in STATUSES or not isinstance(detail, str):
        raise ZygoteError("the tests ended with something that is no verdict")
    return status, detail


def stdio_verdict(report: RunReport, expected_stdout: str, limits: Limits) -> Verdict:
    """Compare a run's output with what was expected, if it ended well. Raises ZygoteError as `function_verdict`."""
    passed = _limit_verdict(report, limits)
    if passed is not None:
        return passed
    status, detail = _compare(report, expected_stdout, limits)
    return Verdict(status, printable(detail), report.seconds)


def _compare(report: RunReport, expected_stdout: str, limits: Limits) -> tuple[Status, str]:
    if len(report.written) >= limits.output_bytes:
        return "fail", f"the program printed {limits.output_bytes} bytes or more"
    if report.exit_code != 0:
        errors = report.errors.decode("utf-8", "backslashreplace").strip()
        last_line = errors.rpartition("\n")[2]
        status: Status = "memory" if last_line.startswith(("MemoryError", "numpy.core._exceptions._Array")) else "fail"
        return status, f"{_ending(report.exit_code)}: {errors}"
    difference = first_difference(report.written, expected_stdout)
    return ("pass", "") if difference is None else ("fail", difference)


def _limit_verdict(report: RunReport, limits: Limits) -> Verdict | None:
    """Return the verdict of a passed limit, if any. Raises ZygoteError for a kill from outside the check."""
    status: Status
    if report.limit_passed == "cpu":
        status, detail = "timeout", f"more than {limits.cpu_s:g} s of CPU time"
    elif report.limit_passed == "wall":
        status, detail = "timeout", f"not done after {report.seconds:.2f} s"
    elif report.limit_passed == "memory" or report.peak_memory_bytes > limits.memory_bytes:
        status, detail = "memory", f"more than {limits.memory_bytes} bytes in use"
    elif report.limit_passed == "threads":
        status, detail = "fail", f"more than {MAX_THREADS} threads"
    elif report.limit_passed == "disk":
        status, detail = "fail", f"more than {limits.disk_bytes} bytes of files"
    elif report.limit_passed == "files":
        status, detail = "fail", f"more than {MAX_FILES} files, or a directory that cannot be read to count them"
    elif _killed_at_cpu_limit(report, limits):
        status, detail = "timeout", f"more than {limits.cpu_s:g} s of CPU time"
    elif report.exit_code == -signal.SIGKILL:
        raise ZygoteError("a process outside the check killed the program; perhaps this machine ran out of memory")
    else:
        return None
    return Verdict(status, detail, report.seconds)


def _killed_at_cpu_limit(report: RunReport, limits: Limits) -> bool:
    """Whether the CPU rlimit ended the program or the tests before the watch did."""
    ends = ((report.exit_code, report.cpu_s), (report.tests_exit_code, report.tests_cpu_s))
    return any(exit_code == -signal.SIGKILL and cpu_s >= limits.cpu_s for exit_code, cpu_s in ends)


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"ended by signal {-exit_code}"
