"""Programs that cannot add and try to pass all the same: each must be anything but a pass."""

import pytest

WRONG = "def add(a, b):\n    return None\n"
EVERY_FD = "import os\nfor fd in range(1024):\n    try:\n        {act}\n    except OSError:\n        pass\n"
MARKS = rb"""[\"pass\", \"\"]\nPASSED\n{\"status\": \"pass\"}\n"""
EQUAL = "def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = None\n"

DECEPTIONS = {
    "ends well while loading": "import os\nos._exit(0)",
    "ends well in the call": "import os\ndef add(a, b): os._exit(0)",
    "exits while loading": "import sys\nsys.exit(0)",
    "exits in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "raises SystemExit in the call": "def add(a, b): raise SystemExit(0)",
    "raises KeyboardInterrupt in the call": "def add(a, b): raise KeyboardInterrupt",
    "raises GeneratorExit in the call": "def add(a, b): raise GeneratorExit",
    "raises StopIteration in the call": "def add(a, b): raise StopIteration(5)",
    "returns an object equal to all": f"class All:\n    {EQUAL}\ndef add(a, b): return All()",
    "returns an int equal to all": f"class All(int):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a str equal to all": f"class All(str):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a float equal to all": f"class All(float):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a list equal to all": f"class All(list):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a tuple equal to all": f"class All(tuple):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a dict equal to all": f"class All(dict):\n    {EQUAL}\ndef add(a, b): return All()",
    "returns a class equal to all": (
        "class Meta(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class All(metaclass=Meta): pass\ndef add(a, b): return All"
    ),
    "returns an object that is true": "class All:\n    def __bool__(self): return True\ndef add(a, b): return All()",
    "returns itself": "def add(a, b): return add",
    "returns nan": "def add(a, b): return float('nan')",
    "returns a mock": "from unittest.mock import MagicMock, ANY\ndef add(a, b): return ANY",
    "replaces builtins": (
        "import builtins\nfor name in ('abs', 'all', 'any', 'isinstance', 'len', 'AssertionError', 'Exception'):\n"
        "    setattr(builtins, name, lambda *a: True)\n" + WRONG
    ),
    "defines builtins": "def all(*a): return True\nabs = len = isinstance = all\nAssertionError = None\n" + WRONG,
    "replaces check": "def check(candidate): return True\n" + WRONG,
    "replaces json": "import json\njson.dumps = json.loads = lambda *a, **k: ['pass', '']\n" + WRONG,
    "replaces operator": "import operator\noperator.eq = lambda a, b: True\n" + WRONG,
    "replaces unittest": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nunittest.TestCase.failureException = None\n"
        + WRONG
    ),
    "replaces os functions": "import os\nos.write = os.read = os._exit = lambda *a: 0\n" + WRONG,
    "replaces the judge's own modules": (
        "import sys\nfor name, module in list(sys.modules.items()):\n    if 'judge' in name:\n"
        "        for key, value in list(vars(module).items()):\n            if callable(value):\n"
        "                setattr(module, key, lambda *a, **k: ['pass', ''])\n" + WRONG
    ),
    "calls the tests' side of the judge": (
        "from wmtp_ray.evaluation.judge import test_side\ntest_side.VERDICT_FD = 4\ntest_side.TESTS_FD = 3\n"
        "test_side.judge = lambda *a: ('pass', '')\ntest_side.run_tests()\n"
    ),
    "writes a verdict to the channel": "import os\nos.write(4, b'\\x00\\x00\\x00\\x0c[\"pass\", \"\"]')\n" + WRONG,
    "walks frames for what is expected": (
        "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            if type(value) is str and 'assert candidate(' in value:\n"
        "                return eval(value.split('== ')[1 + (a < 0)].split()[0])\n        frame = frame.f_back\n"
    ),
    "looks through all objects": (
        "import gc\ndef add(a, b):\n    for thing in gc.get_objects():\n"
        "        for value in gc.get_referents(thing):\n"
        "            if type(value) in (str, bytes) and 'assert candidate' + '(' in str(value):\n"
        "                return eval(str(value).split('== ')[1 + (a < 0)].split()[0])\n"
    ),
    "reads all descriptors": (
        "import os\nfound = b''\n" + EVERY_FD.format(act="found += os.pread(fd, 100000, 0)")
        + "def add(a, b):\n    return eval(found.split(b'== ')[1 + (a < 0)].split()[0])"
    ),
    "writes marks to all descriptors": EVERY_FD.format(act=f"os.write(fd, {MARKS!r})") + WRONG,
    "writes marks to all files": EVERY_FD.format(act=f"os.pwrite(fd, {MARKS!r}, 0)") + WRONG,
    "closes all descriptors": EVERY_FD.format(act="os.close(fd)") + WRONG,
    "exchanges all descriptors": EVERY_FD.format(act="os.dup2(4, fd)") + WRONG,
    "replaces stdout": "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None\n" + WRONG,
    "prints marks at exit": "import atexit\natexit.register(print, 'PASSED')\natexit.register(exit, 0)\n" + WRONG,
    "hooks imports": "import builtins\nbuiltins.__import__ = lambda *a, **k: None\n" + WRONG,
    "hooks exceptions": "import sys\nsys.excepthook = lambda *a: sys.exit(0)\n" + WRONG,
    "traces": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: exit(0))\n" + WRONG,
    "floods the channel": "import os\nwhile True: os.write(4, b'\\x00\\x00\\x00\\x02[]')",
    "announces a frame of four gigabytes": "import os\nos.write(4, b'\\xff' * 4)\n" + WRONG,
    "writes half a frame": "import os\nos.write(4, b'\\x00\\x00\\x01\\x00[1,')\nos._exit(0)",
    "writes no JSON": "import os\nos.write(4, b'\\x00\\x00\\x00\\x04\\xff\\xfe{[')\n" + WRONG,
    "writes deep JSON": "import os\nos.write(4, (200000).to_bytes(4, 'big') + b'[' * 200000)\n" + WRONG,
    "answers before it is asked": (
        "import json, os\nfor n, v in ((1, {'d': [['add', {'h': [0, 'object', '']}]]}), (1, 5), (2, -3)):\n"
        "    body = json.dumps([n, 'value', v, None]).encode()\n"
        "    os.write(4, len(body).to_bytes(4, 'big') + body)\n" + WRONG
    ),
    "answers with another name": (
        "import json, os\nbody = json.dumps([1, 'value', {'d': [['check', None], ['add', None]]}, None]).encode()\n"
        "os.write(4, len(body).to_bytes(4, 'big') + body)\n" + WRONG
    ),
    "answers with builtins and with a request that asked for them": (
        "import json, os\nabs = sorted = lambda x: 0\ndef add(a, b): return 0\n"
        "zero, one = {'h': [0, 'object', '']}, {'h': [1, 'object', '']}\n"
        "named = [['add', zero], ['abs', one], ['check', one]]\n"
        "body = json.dumps([1, 'value', {'d': named}, ['add', 'abs', 'check']]).encode()\n"
        "os.write(4, len(body).to_bytes(4, 'big') + body)\n"
        "import sys\nserver = sys._getframe(1).f_locals['self']\nserver._objects += [add, abs]\n"
        "receive = server._channel.receive\n"
        "def skip():\n    server._channel.receive = receive\n    receive()\n    return receive()\n"
        "server._channel.receive = skip\n"
    ),
    "answers with a builtin": (
        "import json, os\nbody = json.dumps([1, 'value', {'d': [['add', {'h': [-1, 'builtin', 'exec']}]]}, None])\n"
        "os.write(4, len(body).to_bytes(4, 'big') + body.encode())\n" + WRONG
    ),
    "answers from a thread": (
        "import os, threading\ndef write():\n    while True: os.write(4, b'\\x00\\x00\\x00\\x02[]')\n"
        "threading.Thread(target=write, daemon=True).start()\n" + WRONG
    ),
    "defines nothing": "pass",
    "defines something that is no function": "add = 5",
    "does not compile": "def add(a, b) return a + b",
    "holds a NUL": "def add(a, b): return a + b\n\0",
    "holds a lone surrogate": "def add(a, b): return '\ud800'",
    "is nested too deep to compile": "x = " + "(" * 5000 + ")" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("name", DECEPTIONS)
def test_a_program_that_cannot_add_does_not_pass(deceive, name):
    verdict = deceive(DECEPTIONS[name])
    assert verdict.status in ("fail", "timeout", "unserialisable")


def test_a_program_that_can_add_passes(deceive):
    assert deceive("def add(a, b):\n    return a + b\n").status == "pass"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("(x for x in [1])", "unserialisable"),
        ("lambda: 1", "unserialisable"),
        ("object()", "unserialisable"),
        ("print", "unserialisable"),
        ("cyclic", "unserialisable"),
        ("deep", "unserialisable"),
        ("'x' * (40 << 20)", "unserialisable"),
        ("float('nan')", "fail"),
        ("'\\ud800'", "fail"),
        ("b'\\xff'", "fail"),
        ("1 << 10**6", "fail"),
        ("{1: {2: {3, 4}}}", "fail"),
    ],
)
def test_a_value_that_does_not_travel_is_no_pass_and_one_that_does_is_compared(judge, value, status):
    program = "cyclic = []\ncyclic.append(cyclic)\ndeep = []\nfor _ in range(100000): deep = [deep]\n"
    verdict = judge.check_asserts(f"{program}def f(): return {value}", ["assert f() == 1"])
    assert verdict.status == status, verdict


def test_a_huge_int_is_compared_exactly_and_fast(judge):
    asserts = ["n = f()", "assert n == 1 << 3000000", "assert n + 1 != 1 << 3000000"]
    assert judge.check_asserts("def f(): return 1 << 3000000", asserts).status == "pass"


def test_a_slow_repr_is_not_waited_for_beyond_the_limit(judge):
    program = "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef f(): raise E()"
    assert judge.check_asserts(program, ["assert f() == 1"], timeout_s=0.3).status == "timeout"


MESSAGES = {
    "long": "'x' * 100_000",
    "of many bytes": "'\\U0001f600' * 100_000",
    "of lone surrogates": "'\\ud800' * 70_000",
    "of control characters": "'\\x1b[2J\\x00\\x9b\\u202e' * 20_000",
    "like a verdict": '\'"]\\n["pass", ""]\' * 10_000',
    "of a long number": "10 ** 70_000",
    "of deep data": "eval('[' * 90 + ']' * 90)",
    "of an object": "iter([1])",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_holds_what_a_program_returned_is_a_failure_like_any_other(judge, name):
    tests = "def check(candidate):\n    assert not candidate(), 'got ' + str(candidate())\n"
    tests += "    assert candidate() == candidate, candidate()\n"
    for function in (f"def f(): return {MESSAGES[name]}", f"def f(): raise ValueError({MESSAGES[name]})"):
        verdict = judge.check_function(function, tests, "f")
        assert verdict.status in ("fail", "unserialisable"), verdict
        assert len(verdict.detail.encode()) < 20_000
        assert not any(ord(char) < 32 and char not in "\n\t" for char in verdict.detail)


def test_trouble_that_the_tests_swallow_is_still_no_pass(judge):
    tests = "def check(candidate):\n    try:\n        candidate(1, 2)\n    except BaseException:\n        pass\n"
    assert judge.check_function("import os\ndef add(a, b): os._exit(0)", tests, "add").status == "fail"


def test_tests_that_cannot_run_are_an_error_and_not_a_wrong_program(judge):
    program = "def add(a, b): return a + b"
    assert judge.check_function(program, "def check(candidate:", "add").status == "error"
    assert judge.check_function(program, "def other(candidate): pass", "add").status == "error"


def test_details_can_be_logged_whatever_the_program_says(judge):
    program = "def f(): raise ValueError('\\ud800\\0' + 'x' * 100000)"
    verdict = judge.check_asserts(program, ["assert f() == 1"])
    assert verdict.status == "fail"
    assert len(verdict.detail.encode("utf-8")) < 10000
    assert "\0" not in verdict.detail
