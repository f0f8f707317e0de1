"""A signal ends a command with exit code 130, whatever its threads are doing, and takes along what it has started."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
BEGIN = """
import os, subprocess, sys, threading, time
from wmtp_ray import interrupts
interrupts.end_on_signals()
"""
# Each prints "ready" once it is where the signal shall find it.
STATES = {
    "in an import that holds the import lock": """
import _imp
_imp.acquire_lock()
threading.Thread(target=lambda: __import__("http.server")).start()
print("ready", flush=True)
time.sleep(600)
""",
    "waiting for a thread that does not end": """
stuck = threading.Thread(target=time.sleep, args=(600,))
stuck.start()
print("ready", flush=True)
stuck.join()
""",
    "swallowing every exception": """
print("ready", flush=True)
while True:
    try:
        time.sleep(600)
    except BaseException:
        pass
""",
    "leaving, with a thread that does not end": """
threading.Thread(target=time.sleep, args=(600,)).start()
print("ready", flush=True)
sys.exit(0)
""",
    "in C, where no handler of Python runs": """
import ctypes
print("ready", flush=True)
ctypes.CDLL(None).pause.restype = None
blocked = ctypes.CDLL(None).sleep
while True:
    blocked(600)
""",
    "with a library's own handler for SIGTERM": """
import signal
with interrupts.kept():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(15))
print("ready", flush=True)
time.sleep(600)
""",
}


def started(program: str, begin: str = BEGIN) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", begin + program],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_command_in_any_state_without_a_traceback(state: str, number: signal.Signals) -> None:
    process = started(STATES[state])
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, "", "interrupted: nothing was started\n")


def test_what_was_started_ends_too_and_what_was_begun_is_undone(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from wmtp_ray.durable_files import atomic_directory
tree = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
child = subprocess.Popen([sys.executable, "-c", tree + "; time.sleep(600)"])
with atomic_directory(Path({str(tmp_path)!r}) / "model") as temporary, interrupts.undone_at_end(lambda: "undone"):
    (temporary / "half").write_text("a model")
    time.sleep(1.0)
    print("ready", flush=True)
    time.sleep(600)
"""
    process = started(program)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, "undone\n")
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_started_when_the_signal_comes_ends_too() -> None:
    """As the agents of Ray's raylet are, which are nobody's children once it is killed."""
    process = started("""
import uuid
mark = os.environ["WMTP_TEST_MARK"] = uuid.uuid4().hex
subprocess.Popen([sys.executable, "-c", "import subprocess\\nwhile True: subprocess.Popen(['sleep', '600'])"])
time.sleep(0.5)
print("ready", flush=True)
print(mark, flush=True)
time.sleep(600)
""")
    assert process.stdout is not None
    mark = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert [each for each in psutil.process_iter() if is_marked(each, mark)] == []


def is_marked(process: psutil.Process, mark: str) -> bool:
    """Whether a process that still runs has inherited the mark."""
    try:
        return process.environ().get("WMTP_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_a_handler_that_raises_ends_with_its_block_and_a_second_signal_at_once() -> None:
    program = """
with interrupts.raised():
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("written down", flush=True)
    try:
        time.sleep(600)
    except BaseException:
        print("never")
"""
    process = started(program)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "written down\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, "", "Ending at once\n")


def test_the_main_thread_handles_signals_whoever_imports_threading_first() -> None:
    """The end imports psutil in a thread of its own, which imports threading."""
    program = """
import os, sys, time
from wmtp_ray import interrupts
interrupts.end_on_signals()
while "psutil" not in sys.modules:
    time.sleep(0.01)
with interrupts.handled(lambda number, frame: os._exit(7)):
    print("ready", flush=True)
    time.sleep(600)
"""
    process = started(program, begin="")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 7


def test_a_second_signal_does_not_wait_for_what_is_undone() -> None:
    program = """
with interrupts.undone_at_end(lambda: (print("undoing", flush=True), time.sleep(600))):
    print("ready", flush=True)
    time.sleep(600)
"""
    process = started(program)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "undoing\n"
    started_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert time.monotonic() - started_s < 4.0, "not the deadline, which is 5 s"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_takes_itself_down_leaves_the_exit_code_as_it_is(number: signal.Signals) -> None:
    program = """
class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"ready\\n")
        sleep(2.0)
        write(1, b"gone\\n")
last = Last()
sys.exit(0)
"""
    process = started(program)
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (0, "gone\n", "")
