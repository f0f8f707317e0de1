"""The program in an answer: Markdown of every shape, drafts, other blocks, answers that were cut; and hostile text."""

import time

import pytest

from wmtp_ray.evaluation.extraction import Goal, program_in

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"
F = Goal(frozenset({"f"}))


def fenced(program: str, info: str = "python", fence: str = "```") -> str:
    return f"{fence}{info}\n{program}{fence}\n"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))


DOCSTRING = "def f(x):\n    '''\n```\nf(1)\n```\n    '''\n    return x + 1\n"
ANSWERS = {
    "plain": RIGHT,
    "fenced": fenced(RIGHT),
    "windows line ends": ("Sure.\n" + fenced(RIGHT)).replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + RIGHT,
    "closing fence alone": RIGHT + "```",
    "closing fence and words": RIGHT + "```\nThis adds one.",
    "closing fence and a usage block": RIGHT + "```\nUsage:\n" + fenced("print(f(1))\n"),
    "in a list": "1. The function:\n\n" + indented(fenced(RIGHT), "   ") + "\n2. It adds one.",
    "in a list in a list": "- a\n  - b\n\n" + indented(fenced(RIGHT), "    "),
    "in a quotation": indented(fenced(RIGHT), "> "),
    "indented too deep for a fence": "Here:\n\n" + indented(fenced(RIGHT), "    "),
    "indented by tabs in a list": "- a\n\n\t```python\n\tdef f(x):\n\t\treturn x + 1\n\t```\n",
    "tabs": fenced("def f(x):\n\treturn x + 1\n"),
    "indented inside its fence": fenced(indented(RIGHT, "    ")),
    "tildes": fenced(RIGHT, fence="~~~"),
    "four backticks around three": fenced(DOCSTRING, fence="````"),
    "three backticks around three": fenced(DOCSTRING),
    "a docstring's own fence is indented": fenced(DOCSTRING.replace("```", "    ```")),
    "opened behind words": "Answer: " + fenced(RIGHT),
    "never closed": "Sure:\n```python\n" + RIGHT,
    "never closed, cut in the middle of a usage": "```python\n" + RIGHT + "\nprint(f(",
    "never closed, words behind": "```python\n" + RIGHT + "\nThis function adds one.",
    "a special token as text": "```python\n" + RIGHT.rstrip() + "<|im_end|>",
    "words around a bare function": "Here it is:\n\n" + RIGHT + "\nIt adds one.",
    "an indented block": "The function:\n\n" + indented(RIGHT, "    ") + "\nDone.",
    "the language as a line": "python\n" + RIGHT,
    "closed on the last line": "```python\n" + RIGHT.rstrip() + "```",
    "HTML": "<pre><code>" + RIGHT + "</code></pre>",
    "draft in a thought": "<think>\nFirst:\n" + fenced(WRONG) + "wrong.\n</think>\n" + fenced(RIGHT),
    "thought with a fence left open": "<think>\n```python\n" + WRONG + "</think>\n" + fenced(RIGHT),
    "thought without end": "<think>\nFirst:\n" + fenced(WRONG) + "No.\n" + fenced(RIGHT),
    "thought opened by the prompt": fenced(WRONG) + "No.\n</think>\n" + fenced(RIGHT),
    "thought before plain code": "<Thinking>hm\n" + WRONG + "</Thinking>" + RIGHT,
    "a draft left open, then another block": "```python\n" + WRONG + "\nHmm, no.\n" + fenced(RIGHT),
    "two versions": fenced(WRONG) + "Better:\n" + fenced(RIGHT),
    "a session before": "Used so:\n" + fenced(">>> f(1)\n2\n", "") + "Here:\n" + fenced(RIGHT),
    "a session behind": fenced(RIGHT) + fenced(">>> f(1)\n2\n", ""),
    "a usage before": fenced("print(f(1))\n") + fenced(RIGHT),
    "a usage behind": fenced(RIGHT) + fenced("print(f(1))\n"),
    "a shell before and behind": fenced("pip install numpy\n", "bash") + fenced(RIGHT) + fenced("ls\n", ""),
    "output behind": fenced(RIGHT) + fenced("2\n", ""),
    "imports in a block of their own": fenced("import math\n") + fenced("def f(x):\n    return math.floor(x) + 1\n"),
    "a helper in a block behind": fenced("def f(x):\n    return g(x)\n") + fenced("def g(x):\n    return x + 1\n"),
    "a helper behind the function": fenced("def f(x):\n    return g(x)\n\ndef g(x):\n    return x + 1\n"),
    "a class beside it": fenced(
        "class A:\n    def go(self, x):\n        return x + 1\n\ndef f(x):\n    return A().go(x)\n"
    ),
    "a name for a lambda": fenced("f = lambda x: x + 1\n"),
    "a tag in a string": fenced("def f(x):\n    '<think>.*</think>'.split()\n    return x + 1\n"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_right_function_is_found(name):
    namespace: dict[str, object] = {}
    exec(program_in(ANSWERS[name], F), namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]


@pytest.mark.parametrize(
    "info", ["", "Python", "PYTHON3", "py3", "python title='a.py'", "{.python .numberLines}", "text"]
)
def test_the_language_of_a_block_that_defines_the_function_does_not_matter(info):
    assert program_in("Here.\n" + fenced(RIGHT, info), F) == RIGHT


def test_a_coroutine_defines_its_name():
    assert program_in("Here.\n" + fenced("async " + RIGHT) + fenced("print(f(1))\n"), F) == "async " + RIGHT


def test_a_wrong_last_version_is_the_answer():
    assert program_in(fenced(RIGHT) + "Better:\n" + fenced(WRONG), F) == WRONG


def test_a_thought_is_no_answer_although_nothing_follows_it():
    assert "def f" not in program_in("<think>\n" + fenced(RIGHT) + "</think>\nThat is it.", F)


def test_a_method_does_not_define_the_function_and_its_class_is_still_what_is_judged():
    answer = fenced("class Solution:\n    def f(self, x):\n        return x + 1\n") + fenced("print(Solution().f(1))\n")
    assert program_in(answer, F).startswith("class Solution")


def test_without_a_program_that_defines_it_the_last_block_that_parses_is_judged_then_the_answer():
    assert program_in(fenced("x = 1\n") + fenced("y = 2\n") + fenced("no code\n", ""), F) == "y = 2\n"
    assert program_in("I cannot do that.", F) == "I cannot do that."
    assert program_in("", F) == ""


def test_a_program_for_standard_input_is_the_one_that_reads_it():
    reads = "n = int(input())\nprint(n + 1)\n"
    answer = fenced("print('draft')\n") + fenced(reads) + "Example:\n" + fenced("3\n", "") + fenced("print(3)\n")
    assert program_in(answer, Goal(reads_input=True)) == reads


HOSTILE = {
    "brackets": "(" * 40_000,
    "signs": "-" * 40_000 + "1",
    "attributes": "a" + ".b" * 20_000,
    "openings": "```\n" * 12_000,
    "thoughts": "<think>\n" * 6_000,
    "quotations": "> " * 20_000,
    "backticks": "`" * 40_000,
    "a NUL": "x = 1\0\n",
    "half a surrogate pair": "x = '\ud800'\n",
    "much of it": "x" * 5_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_raises_or_takes_long(name):
    started = time.process_time()
    assert isinstance(program_in(HOSTILE[name], F), str)
    assert time.process_time() - started < 5.0
