"""Objects that cross between the program and its tests: right, or `unserialisable`; never a wrong pass or failure."""

# ruff: noqa: E501 a program is easier to read on one line

import pytest

POINT = "from typing import NamedTuple\nclass Point(NamedTuple):\n    x: int\n    y: int = 3\n    def norm(self): return self.x + self.y\n"
COLLECTIONS = "from collections import Counter, OrderedDict, defaultdict, deque, namedtuple\n"
MONEY = "class Money:\n    def __init__(self, n): self.n = n\n    def __add__(self, o): return Money(self.n + o.n)\n    def __mul__(self, k): return Money(self.n * k)\n    __rmul__ = __mul__\n    def __iadd__(self, o):\n        self.n += o.n\n        return self\n    def __neg__(self): return Money(-self.n)\n    def __str__(self): return f'{self.n} EUR'\n    def __format__(self, spec): return format(self.n, spec)\n    def __int__(self): return self.n\n    def __lt__(self, o): return self.n < o.n\n    def __enter__(self): return self.n\n    def __exit__(self, *a): pass\n"
BANK = "class BankError(Exception):\n    def __init__(self, code, why):\n        super().__init__(code, why)\n        self.code, self.why = code, why\n    def __str__(self): return f'{self.why} ({self.code})'\n    @property\n    def is_fatal(self): return self.code > 5\nclass LimitError(BankError): pass\n"
CATCH = "def caught(kind, *a):\n    try:\n        f(*a)\n    except kind as error:\n        return error\n"

RIGHT = {
    "a field of a named tuple": (POINT + "def f(): return {'a': [Point(1)]}", "p = f()['a'][0]\nassert (p.y, p.norm(), p._asdict(), p) == (3, 4, {'x': 1, 'y': 3}, (1, 3))"),
    "the words of a named tuple": (POINT + "def f(): return Point(1)", "assert str(f()) == repr(f()) == 'Point(x=1, y=3)'\nassert type(f()).__name__ == 'Point'"),
    "a named tuple handed back": (POINT + "def f(): return Point(1)\ndef g(p): return p.norm()", "assert g(f()) == 4\nassert g(Point(5)) == 8\nassert f()._replace(x=7).x == 7"),
    "a member of an enumeration": ("import enum\nclass Color(enum.IntEnum):\n    RED = 1\nclass Word(str, enum.Enum):\n    HI = 'hi'\ndef f(): return [Color.RED, Word.HI]", "a, b = f()\nassert (a, b, a.name, b.value) == (1, 'hi', 'RED', 'hi')"),
    "a counter": (COLLECTIONS + "def f(): return [Counter('aab')]", "from collections import Counter\nc = f()[0]\nassert c['z'] == 0 and c.most_common(1) == [('a', 2)] and c - Counter('a') == Counter('ab')\nassert c == {'a': 2, 'b': 1} and isinstance(c, Counter)"),
    "zeros of a counter": (COLLECTIONS + "def f(): return Counter(a=0)", "from collections import Counter\nassert f() == Counter()"),
    "an ordered dict": (COLLECTIONS + "def f():\n    d = OrderedDict(b=1, a=2)\n    d.move_to_end('b')\n    return d", "from collections import OrderedDict\nassert f() == OrderedDict(a=2, b=1) and f() != OrderedDict(b=1, a=2) and list(f()) == ['a', 'b']"),
    "a defaultdict": (COLLECTIONS + "def f():\n    d = defaultdict(lambda: [7])\n    d[1] = 2\n    return d", "d = f()\nassert d == {1: 2} and d[5] == [7]"),
    "a deque": (COLLECTIONS + "def f(): return deque([1, 2], maxlen=2)", "from collections import deque\nd = f()\nassert d == deque([1, 2]) and d != [1, 2] and d[0] == 1\nd.append(3)\nassert list(d) == [2, 3]"),
    "dates": ("import datetime\ndef f(): return datetime.date(2024, 2, 28) + datetime.timedelta(1)", "import datetime\nassert f() == datetime.date(2024, 2, 29) and f().day == 29"),
    "an operator": (MONEY + "f = Money", "assert (f(1) + f(2)).n == 3 and (2 * f(4)).n == (f(4) * 2).n == 8 and (-f(1)).n == -1 and int(f(5)) == 5"),
    "an operator in place": (MONEY + "f = Money", "a = b = f(1)\na += f(5)\nassert b.n == 6 and a is b"),
    "the words of an object": (MONEY + "f = Money", "assert str(f(3)) == f'{f(3)!s}' == '3 EUR' and f'{f(3):03d}' == '003'"),
    "items that are set and removed": ("class Grid:\n    def __init__(self): self.d = {}\n    def __setitem__(self, k, v): self.d[k] = v\n    def __delitem__(self, k): del self.d[k]\n    def __len__(self): return len(self.d)\n    def __getitem__(self, k): return self.d[k]\nf = Grid", "g = f()\ng[1] = [2]\ng[2] = 3\ndel g[2]\nassert len(g) == 1 and g[1] == [2]"),
    "a subclass that changes its items": ("class Loud(list):\n    def __getitem__(self, i): return super().__getitem__(i) * 2\ndef f(): return Loud([1, 2])", "assert f()[1] == 4 and len(f()) == 2 and list(f()) == [1, 2]"),
    "an exception's arguments": ("def f(*a): raise ValueError(*a)", CATCH + "assert caught(ValueError, 'a', [3]).args == ('a', [3])\nassert caught(ValueError).args == () and str(caught(ValueError)) == ''"),
    "an exception's message": ("def f(): return {}['k']", CATCH + "e = caught(KeyError)\nassert str(e) == \"'k'\" and e.args[0] == 'k'"),
    "an exception's attributes": (BANK + "def f(n): raise LimitError(n, 'limit')", CATCH + "e = caught(BankError, 7)\nassert (e.code, e.why, e.is_fatal, e.args, str(e)) == (7, 'limit', True, (7, 'limit'), 'limit (7)')\nassert type(e).__name__ == 'LimitError' and not hasattr(e, 'other') and getattr(e, 'other', 5) == 5"),
    "an exception of the system": ("def f(): open('missing')", CATCH + "import errno\ne = caught(OSError)\nassert isinstance(e, FileNotFoundError) and e.errno == errno.ENOENT and e.filename == 'missing'"),
    "an exception of a library": ("import json\ndef f(): return json.loads('{')", CATCH + "import json\ne = caught(json.JSONDecodeError)\nassert e.pos == 1"),
    "the value of a StopIteration": ("def f(): raise StopIteration(5)", CATCH + "assert caught(StopIteration).value == 5"),
    "the cause of an exception": ("def f():\n    try: 1 / 0\n    except ZeroDivisionError as error: raise ValueError('x') from error", CATCH + "assert isinstance(caught(ValueError).__cause__, ZeroDivisionError)"),
    "an exception as a result": ("def f(): return [ValueError('x', 1)]", "assert isinstance(f()[0], ValueError) and f()[0].args == ('x', 1)"),
    "a group of exceptions": ("def f(): raise ExceptionGroup('g', [ValueError(1), KeyError(2)])", CATCH + "assert [type(e) for e in caught(ExceptionGroup).exceptions] == [ValueError, KeyError]"),
    "what a call did before it raised": ("def f(xs):\n    xs.append(1)\n    raise ValueError", CATCH + "x = []\ncaught(ValueError, x)\nassert x == [1]"),
    "one list in two places of a result": ("def f():\n    row = [0]\n    return [row, {'a': row}]", "x = f()\nx[0].append(1)\nassert x == [[0, 1], {'a': [0, 1]}]"),
    "an argument within the result": ("def f(xs): return {'all': [xs]}", "a = [1]\nr = f(a)\na.append(2)\nassert r == {'all': [[1, 2]]} and r['all'][0] is a"),
    "an argument that is put into another": ("def f(a, b): a.append(b)", "a, b = [], [1]\nf(a, b)\nb.append(2)\nassert a == [[1, 2]]"),
    "an argument that an object keeps": ("class Log:\n    def __init__(self, xs): self.xs = xs\n    def add(self, x): self.xs.append(x)\n    def total(self): return sum(self.xs)\nf = Log", "x = [1]\nlog = f(x)\nlog.add(2)\nassert x == [1, 2]\nx.append(3)\nassert log.total() == 6"),
    "an attribute that the tests change": ("class Log:\n    def __init__(self): self.xs = []\n    def size(self): return len(self.xs)\nf = Log", "log = f()\nlog.xs.append(1)\nassert log.size() == 1"),
    "a result that the tests change": ("store = [1]\ndef f(): return store\ndef total(): return sum(store)", "f().append(2)\nassert total() == 3"),
    "a global deque that changes": (COLLECTIONS + "log = deque(maxlen=2)\ndef f(x): log.append(x)", "f(1)\nf(2)\nf(3)\nassert list(log) == [2, 3]"),
    "a global name that changes": ("count = 0\nlog = []\ndef f():\n    global count\n    count += 1\n    log.append(count)", "f()\nf()\nassert (count, log) == (2, [1, 2])"),
    "random numbers after a seed of the tests": ("import random\ndef f(): return [random.random() for _ in range(3)]", "import random\nrandom.seed(7)\na = f()\nrandom.seed(7)\nassert f() == a and [random.random() for _ in range(3)] == a"),
    "Ellipsis": ("def f(): return ...", "assert f() is ..."),
}  # fmt: skip
LENT = {
    "a function": ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x * x + 1, [0, 7]) == [1, 50]"),
    "functions of the library": ("def f(g, *xs): return g(*xs)", "import functools, math, operator\nassert f(math.gcd, 4, 6) == 2 and f(operator.itemgetter(1), [5, 6]) == 6\nassert f(str.upper, 'a') == 'A' and f(functools.partial(pow, 2), 3) == 8 and f(len, [1]) == 1"),
    "a bound method": ("def f(g, n):\n    for i in range(n): g(i)", "seen = []\nf(seen.append, 3)\nassert seen == [0, 1, 2]"),
    "a function that changes its argument": ("def f(g):\n    x = [1]\n    g(x)\n    return x", "assert f(lambda x: x.append(2)) == [1, 2]"),
    "a function that raises": ("def f(g):\n    try: return g(0)\n    except ZeroDivisionError as error: return str(error)", "assert f(lambda x: 1 / x) == 'division by zero'"),
    "an exception of the tests that passes through": ("def f(g): return g(5)", "class OwnError(Exception):\n    pass\nerror = OwnError([1])\ndef g(x): raise error\ntry:\n    f(g)\n    assert False\nexcept OwnError as found:\n    assert found is error"),
    "a function that calls the program": ("def f(g, n): return g(n) if n else 0", "def g(n): return 1 + f(g, n - 1)\nassert f(g, 20) == 20"),
    "a function that gets one of the program": ("def f(g): return g(lambda x: x + 1)", "assert f(lambda h: h(h(5))) == 7"),
    "a function that comes back": ("def f(g): return [g]", "def g(): pass\nassert f(g)[0] is g"),
    "a function that is decorated": ("import functools\ndef f(g):\n    known = {}\n    @functools.wraps(g)\n    def once(n):\n        if n not in known: known[n] = g(n)\n        return known[n]\n    return once", "calls = []\n@f\ndef square(n):\n    calls.append(n)\n    return n * n\nassert (square(3), square(3), calls, square.__name__) == (9, 9, [3], 'square')"),
    "a function for another thread": ("from concurrent.futures import ThreadPoolExecutor\ndef f(g, xs):\n    with ThreadPoolExecutor(4) as pool: return list(pool.map(g, xs))", "assert f(lambda x: x * x, range(9)) == [x * x for x in range(9)]"),
    "an iterator": ("def f(it): return [x for x in it]", "assert f(x for x in 'ab') == ['a', 'b'] and f(iter([1])) == [1] and f(map(int, '12')) == [1, 2] and f(zip('a', 'b')) == [('a', 'b')]"),
    "an iterator without an end": ("def f(it): return next(it) + next(it)", "import itertools\nit = itertools.count(1)\nassert f(it) == 3 and next(it) == 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT | LENT)
def test_what_crosses_is_as_in_one_process(judge, name):
    program, test = (RIGHT | LENT)[name]
    verdict = judge.check_asserts(program, [test], entry_point="f")
    assert verdict.status == "pass", verdict
    assert judge.check_asserts(program, [test, "assert not 'reached'"], entry_point="f").status == "fail"


WRONG = {
    "an ordered dict in another order": (COLLECTIONS + "def f(): return OrderedDict(b=1, a=2)", "from collections import OrderedDict\nassert f() == OrderedDict(a=2, b=1)"),
    "a subclass that changes its items": ("class Loud(list):\n    def __getitem__(self, i): return 9\ndef f(): return Loud([1])", "assert f()[0] == 1"),
    "a subclass that changes its length": ("class Loud(list):\n    def __len__(self): return 7\ndef f(): return Loud([1])", "assert len(f()) == 1"),
    "a subclass that is never equal": ("class No(int):\n    def __eq__(self, other): return False\n    __hash__ = int.__hash__\ndef f(): return No(5)", "assert f() == 5"),
    "a deque for a list": (COLLECTIONS + "def f(): return deque([1])", "assert f() == [1]"),
    "another argument": ("def f(): raise ValueError('a', 4)", CATCH + "assert caught(ValueError).args == ('a', 3)"),
    "another attribute": (BANK + "def f(): raise BankError(8, 'x')", CATCH + "assert getattr(caught(BankError), 'code', 7) == 7"),
    "rows that are one": ("def f(n): return [[0] * n] * n", "x = f(2)\nx[0][0] = 1\nassert x == [[1, 0], [0, 0]]"),
    "a copy that is none": ("def f(xs): return [xs]", "a = [1]\nr = f(a)\na.append(2)\nassert r == [[1]]"),
    "an argument that is kept": ("class Log:\n    def __init__(self, xs): self.xs = xs\n    def add(self): self.xs.append(1)\nf = Log", "x = []\nf(x).add()\nassert x == []"),
    "a state that the tests can change": ("class Log:\n    def __init__(self): self.xs = []\n    def size(self): return len(self.xs)\nf = Log", "log = f()\nlog.xs.append(1)\nassert log.size() == 0"),
    "a global name": ("count = 0\ndef f():\n    global count\n    count += 1", "f()\nassert count == 0"),
    "an iterator that is used up": ("def f(it):\n    sum(it)\n    return sum(it)", "assert f(x for x in [1, 2]) == 3"),
    "a function that is called twice": ("def f(g): return [g(), g()][0]", "calls = []\nf(lambda: calls.append(1))\nassert calls == [1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_one_process_is_no_pass(judge, name):
    program, test = WRONG[name]
    assert judge.check_asserts(program, [test], entry_point="f").status in ("fail", "unserialisable")


UNSERIALISABLE = {
    "an order of the program": (MONEY + "f = Money", "assert f(1) < f(2)"),
    "equality of the program": (MONEY + "f = Money", "assert f(1) == Money(1)"),
    "a class of the program": (MONEY + "f = Money", "assert isinstance(f(1), Money)"),
    "a class of the tests": (MONEY + "f = Money", "class Mine: pass\nassert not isinstance(f(1), Mine)"),
    "a subclass of the program's class": (MONEY + "f = Money", "class Euro(Money): pass"),
    "a context of the program": (MONEY + "f = Money", "with f(1) as n: assert n == 1"),
    "a coroutine": ("async def f(): return 5", "import asyncio\nassert asyncio.run(f()) == 5"),
    "a copy of an object": (MONEY + "f = Money", "import copy\nassert copy.deepcopy(f(1)).n == 1"),
    "the inside of a function of the tests": ("def f(g): return g.__code__.co_argcount", "assert f(lambda a, b: 0) == 2"),
    "the signature of a function of the tests": ("import inspect\ndef f(g): return len(inspect.signature(g).parameters)", "assert f(lambda a, b: 0) == 2"),
    "what the program prints": ("def f(): print('hi')", "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out: f()\nassert out.getvalue() == 'hi\\n'"),
    "what the program reads": ("def f(): return input()", "import io, sys\nsys.stdin = io.StringIO('hi')\nassert f() == 'hi'"),
    "an object of the tests": ("def f(x): return x.n", "class Mine:\n    n = 5\nassert f(Mine()) == 5"),
    "a named tuple of the tests": ("def f(x): return x.n", "from collections import namedtuple\nassert f(namedtuple('N', 'n')(5)) == 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSERIALISABLE)
def test_what_cannot_be_told_is_said_to_be(judge, name):
    program, test = UNSERIALISABLE[name]
    verdict = judge.check_asserts(program, [test], entry_point="f")
    assert verdict.status == "unserialisable", verdict


FORGERIES = {
    "asks for what was not lent": "channel.send(['ask', 'call', 0, {'t': []}])",
    "asks for an item of what was not lent": "channel.send(['ask', 'next', -1, [[], {'d': []}]])",
    "asks for nothing": "channel.send(['ask'])",
    "replies without a question": "channel.send(['reply', 'value', 5, None])",
    "raises what is no exception": "channel.send([2, 'raised', 5, None, None, [], None])",
    "raises the judge's own exception": "channel.send([2, 'raised', {'x': [{'h': [99, 'library exception', ['wmtp_ray.evaluation.judge.remote_session', 'ProgramTroubleError', []]]}, {'t': []}, None, '', None, -1]}, None, None, [], None])",
    "raises what is an instance of plain data": "channel.send([2, 'raised', {'x': [{'T': 'int'}, {'t': []}, None, '', None, -1]}, None, None, [], None])",
    "gives an exception another class": "channel.send([2, 'raised', {'x': [{'h': [99, 'builtin exception', 'ValueError']}, {'t': []}, {'d': [['__class__', {'h': [98, 'builtin exception', 'KeyError']}], ['__traceback__', 5]]}, '', None, -1]}, None, None, [], None])",
    "names a class without a family": "channel.send([2, 'raised', {'x': [{'h': [99, 'exception', ['E', []]]}, {'t': []}, None, '', None, -1]}, None, None, [], None])",
    "answers with a part of an answer": "channel.send([2, 'value', 5, None, None, [], [[], []]])",
    "shares places that are not there": "channel.send([2, 'value', 5, None, None, [], [[[[7], [1]]], [], []]])",
    "keeps arguments that are not there": "channel.send([2, 'value', 5, None, None, [], [[], [[9, 1]], []]])",
    "renames what the tests define": "channel.send([2, 'value', 0, None, None, [], [[], [], [['check', None], ['abs', None], ['candidate', None]]]])",
    "changes what was never shared": "channel.send([2, 'value', 0, None, None, [[5, []]], None])",
    "says that a subclass is of an object": "channel.send([2, 'value', {'q': [0, 'All', {'h': [0, 'object', '']}]}, None, None, [], None])",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_an_answer_of_another_form_is_no_pass_and_no_error(deceive, name):
    """The program answers the first call itself, in place of the server."""
    program = "import sys\nchannel = sys._getframe(2).f_locals['self']._channel\n"
    verdict = deceive(f"{program}def add(a, b):\n    {FORGERIES[name]}\n    return 0\n")
    assert verdict.status in ("fail", "unserialisable"), verdict
