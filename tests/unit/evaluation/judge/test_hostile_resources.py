"""Programs that take too much: time, memory, disk, output, threads. Each ends in time, with a verdict that says so."""

# ruff: noqa: E501 a program is easier to read on one line

import time

import pytest

TIMEOUTS = {
    "an infinite loop": "while True: pass",
    "a sleep": "import time\ntime.sleep(60)",
    "a wait for input that never comes": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "a loop that catches everything": "while True:\n    try:\n        raise ValueError\n    except BaseException:\n        pass",
    "a loop deaf to signals": (
        "import signal\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass"
    ),
    "a deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "a thread that never ends": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    "a computation in C": "sum(range(10**12))",
    "an exit handler that never ends": "import atexit, time\natexit.register(time.sleep, 60)",
    "backtracking": "import re\nre.match('(a+)+b', 'a' * 40)",
    "a catastrophic power": "x = 9 ** 9 ** 9",
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_what_takes_too_long_times_out(judge, name):
    started = time.monotonic()
    verdict = judge.check_stdio(TIMEOUTS[name], "", "x", timeout_s=0.3)
    assert verdict.status == "timeout", verdict
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("action", ["while True: pass", "import time; time.sleep(60)"])
def test_a_call_that_takes_too_long_times_out(judge, action):
    verdict = judge.check_asserts(f"def f():\n    {action}", ["assert f() == 1"], timeout_s=0.3)
    assert verdict.status == "timeout"


def test_a_check_has_one_limit_and_not_one_a_call(judge):
    program = "import time\ndef f():\n    time.sleep(0.2)\n    return 1"
    assert judge.check_asserts(program, ["assert f() == 1"], timeout_s=0.3).status == "pass"
    assert judge.check_asserts(program, ["assert f() == 1"] * 10, timeout_s=0.3).status == "timeout"


def test_an_iterator_that_never_ends_times_out(judge):
    program = "import itertools\ndef f(): return itertools.count()"
    assert judge.check_asserts(program, ["assert list(f()) == [1]"], timeout_s=0.3).status == "timeout"


MEMORY = {
    "a list that grows": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "one large block": "x = bytearray(1 << 40)",
    "a string that doubles": "x = 'x'\nwhile True: x += x",
    "a dict that grows": "x = {}\nwhile True: x[len(x)] = [0] * 1000",
    "a mapped file": "import mmap\nx = []\nwhile True:\n    x.append(mmap.mmap(-1, 1 << 24))\n    x[-1].write(b'x' * (1 << 24))",
    "memory that is caught": "x = []\nwhile True:\n    try: x.append(bytearray(1 << 22))\n    except MemoryError: x.append(1)",
    "threads with large stacks": (
        "import threading\nx = []\ndef run():\n    while True: x.append(bytearray(1 << 20))\n"
        "for _ in range(8): threading.Thread(target=run).start()"
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_what_takes_too_much_memory_is_said_to(judge, name):
    verdict = judge.check_stdio(MEMORY[name], "", "x", timeout_s=5.0, memory_limit_bytes=128 << 20)
    assert verdict.status == "memory", verdict


def test_a_call_that_takes_too_much_memory_is_said_to(judge):
    limit = {"memory_limit_bytes": 128 << 20}
    assert judge.check_asserts("def f(): return [0] * (1 << 25)", ["assert f() == 1"], **limit).status == "memory"
    assert judge.check_asserts("def f(): raise MemoryError", ["assert f() == 1"], **limit).status == "memory"
    swallowed = ["try: f()\nexcept BaseException: pass"]
    assert judge.check_asserts("def f(): raise MemoryError", swallowed, **limit).status == "memory"


def test_memory_that_a_program_frees_still_counts_at_its_peak(judge):
    program = "x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\ndel x\nprint('done')"
    assert judge.check_stdio(program, "", "done", memory_limit_bytes=128 << 20).status == "memory"
    assert judge.check_stdio(program, "", "done", memory_limit_bytes=512 << 20).status == "pass"


TOO_MUCH = {
    "output": "import sys\nwhile True: sys.stdout.write('x' * (1 << 20))",
    "output by descriptor": "import os\nwhile True:\n    try: os.write(1, b'x' * (1 << 20))\n    except OSError: break",
    "output in place": "import os\nos.ftruncate(1, 10 << 30)",
    "output far away": "import os\nos.pwrite(1, b'x', 10 << 30)",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * (1 << 20))",
    "one file": "with open('own', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
    "many files": "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'wb').write(bytes(1 << 20))",
    "empty files": "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'wb').close()",
    "directories": "import os\nn = 0\nwhile True:\n    n += 1\n    os.makedirs(f'{n}/a/b')",
    "hidden files": "import os\nos.mkdir('d', 0o300)\nn = 0\nwhile True:\n    n += 1\n    open(f'd/{n}', 'wb').write(bytes(1 << 20))",
    "a file without a name": (
        "import os\nn = 0\nwhile True:\n    n += 1\n    f = open(str(n), 'wb')\n    os.unlink(str(n))\n"
        "    globals()[f'f{n}'] = f\n    f.write(bytes(8 << 20))\n    f.flush()"
    ),
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "threads with small stacks": (
        "import threading, time\nthreading.stack_size(1 << 15)\nthreads = []\nwhile True:\n"
        "    try: threading.Thread(target=time.sleep, args=(60,)).start()\n    except RuntimeError: pass"
    ),
    "descriptors": "import os\nx = []\nwhile True: x.append(os.pipe())",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
    "recursion in C": "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_takes_too_much_does_not_pass_and_ends_soon(judge, name):
    started = time.monotonic()
    verdict = judge.check_stdio(TOO_MUCH[name], "", "x", timeout_s=1.0, memory_limit_bytes=256 << 20)
    assert verdict.status in ("fail", "memory", "timeout"), verdict
    assert time.monotonic() - started < 15


WEARY = "import time\ntime.sleep(0.1)\n"
TREES = {
    "names longer than a path": "for _ in range(20):\n    os.mkdir('d' * 250)\n    os.chdir('d' * 250)\nopen('e' * 250, 'w').close()\n",
    "directories in each other": "for _ in range(300):\n    os.mkdir('d')\n    os.chdir('d')\n",
    "directories that vanish": (
        "import threading\ndef turn():\n    while True:\n        os.makedirs('a/b/c')\n        os.removedirs('a/b/c')\n"
        "        os.mkdir('keep') if not os.path.exists('keep') else None\n"
        "threading.Thread(target=turn, daemon=True).start()\n"),
    "directories that move": (
        "import threading\nos.makedirs('a/b/c')\nos.mkdir('z')\ndef turn():\n    while True:\n"
        "        os.rename('a/b', 'z/b')\n        os.rename('z/b', 'a/b')\n"
        "threading.Thread(target=turn, daemon=True).start()\n"),
    "directories that nobody may read": "os.makedirs('a/b')\nos.mkdir('c', 0)\nos.mkdir('d', 0o300)\nos.mkdir('d/e', 0o400)\n",
    "links in a circle": "os.symlink('y', 'x')\nos.symlink('x', 'y')\nos.symlink('.', 'z')\nos.symlink('/', 'root')\n",
    "names that are no text": "open(b'\\xff\\n', 'w').close()\nos.mkdir(b'\\xfe')\n",
    "fifos": "try: os.mkfifo('f')\nexcept OSError: pass\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_no_files_make_a_program_anything_but_wrong_or_right(judge, name):
    """Whoever counts them or removes them must not fail over them: a program would choose its verdict."""
    act = f"import os\nhome = os.getcwd()\n{TREES[name]}{WEARY}"
    assert judge.check_asserts(f"{act}def f(): return 1", ["assert f() == 2"]).status == "fail"
    assert judge.check_stdio(f"{act}print('a', flush=True)\nos._exit(0)", "", "a").status == "pass"
    assert judge.check_stdio("import os\nprint(os.listdir('.'))", "", "[]").status == "pass"


def test_a_fork_bomb_ends_as_a_failure(judge):
    """Forking is blocked: the judge's self-test has proved it, or this judge would not exist."""
    verdict = judge.check_stdio("import os\nwhile True: os.fork()", "", "x")
    assert verdict.status == "fail"
    assert "PermissionError" in verdict.detail


def test_the_judge_works_after_all_that(judge):
    assert judge.check_stdio("print(input())", "x", "x").status == "pass"
