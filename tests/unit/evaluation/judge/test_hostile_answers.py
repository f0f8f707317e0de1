"""Programs that cannot add and try to pass all the same: each must be anything but a pass."""

# ruff: noqa: E501 a program is easier to read on one line

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


FUNCTIONS_THAT_ARE_WRONG = {
    "yields one list again and again": (
        "def f(n):\n    x = []\n    for i in range(n):\n        x.append(i)\n        yield x",
        "assert list(f(3)) == [[0], [0, 1], [0, 1, 2]]"),
    "yields one dict in tuples": (
        "def f(n):\n    x = {}\n    for i in range(n):\n        x[i] = i\n        yield i, x",
        "assert list(f(2)) == [(0, {0: 0}), (1, {0: 0, 1: 1})]"),
    "changes what it has yielded": (
        "def f(n):\n    x = [0]\n    yield x\n    x.append(1)\n    yield list(x)", "assert list(f(1)) == [[0], [0, 1]]"),
    "changes a part of what it has yielded": (
        "def f(n):\n    x = [[0]]\n    yield x\n    x[0].append(1)\n    yield 5", "assert list(f(1)) == [[[0]], 5]"),
    "returns one list from every call": (
        "def f(n, x=[]):\n    x.append(n)\n    return x", "a = f(1)\nb = f(2)\nassert (a, b) == ([1], [1, 2])"),
    "changes an earlier result": (
        "x = []\ndef get(): return x\ndef f(n): x.append(n)", "a = get()\nf(1)\nassert a == []"),
    "returns its argument": ("def f(x): return x", "a = [1]\nb = f(a)\nb.append(2)\nassert a == [1]"),
    "ends a loop by StopIteration": (
        "def f(n): raise StopIteration", "for a, b in zip(map(f, [1, 2]), [1, 2]):\n    assert a == b"),
    "ends all() by a StopIteration of its own": (
        "class End(StopIteration): pass\ndef f(n): raise End", "assert all(map(f, range(3)))"),
    "ends a sum by StopIteration": ("def f(n):\n    if n: raise StopIteration\n    return 0", "assert sum(map(f, range(3))) == 0\nassert f(0) == 0"),
    "is a module in the tests": (
        "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(n): return 0", "assert math.isclose(f(1), 1)"),
    "is a module in the tests by an object": (
        "from types import SimpleNamespace\nnp = SimpleNamespace(allclose=lambda *a: True)\ndef f(n): return 0", "assert np.allclose(f(1), [1])"),
    "says that a module is another": (
        "import types\nmath = types.ModuleType('math')\nmath.isclose = lambda *a: True\ndef f(n): return 0", "assert math.isclose(f(1), 1)"),
    "names what tests catch after what they raise": (
        "Bad = AssertionError\ndef f(n): pass", "try:\n    f(1)\n    assert False\nexcept Bad:\n    pass"),
    "names what tests catch after everything": (
        "Bad = Exception\ndef f(n): pass", "try:\n    f(1)\n    assert False\nexcept Bad:\n    pass"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS_THAT_ARE_WRONG)
def test_a_copy_or_a_name_does_not_hide_what_is_wrong(judge, name):
    program, test = FUNCTIONS_THAT_ARE_WRONG[name]
    verdict = judge.check_asserts(program, [test], entry_point="f")
    assert verdict.status in ("fail", "unserialisable"), verdict


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


def test_what_a_class_of_the_program_is_asked_about_is_no_pass_and_no_failure(judge):
    program = "class P: pass\ndef f(): return P()"
    assert judge.check_asserts(program, ["assert isinstance(f(), P)"]).status == "unserialisable"


@pytest.mark.parametrize(
    ("value", "test", "status"),
    [
        ("P(1, 2)", "assert f() == (1, 2)", "pass"),
        ("P(1, 2)", "assert f().x == 1", "pass"),
        ("P(1, 2)", "assert f() == (1, 3)", "fail"),
        ("Counter('aab')", "assert f() == {'a': 2, 'b': 1}", "pass"),
        ("Counter('aab')", "assert f().most_common(1) == [('a', 2)]", "pass"),
        ("defaultdict(int)", "assert f()['x'] == 0", "pass"),
        ("{}", "assert f()['x'] == 0", "fail"),
        ("(1, 2)", "assert f().x == 1", "fail"),
        ("{}['x']", "assert f() == 1", "fail"),
    ],
)
def test_a_class_of_plain_data_crosses_with_what_it_adds(judge, value, test, status):
    program = "from collections import Counter, defaultdict, namedtuple\nP = namedtuple('P', 'x y')\n"
    assert judge.check_asserts(f"{program}def f(): return {value}", [test]).status == status


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


def test_nothing_of_the_zygote_is_in_a_frame_beneath_a_program(judge):
    program = (
        "import sys\nframe, beneath = sys._getframe(), []\nwhile frame := frame.f_back:\n"
        "    beneath += [type(value).__name__ for value in list(frame.f_locals.values())]\n"
        "def f():\n    return beneath\n"
    )
    tests = "assert 'Server' in f(), f()\nassert not {'Zygote', 'Limits', 'Child', 'generator', 'socket'} & {*f()}, f()"
    assert judge.check_asserts(program, [tests]).status == "pass"
    assert judge.check_asserts(program, [tests]).status == "pass"  # there is a check before it now
