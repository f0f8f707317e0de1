"""The judge itself: levels, refusals, what it leaves behind, threads, zygotes that die."""

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.unit.evaluation.judge.conftest import TESTS, open_judge
from wmtp_ray.errors import SandboxError
from wmtp_ray.evaluation.judge import Judge, Verdict

ADD = "def add(a, b):\n    return a + b\n"
ECHO = "print(input())"


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def open_files() -> list[str]:
    """Return what this process has open, except the listing itself."""
    paths = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sorted(path for path in paths if not path.startswith("/proc/"))


def test_the_level_is_the_one_asked_for(judge):
    assert judge.isolation_level in ("namespace", "landlock")


def test_rlimits_only_when_asked_for_by_name():
    with Judge("rlimits", num_workers=1) as judge:
        assert judge.isolation_level == "rlimits"
        assert judge.check_function(ADD, TESTS, "add").status == "pass"
        assert judge.check_stdio(ECHO, "x", "y").status == "fail"
        assert judge.check_stdio("while True: pass", "", "", timeout_s=0.2).status == "timeout"


def test_survivors_are_killed_even_without_a_sandbox():
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)\n"
    )
    with Judge("rlimits", num_workers=1) as judge:
        before = descendants()
        assert judge.check_stdio(f"{daemon}print('a')", "", "a").status == "pass"
        assert descendants() == before


def test_a_level_below_the_required_one_is_refused_with_the_way_out():
    with pytest.raises(SandboxError) as caught:
        Judge("rlimits", isolation_required="landlock")
    message = str(caught.value)
    assert os.uname().release in message
    assert "rlimits: below the required level" in message
    assert "isolation_required=" in message


@pytest.mark.parametrize("arguments", [{"isolation": "docker"}, {"isolation_required": "auto"}])
def test_an_unknown_level_is_refused(arguments):
    with pytest.raises(SandboxError, match="There is no isolation level"):
        Judge(**arguments)


def test_nothing_is_left_after_checks_and_after_the_judge(judge):
    level = judge.isolation_level
    before, files = descendants(), open_files()
    with open_judge(level) as other:
        other.check_function(ADD, TESTS, "add")
        steady, steady_files = descendants(), open_files()
        for program in (
            ECHO,
            "while True: pass",
            "open('x', 'w').write('x')",
            "import os\nos.kill(os.getpid(), 9)",
            "1/0",
        ):
            other.check_stdio(program, "x", "x", timeout_s=0.2)
            other.check_function(program, TESTS, "add", timeout_s=0.2)
        assert descendants() == steady
        assert open_files() == steady_files
    assert descendants() == before
    assert open_files() == files


def test_checks_from_many_threads_do_not_mix():
    with Judge(num_workers=2) as judge, ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda n: judge.check_stdio("print(int(input()) % 7)", str(n), str(n % 5)), range(70)))
    assert [verdict.status == "pass" for verdict in verdicts] == [n % 7 == n % 5 for n in range(70)]


def kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def test_a_zygote_that_dies_is_replaced_and_the_check_repeated():
    before = descendants()
    with Judge(num_workers=1) as judge:
        kill(descendants() - before)
        assert judge.check_function(ADD, TESTS, "add").status == "pass"
    assert descendants() == before


def test_a_zygote_that_dies_during_a_check_is_replaced():
    before = descendants()
    with Judge(num_workers=1) as judge:
        zygote = descendants() - before
        killer = threading.Timer(0.3, kill, (zygote,))
        killer.start()
        assert judge.check_stdio("import time\ntime.sleep(0.6)\nprint('a')", "", "a").status == "pass"
        killer.join()
        assert not zygote & descendants()
    assert descendants() == before


def test_a_zygote_that_has_to_wait_for_a_cpu_makes_no_program_late():
    before = descendants()
    with Judge(num_workers=1, timeout_s=0.4) as judge, ThreadPoolExecutor(1) as pool:
        zygote = descendants() - before
        check = pool.submit(judge.check_stdio, "import time\ntime.sleep(0.3)\nprint('a')", "", "a")
        time.sleep(0.1)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in zygote:
                os.kill(pid, number)
            time.sleep(1.5)
        assert check.result().status == "pass", check.result()


def test_a_judge_that_fails_twice_says_error_and_recovers():
    before = descendants()
    with Judge(num_workers=1) as judge:
        stop = threading.Event()

        def kill_whatever_starts() -> None:
            while not stop.wait(0.02):
                kill(descendants() - before)

        killer = threading.Thread(target=kill_whatever_starts)
        killer.start()
        verdict = judge.check_function(ADD + "import time\ntime.sleep(0.5)\n", TESTS, "add")
        stop.set()
        killer.join()
        assert verdict.status == "error"
        assert judge.check_function(ADD, TESTS, "add").status == "pass"
    assert descendants() == before


@pytest.mark.parametrize(
    "act",
    [
        "os.kill(os.getpid(), 9)",
        "os.kill(os.getppid(), 9)",
        "os.rmdir(os.getcwd())",
        "os.chmod('.', 0)",
        "here = os.getcwd(); os.rmdir(here); os.symlink('/', here)",
    ],
)
def test_a_program_that_makes_the_judge_fail_is_wrong_where_nothing_stops_it(act):
    """Without a sandbox: an `error` would be left out of Pass@K. An honest program shows whether the judge works."""
    with Judge("rlimits", num_workers=1) as judge:
        verdict = judge.check_function(f"import os\n{act}\ndef add(a, b): return 0", TESTS, "add")
        assert verdict.status == "fail", verdict
        assert verdict.detail
        assert judge.check_function(ADD, TESTS, "add").status == "pass"
        assert judge.check_stdio("import os\nprint(os.listdir('.'))", "", "[]").status == "pass"


def test_a_time_out_among_others_is_repeated_alone():
    """The first run holds a slot that another check shares, so the verdict takes two runs; alone it takes one."""
    with Judge(num_workers=2, timeout_s=0.3) as judge, ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        assert judge.check_stdio("while True: pass", "", "").status == "timeout"
        alone_s = time.monotonic() - started
        started = time.monotonic()
        slow = pool.submit(judge.check_stdio, "while True: pass", "", "")
        quick = pool.submit(judge.check_stdio, "import time\ntime.sleep(0.15)\nprint('a')", "", "a")
        assert (slow.result().status, quick.result().status) == ("timeout", "pass")
        assert time.monotonic() - started > 1.2 * alone_s


def test_partial_success_on_many_inputs(judge):
    tests = [("1", "1"), ("2", "x"), ("3", "3"), ("4", "4")]
    verdict = judge.check_stdio_tests(ECHO, tests)
    assert (verdict.status, verdict.num_passed, verdict.num_tests, verdict.passed_frac) == ("fail", 3, 4, 0.75)
    stuck = judge.check_stdio_tests("x = input()\nwhile x == '2': pass\nprint(x)", tests, timeout_s=0.2)
    assert (stuck.status, stuck.num_passed, stuck.num_tests) == ("timeout", 1, 4)
    assert judge.check_stdio_tests(ECHO, tests[:1]).passed_frac == 1.0


def test_no_tests_are_an_error_and_no_pass(judge):
    for verdict in (judge.check_stdio_tests(ECHO, []), judge.check_asserts(ADD, [])):
        assert (verdict.status, "no tests" in verdict.detail) == ("error", True)


def test_limits_can_differ_from_check_to_check(judge):
    slow = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint('a')"
    assert judge.check_stdio(slow, "", "a", timeout_s=0.2).status == "timeout"
    assert judge.check_stdio(slow, "", "a", timeout_s=3.0).status == "pass"


def test_a_verdict_says_what_was_wrong(judge):
    verdict = judge.check_function("def add(a, b): return a - b", TESTS, "add")
    assert isinstance(verdict, Verdict)
    assert "assert candidate(2, 3) == 5" in verdict.detail
    assert verdict.seconds > 0
    assert "'add'" in judge.check_function("def sub(a, b): return a", TESTS, "add").detail
    assert "ZeroDivisionError" in judge.check_stdio("1 / 0", "", "").detail
    assert "line 2: printed 'b', expected 'c'" in judge.check_stdio("print('a\\nb')", "", "a\nc").detail
