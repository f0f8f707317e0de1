import ast
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.data.validation.normal_form import normal_program, normal_prose, stable_hash, words_of

PYTHON, CPP = 3, 2

# Lines that compile in any order inside one block, with what a comment or a blank could be mistaken for.
LINES = [
    "x = 1",
    "x  =  'a  # b'",
    "y = \"it's\"  # it's",
    "z = '\\'  # no'",
    "print(x,   y)\t# two",
    "s = '''a  b # c'''",
    "# only a comment",
    "",
    "   ",
    "if x:  # why\n        y = 2   \n    ",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=8))
def test_the_normal_form_of_a_program_is_the_same_program(lines: list[str]) -> None:
    program = "def f():\n    x = y = 0\n" + "".join(f"    {line}\n" for line in lines)
    normal = normal_program(program, PYTHON)
    assert ast.dump(ast.parse(normal)) == ast.dump(ast.parse(program))
    assert not any(line.endswith((" ", "\t")) or not line for line in normal.split("\n"))


@pytest.mark.parametrize(
    "same",
    ["x = 1\nif x:\n    y = 2", "x = 1  \r\nif x:\r\n    y = 2\r\n", "\n\nx  = 1 # one\n\nif x:\t# two\n    y = 2\n"],
)
def test_comments_blanks_and_line_ends_make_no_other_program(same: str) -> None:
    assert normal_program(same, PYTHON) == "x = 1\nif x:\n    y = 2"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("print('a b')", "print('a  b')"),
        ("for x in y:\n    f()\n    g()", "for x in y:\n    f()\ng()"),
        ("X = 1", "x = 1"),
        ("f(1, 2)", "f(1,\n2)"),
    ],
)
def test_strings_indentation_case_and_line_breaks_make_another_program(one: str, other: str) -> None:
    assert normal_program(one, PYTHON) != normal_program(other, PYTHON)


def test_a_comment_sign_is_a_comment_in_python_only() -> None:
    assert normal_program("#include <a>\nint  main() {}", CPP) == "#include <a>\nint main() {}"
    assert normal_program("#include <a>\nint  main() {}", PYTHON) == "int main() {}"


def test_prose_has_one_blank_between_words() -> None:
    assert normal_prose(" Add\n two \tNumbers. ") == "Add two Numbers."


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_words_are_those_of_the_regular_expression(text: str) -> None:
    assert words_of(text) == re.findall(r"\w+", text.lower())


def test_the_hash_is_the_same_in_every_process() -> None:
    assert stable_hash(b"ab", b"c") == 16001807656615224384
    assert stable_hash(b"a", b"bc") != stable_hash(b"ab", b"c")
