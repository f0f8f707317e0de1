"""Continuations of a function's head: what ends them, what of the rest belongs to them, and other ways to answer."""

import pytest

from wmtp_ray.evaluation.continuation import FunctionEnd, continuation_of

HEADS = {
    "with a docstring": 'import math\n\ndef f(x):\n    """Add one."""\n',
    "that does not parse": "def f(x):\n    # add one\n",
    "stripped": 'def f(x):\n    """Add one."""',
}
WHOLE = "def f(x):\n    return x + 1\n"
ANSWERS = {
    "as asked": "    return x + 1\n",
    "closing fence": "    return x + 1\n```\n\nThis adds one.\n",
    "closing fence, indented": "    return x + 1\n    ```\n",
    "a decorator of something unknown": "    return x + 1\n\n@unknown\nclass A: pass\n",
    "words": "    return x + 1\n\nExplanation: adds one.\n",
    "a word that parses": "    return x + 1\n\nDone\n",
    "words that parse as an annotation": "    return x + 1\n\nNote: done\n",
    "a wrong test of its own": "    return x + 1\n\nassert f(1) == 3\n",
    "a special token": "    return x + 1\n<|endoftext|>\n",
    "a special token on the line": "    return x + 1<|endoftext|>\nfoo",
    "a comment in column 0": "    y = x\n# now add\n    return y + 1\n",
    "text in column 0": "    s = '''\ndef a():\n'''\n    return x + 1\nThat is it.",
    "an import and an exit": "    return x + 1\n\nimport sys\nsys.exit(3)\n",
    "a main guard": "    return x + 1\n\nif __name__ == '__main__':\n    input()\n",
    "another version behind": "    return x + 1\n\ndef f(x):\n    return x\n",
    "a helper behind": "    return g(x)\n\nunknown()\n\ndef g(x):\n    return x + ONE\n\nONE = 1\n",
    "a class behind": "    return A().go(x)\n\nclass A:\n    def go(self, x):\n        return x + 1\n",
    "a wrapper behind": "    return x + 1\n\nfrom functools import cache\nf = cache(f)\n",
    "a function inside": "    def g(y):\n        return y + 1\n    return g(x)\n\nprint(1 / 0)\n",
    "windows line ends": "    return x + 1\r\n```\r\n",
    "the whole function": WHOLE,
    "the whole function, fenced": f"```python\n{WHOLE}```",
    "a fenced body": "```python\n    return x + 1\n```",
    "imports above": f"import sys\nfrom os import path\n\n{WHOLE}",
    "a future import above": f"from __future__ import annotations\n\n{WHOLE}",
    "a thought first": f"<think>\nhm: def\n</think>\n```python\n{WHOLE}```",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ANSWERS)
def test_the_right_function_passes_and_reading_it_twice_changes_nothing(head, name):
    prompt = HEADS[head]
    answer = ANSWERS[name] if prompt.endswith("\n") else "\n" + ANSWERS[name]
    kept = continuation_of(prompt, answer, "f")
    namespace = {"__name__": "judged"}
    exec(prompt + kept, namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]
    assert continuation_of(prompt, kept, "f") == kept


def test_what_needs_no_cut_is_kept_byte_for_byte():
    for answer in ("    return x + 1\n", "    return x + 1", "    y = x  # why\n\n    return y\n# end\n"):
        assert continuation_of(HEADS["with a docstring"], answer, "f") == answer


def test_tabs_continue_a_head_of_tabs():
    assert continuation_of('def f(x):\n\t"""Add one."""\n', "\treturn x + 1\nDone", "f") == "\treturn x + 1\n"


def test_helpers_of_the_head_stay_above_a_whole_function():
    prompt = 'def one():\n    return 1\n\ndef f(x):\n    """Add one."""\n'
    namespace: dict[str, object] = {}
    exec(prompt + continuation_of(prompt, "```\ndef f(x):\n    return x + one()\n```", "f"), namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]


def test_a_wrong_function_stays_wrong_and_no_function_stays_none():
    prompt = HEADS["with a docstring"]
    assert continuation_of(prompt, "    return x\n\ndef f(x):\n    return x + 1\n", "f") == "    return x\n"
    for nothing in ("Sorry.", "\n# Example usage:\nprint(f(1))\n", "\ndef g(x):\n    return x\n"):
        assert continuation_of(prompt, nothing, "f") == "", "counted as empty"
    assert continuation_of(prompt, "", "f") == ""


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("    return x + 1\n", False),
        ("    return x + 1\n\n", False),
        ("    return x + 1\n# and\n", False),
        ("    return x + 1\nde", False),
        ("    return x + 1\ndef g():\n", True),
        ("    return x + 1\nIt adds.\n", True),
        ("    return x + 1\n```\n", True),
        ("    return g(x)\ndef h():\n", False),
        ("    return g(x)\n\ndef g(x):\n    return x\n", False),
        ("    return g(x)\n\ndef g(x):\n    return x\n\ndef h():\n", True),
        ("    s = '''\ndef g():\n", False),
        ("    s = '''\ndef g():\n'''\n    return x\nx = 1\n", True),
        ("    return (x +\n1\n", False),
        ("import sys\n\ndef f(x):\n    return x\n", False),
        ("", False),
    ],
)
def test_a_decoder_stops_at_the_first_line_behind_the_function_and_its_helpers(text, finished):
    assert FunctionEnd(HEADS["with a docstring"], "f")(text) is finished
