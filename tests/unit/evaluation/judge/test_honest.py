"""Honest programs of every kind: the sandbox must not be what fails them."""

# ruff: noqa: E501 a program is easier to read on one line

import pytest

SCRIPTS = {
    "input": ("a, b = map(int, input().split())\nprint(a + b)", "2 3\n", "5"),
    "a main guard": ("def main(): print(input())\nif __name__ == '__main__': main()", "x", "x"),
    "lines of stdin": ("import sys\nprint(sum(int(line) for line in sys.stdin))", "1\n2\n3\n", "6"),
    "bytes of stdin": ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", "1 2 3", "6"),
    "open(0)": ("print(sum(map(int, open(0).read().split())))", "1 2 3", "6"),
    "os.read": ("import os\nprint(os.read(0, os.fstat(0).st_size).decode().strip())", "word\n", "word"),
    "an iterator over input": ("for line in iter(input, 'end'): print(line)", "a\nb\nend\n", "a\nb"),
    "an end of input that is caught": (
        "try:\n    while True: print(input())\nexcept EOFError: print('end')", "a\n", "a\nend"),
    "flushed output": ("print('a', flush=True)\nimport sys\nsys.stdout.write('b\\n')", "", "a\nb"),
    "output by bytes": ("import sys\nsys.stdout.buffer.write(b'a\\n')", "", "a"),
    "output by descriptor": ("import os\nos.write(1, b'a\\n')", "", "a"),
    "exit code 0": ("import sys\nprint('a')\nsys.exit(0)", "", "a"),
    "exit without a code": ("print('a')\nexit()", "", "a"),
    "quit": ("print('a')\nquit()", "", "a"),
    "os._exit after a flush": ("import os\nprint('a', flush=True)\nos._exit(0)", "", "a"),
    "words that are not English": ("print(input()[::-1], 'ž', '中', '😀')", "äöü", "üöä ž 中 😀"),
    "empty output": ("pass", "", ""),
    "blanks at the ends": ("print('a  b ')\nprint()", "", "a b"),
    "an exit handler": ("import atexit\natexit.register(print, 'b')\nprint('a')", "", "a\nb"),
    "threads": (
        "import threading\nx = []\nts = [threading.Thread(target=x.append, args=(i,)) for i in range(8)]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]\nprint(sum(x))", "", "28"),
    "a thread that nobody joins": ("import threading\nthreading.Thread(target=print, args=('a',)).start()", "", "a"),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as p:\n"
        "    print(sum(p.map(int, '123')))", "", "6"),
    "a thread with a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(256 << 20)\n"
        "def depth(n): return n if n == 0 else 1 + depth(n - 1)\n"
        "t = threading.Thread(target=lambda: print(depth(50000)))\nt.start()\nt.join()", "", "50000"),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef depth(n): return n if n == 0 else 1 + depth(n - 1)\n"
        "print(depth(20000))", "", "20000"),
    "a larger stack limit": (
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 28, resource.RLIM_INFINITY))\nprint('a')",
        "", "a"),
    "temporary files": (
        "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('a')\n    f.seek(0)\n"
        "    print(f.read())\nwith tempfile.TemporaryDirectory() as d:\n    open(d + '/x', 'w').write('b')\n"
        "    print(open(d + '/x').read())", "", "a\nb"),
    "files of its own": ("open('x', 'w').write('a')\nimport os\nos.rename('x', 'y')\nprint(open('y').read())", "", "a"),
    "numpy": ("import numpy as np\nprint(int(np.linalg.inv(np.eye(3) * 0.5).sum()))", "", "6"),
    "asyncio": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.001)\n    return 'a'\nprint(asyncio.run(f()))", "", "a"),
    "a dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "print(P(1))", "", "P(x=1)"),
    "a pickle": ("import pickle\nclass P: pass\nprint(type(pickle.loads(pickle.dumps(P()))).__name__)", "", "P"),
    "a signal to itself": (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('a'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.05)", "", "a"),
    "large libraries of the standard library": (
        "import ctypes, decimal, hashlib, html, json, sqlite3, ssl, unicodedata, uuid, xml.dom.minidom, zlib, zoneinfo\n"
        "print(hashlib.sha256(b'').hexdigest()[:4], sqlite3.connect(':memory:').execute('select 1').fetchone())",
        "", "e3b0 (1,)"),
    "random numbers": ("import os, random, secrets\nrandom.seed(1)\nprint(len(os.urandom(4)), random.random() < 1)", "", "4 True"),
    "an end of stdout": ("import sys\nprint('a')\nsys.stdout.close()", "", "a"),
    "an end of all streams": ("import sys\nx = sys.stdin.read()\nprint(x)\nsys.stdin.close()\nsys.stdout.close()\nsys.stderr.close()", "a", "a"),
    "a descriptor that is closed after a flush": ("import os\nprint('a', flush=True)\nos.close(1)", "", "a"),
    "no stdout any more": ("import sys\nprint('a', flush=True)\nsys.stdout = None\nprint('b')", "", "a"),
    "a writer that nobody flushes": ("f = open(1, 'w', closefd=False)\nf.write('a')", "", "a"),
    "a writer that is closed": ("with open(1, 'w') as f:\n    f.write('a')", "", "a"),
    "a stdout of its own": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, write_through=False)\nprint('a')", "", "a"),
    "words of an object that is deleted last": (
        "class A:\n    def __del__(self): print('b')\na = A()\nprint('a')", "", "a\nb"),
    "words of objects in a cycle": (
        "class A:\n    def __del__(self): print('b')\na = A()\na.a = a\ndel a\nprint('a')", "", "a\nb"),
    "an exit handler that closes stdout": (
        "import atexit, sys\natexit.register(sys.stdout.close)\nprint('a')", "", "a"),
    "an exit handler that fails": ("import atexit\natexit.register(lambda: 1 / 0)\nprint('a')", "", "a"),
    "a hook for errors": (
        "import sys\nsys.excepthook = lambda *a: None\nimport atexit\natexit.register(print, 'b')\nprint('a')\nsys.exit(0)", "", "a\nb"),
    "stdin by name": ("print(open('/dev/stdin').read())", "a", "a"),
    "stdin by number": ("print(open('/dev/fd/0', 'rb').read().decode(), open('/proc/self/fd/0').read())", "a", "a"),
    "stdin by a path": ("import pathlib\nprint(pathlib.Path('/dev/stdin').read_text())", "a", "a"),
    "stdin by a descriptor": ("import os\nprint(os.read(os.open('/dev/stdin', os.O_RDONLY), 10).decode())", "a", "a"),
    "stdin by fileinput": ("import fileinput\nfor line in fileinput.input(['/dev/stdin']): print(line)", "a", "a"),
    "stdin in memory": ("import mmap\nprint(mmap.mmap(0, 0, prot=mmap.PROT_READ).read().decode())", "a", "a"),
    "a new stdin": ("import sys\nsys.stdin = open('/dev/stdin')\nprint(input())", "a", "a"),
    "stdout by name": ("print('a', file=open('/dev/stdout', 'w'))", "", "a"),
    "its own name": (
        "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\nprint(os.path.basename(__file__))", "", "program.py"),
    "more digits than Python converts": ("n = int(input())\nprint(len(str(n * n)), str(n)[:3])", "7" * 5000, "10000 777"),
    "more digits in its text": (f"print({'8' * 5000} % 10)", "", "8"),
    "the depth of a script": ("def f(n): return n and 1 + f(n - 1)\nprint(f(998))", "", "998"),
    "a depth that is caught": (
        "def f(n): return f(n + 1)\ntry: f(0)\nexcept RecursionError: print('a')", "", "a"),
    "a depth of its own": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(100000))", "", "100000"),
    "a temporary file that is written again and again": (
        "for _ in range(10):\n    with open('x', 'wb') as f: f.write(bytes(4 << 20))\nprint('a')", "", "a"),
    "many directories in each other": (
        "import os, time\nfor _ in range(300):\n    os.mkdir('d')\n    os.chdir('d')\ntime.sleep(0.05)\nprint('a')", "", "a"),
    "a garbage collection": ("import gc\nprint(gc.isenabled(), gc.collect() >= 0)", "", "True True"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_honest_script_passes(judge, name):
    program, stdin, expected = SCRIPTS[name]
    verdict = judge.check_stdio(program, stdin, expected)
    assert verdict.status == "pass", verdict
    assert judge.check_stdio(program, stdin, f"{expected}\nmore").status == "fail"


SCRIPTS_THAT_FAIL = {
    "a signal that ends it": "import signal, time\nprint('a', flush=True)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.2)",
    "a signal to itself": "import os, signal\nprint('a', flush=True)\nos.kill(os.getpid(), signal.SIGTERM)",
    "an abort": "import os\nprint('a', flush=True)\nos.abort()",
    "output that is lost": "import os\nprint('a', flush=True)\nprint('b')\nos.close(1)",
    "an error that a hook hides": "import sys\nsys.excepthook = lambda *a: None\nprint('a')\n1 / 0",
    "an exit in a hook": "import sys\nsys.excepthook = lambda *a: sys.exit(0)\nprint('a')\n1 / 0",
    "another process": "import subprocess, sys\nprint('a', flush=True)\nsubprocess.run([sys.executable, '-c', ''])",
    "a pool of processes": "from multiprocessing import Pool\nprint('a', flush=True)\nwith Pool(2) as p: p.map(int, '12')",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS_THAT_FAIL)
def test_a_script_that_ends_badly_after_the_right_output_fails(judge, name):
    verdict = judge.check_stdio(SCRIPTS_THAT_FAIL[name], "", "a")
    assert verdict.status == "fail", verdict


def test_large_output_and_large_input_pass(judge):
    text = "\n".join(["x" * 1000] * 20_000)
    verdict = judge.check_stdio("import sys\nsys.stdout.write(sys.stdin.read())", text, text, timeout_s=5.0)
    assert verdict.status == "pass", verdict


@pytest.mark.parametrize(
    "program", ["import sys\nprint('a')\nsys.exit(1)", "print('a')\n1 / 0", "print('a'); exit('b')"]
)
def test_the_right_output_with_an_exit_code_is_a_failure(judge, program):
    assert judge.check_stdio(program, "", "a").status == "fail"


FUNCTIONS = {
    "changes a list in place": (
        "def f(xs):\n    xs.sort()\n    xs[0] = [9]\n", ["xs = [3, 1, 2]\nf(xs)\nassert xs == [[9], 2, 3]"]),
    "changes a matrix in place": (
        "def f(m):\n    m[0][1], m[1][0] = m[1][0], m[0][1]\n",
        ["m = [[1, 2], [3, 4]]\nrow = m[0]\nf(m)\nassert m == [[1, 3], [2, 4]]\nassert row == [1, 3]"]),
    "changes a dict and a set in place": (
        "def f(d, s):\n    d['b'] = 2\n    s.discard(1)\n", ["d, s = {'a': 1}, {1, 2}\nf(d, s=s)\nassert (d, s) == ({'a': 1, 'b': 2}, {2})"]),
    "takes keywords": ("def f(a, *, b=2, **rest): return a, b, rest", ["assert f(1, b=3, c=4) == (1, 3, {'c': 4})"]),
    "has a mutable default": ("def f(x, seen=[]):\n    seen.append(x)\n    return seen", ["f(1)\nassert f(2) == [1, 2]"]),
    "has global state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", ["assert [f(), f(), f()] == [1, 2, 3]"]),
    "is a generator": ("def f(n):\n    yield from range(n)", ["assert list(f(3)) == [0, 1, 2]", "assert sum(f(4)) == 6", "assert next(f(1)) == 0"]),
    "returns a map": ("def f(xs): return map(str, xs)", ["assert list(f([1, 2])) == ['1', '2']"]),
    "returns a deque": ("from collections import deque\ndef f(): return deque([1, 2])", ["assert list(f()) == [1, 2]", "assert len(f()) == 2"]),
    "returns nested data": (
        "def f(): return {(1, 2): [{3}, frozenset({4}), b'5', 6j, None, True, 7.5, range(3)]}",
        ["assert f() == {(1, 2): [{3}, frozenset({4}), b'5', 6j, None, True, 7.5, range(3)]}"]),
    "returns subclasses of plain data": (
        "from collections import Counter, OrderedDict, defaultdict, namedtuple\nP = namedtuple('P', 'x y')\n"
        "def f(): return Counter('aab'), P(1, 2), OrderedDict(a=1), defaultdict(int, b=2)",
        ["assert f() == ({'a': 2, 'b': 1}, (1, 2), {'a': 1}, {'b': 2})"]),
    "returns numpy scalars": ("import numpy as np\ndef f(): return np.int64(3), [np.float64(0.5)], np.bool_(True)", ["assert f() == (3, [0.5], True)"]),
    "returns an exact number": (
        "from decimal import Decimal\nfrom fractions import Fraction\ndef f(): return Decimal('0.1'), Fraction(1, 3)",
        ["from fractions import Fraction\nassert f()[1] == Fraction(1, 3)\nassert str(f()[0]) == '0.1'"]),
    "returns what floats have": ("def f(): return [float('inf'), float('nan'), -0.0]", ["a, b, c = f()\nassert a > 1e308 and b != b and str(c) == '-0.0'"]),
    "returns a lone surrogate": ("def f(): return '\\ud800'", ["assert f() == '\\ud800'"]),
    "returns a type": ("def f(x): return type(x)", ["assert f(1) is int and f('') == str"]),
    "takes types and builtins": ("def f(xs, key): return sorted(xs, key=key)", ["assert f(['10', '9'], int) == ['9', '10']", "assert f(['aa', 'b'], len) == ['b', 'aa']"]),
    "raises what tests expect": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return int('x')",
        ["try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'negative'"]),
    "raises an error of its own": (
        "class Bad(KeyError): pass\ndef f(): raise Bad('b')",
        ["try:\n    f()\n    assert False\nexcept Bad: pass", "try:\n    f()\n    assert False\nexcept KeyError: pass"]),
    "raises an error of a family": (
        "class Base(Exception): pass\nclass Mixed(Base, KeyError): pass\nclass Other(Exception): pass\ndef f(): raise Mixed('b')",
        ["try:\n    f()\n    assert False\nexcept Base: pass", "try:\n    f()\n    assert False\nexcept KeyError: pass",
         "try:\n    f()\n    assert False\nexcept Other: assert False\nexcept Base as e: assert type(e) is Mixed"]),
    "raises an error of a library": (
        "import json\ndef f(): return json.loads('[')",
        ["import json\ntry:\n    f()\n    assert False\nexcept ValueError: pass"]),
    "raises an error with many parts": ("def f(): return b'\\xff'.decode()", ["try:\n    f()\n    assert False\nexcept UnicodeDecodeError: pass"]),
    "has classes that tests build": (
        "class Node:\n    def __init__(self, x): self.x, self.next = x, None\n"
        "def f(node): return 0 if node is None else node.x + f(node.next)",
        ["head = Node(1)\nhead.next = Node(2)\nassert f(head) == 3\nassert f([head, head][0].next) == 2\nassert head.next.x == 2"]),
    "has classes with methods": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def __len__(self): return len(self.items)\n    def __getitem__(self, i): return self.items[i]",
        ["s = Stack()\ns.push(4)\nassert len(s) == 1 and s[0] == 4 and s.items == [4]"]),
    "has helpers that tests use": ("LIMIT = 3\ndef g(x): return x * LIMIT\ndef f(x): return g(x)", ["assert f(2) == g(2) == 2 * LIMIT"]),
    "imports what tests use": ("import math\ndef f(x): return math.sqrt(x)", ["assert math.isclose(f(2) ** 2, 2)"]),
    "is called like a builtin": ("def sum(a, b): return a + b", ["assert sum(1, 2) == 3"]),
    "prints while it computes": ("def f():\n    print('noise' * 1000, flush=True)\n    return 1", ["assert f() == 1"]),
    "uses a main guard": ("def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit(input())", ["assert f() == 1"]),
    "recurses": ("import sys\nsys.setrecursionlimit(10**5)\ndef f(n): return n and 1 + f(n - 1)", ["assert f(20000) == 20000"]),
    "recurses as deep as in a script": ("def f(n): return n and 1 + f(n - 1)", ["assert f(997) == 997"]),
    "has more digits than Python converts": (
        "def f(n): return str(n ** 2), sum(map(int, str(n)))",
        [f"n = {'9' * 5000}", "assert len(f(n)[0]) == 10000", "assert f(n)[1] == 45000", "assert str(n) + '0' == str(n * 10)"]),
    "caches": ("from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)", ["assert f(90) == 2880067194370816120"]),
    "changes one list in two places": (
        "def f(m): m[0][0] = 1", ["row = [0, 0]\nm = [row, row]\nf(m)\nassert m == [[1, 0], [1, 0]] and m[0] is row is m[1]"]),
    "changes an argument that is another too": (
        "def f(a, b, c): a.append(1)\ndef g(d): d['x'].append(2)",
        ["a = []\nf(a, a, c=a)\nassert a == [1]", "b = []\nd = {'x': b, 'y': [b]}\ng(d)\nassert d == {'x': [2], 'y': [[2]]} and d['x'] is b"]),
    "returns its argument": ("def f(x): return x", ["a = [1]\nassert f(a) is a", "a = [1]\nb = f(a)\nb.append(2)\nassert a == [1, 2]"]),
    "returns a list that it keeps": (
        "x = []\ndef f(n):\n    x.append(n)\n    return x", ["a = f(1)\nb = f(2)\nassert a is b and a == [1, 2]"]),
    "returns new lists": (
        "def f(n): return [n]", ["xs = [f(n) for n in range(50)]\nassert xs == [[n] for n in range(50)]\nassert len({id(x) for x in xs}) == 50"]),
    "returns objects that compare only with their like": (
        "class Node:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x\n"
        "def f(n): return [Node(n)]", ["a = f(1)\nb = f(2)\nassert a[0].x == 1 and b[0].x == 2"]),
    "yields new lists": (
        "def f(n):\n    for i in range(n): yield list(range(i))", ["assert list(f(40)) == [list(range(i)) for i in range(40)]"]),
    "raises StopIteration": (
        "def f(it): return next(it)\ndef g(): return iter(())",
        ["try:\n    f(g())\n    assert False\nexcept StopIteration: pass", "try:\n    next(g())\n    assert False\nexcept StopIteration: pass", "assert list(g()) == []"]),
    "has an object that is called like a module": (
        "class Queue:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\nqueue = Queue()\n"
        "def f(): return queue.items",
        ["queue.push(1)\nassert f() == [1]"]),
    "is typed": ("from typing import List, Optional\ndef f(xs: List[int]) -> Optional[int]: return max(xs, default=None)", ["assert f([]) is None and f([1]) == 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_honest_function_passes(judge, name):
    program, asserts = FUNCTIONS[name]
    verdict = judge.check_asserts(program, asserts)
    assert verdict.status == "pass", verdict
    assert judge.check_asserts(program, [*asserts, "assert not 'reached'"]).status == "fail"


def test_setup_code_comes_after_the_program(judge):
    program = "class Node:\n    def __init__(self, x): self.x = x\ndef f(node): return node.x\nroot = None"
    assert judge.check_asserts(program, ["assert f(root) == 5"], "root = Node(5)").status == "pass"


def test_tests_may_use_other_functions_of_the_program(judge):
    tests = "def check(candidate):\n    for x in range(5):\n        assert decode(candidate(x)) == x\n"
    program = "def encode(x): return x + 1\ndef decode(x): return x - 1"
    assert judge.check_function(program, tests, "encode").status == "pass"


def test_no_signal_has_a_handler_that_python_does_not_set(judge):
    program = "import signal\nprint([s.name for s in signal.Signals if callable(signal.getsignal(s))])"
    assert judge.check_stdio(program, "", "['SIGINT']").status == "pass"
