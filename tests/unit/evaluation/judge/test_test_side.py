import copy
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.evaluation.judge.sharing import update
from wmtp_ray.evaluation.judge.tests_job import free_names, prepare_tests


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def check(f):\n    assert f(1) == helper(limit)", {"helper", "limit"}),
        ("import math\nassert math.sqrt(f(x)) == 1", {"f", "x"}),
        ("x = 1\nassert f(x)", {"f"}),
        ("assert [y for y in f() if (lambda z: z + k)(y)]", {"f", "k"}),
        ("def g():\n    def h(): return deep\n    return h\nassert g()", {"deep"}),
        ("class A:\n    b = c\n    def m(self): return d", {"c", "d"}),
        ("try:\n    f()\nexcept Bad as e:\n    print(e)", {"f", "Bad", "print"}),
    ],
)
def test_names_that_tests_use_and_do_not_define(source, names):
    assert free_names((source,)) == names


def test_a_name_that_an_earlier_section_defines_is_not_free():
    assert free_names(("root = Node(1)", "assert f(root)")) == {"Node", "f"}


DATA = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 3), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=10,
)


@given(st.lists(DATA), st.lists(DATA))
def test_an_update_in_place_ends_equal_and_in_the_same_objects(mine, theirs):
    outer, inner = mine, [item for item in mine if isinstance(item, list)]
    assert update(mine, copy.deepcopy(theirs))
    assert outer is mine
    assert mine == theirs
    if len(inner) == len(theirs) == len([item for item in theirs if isinstance(item, list)]):
        assert [item for item in mine if isinstance(item, list)] == theirs


def test_an_interpreter_that_drops_asserts_keeps_those_of_tests():
    code = "from wmtp_ray.evaluation.judge.tests_job import prepare_tests\n"
    code += "print(len(prepare_tests(('assert f()',), None, call_check=False)))"
    sizes = {
        subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stdout
        for flags in ((), ("-O",))
    }
    assert sizes == {f"{len(prepare_tests(('assert f()',), None, call_check=False))}\n"}
