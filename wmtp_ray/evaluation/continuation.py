"""From what a model wrote behind the head of a function to the program of both. Judges nothing.

docs/evaluation.md states the rule; `extraction.py` reads answers that are programs of their own.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wmtp_ray.evaluation.extraction import FITS, Goal, blocks, program_in, unix, without_thoughts
from wmtp_ray.evaluation.python_source import (
    BUILTINS,
    DEFINITIONS,
    MAX_CHARS,
    bound_names,
    global_names,
    is_incomplete,
    longest_prefix,
    parse,
    used_names,
)

_FUTURE = re.compile(r"^from __future__ import [^\n]*(?:\n|\Z)", re.M)


def continuation_of(prompt: str, answer: str, entry_point: str) -> str:
    """Return what follows `prompt`, the head of a function, so that both together are the program that was meant.

    It ends with the function; definitions behind it stay where the function uses them. An answer that is the whole
    function once more, fenced or not, replaces the head. Where nothing defines the function, it is the answer, or
    nothing if that leaves the function at once.

        prompt "def f(x):\\n", answer "    return x\\n```\\nIt returns x."  -> "    return x\\n"
    """
    answer = _FUTURE.sub("", unix(answer))  # it may only open a file, and the prompt stands before it
    continued = _continued(prompt, answer, entry_point)
    if continued is not None:
        return continued
    if len(answer) > MAX_CHARS:
        return answer
    plain, goal = without_thoughts(answer), Goal(frozenset((entry_point,)))
    program = program_in(plain, goal)
    if goal.rank(program) == FITS:
        return _replaced_head(prompt, program, entry_point)
    found = [block for indented_code in (False, True) for block in blocks(plain, indented_code=indented_code)]
    broken = "" if prompt.endswith("\n") else "\n"
    for body in (*(broken + block.content for block in reversed(found)), plain):
        continued = _continued(prompt, body, entry_point)
        if continued is not None:
            return continued
    lines = [line for line in answer.split("\n") if line.strip() and not line.startswith("#")]
    return answer if lines and lines[0][0].isspace() else ""  # it leaves the function at once: it adds nothing


def is_finished(prompt: str, text: str, entry_point: str) -> bool:
    """Whether a growing continuation has completed its function and everything that the function uses.

    It has once a line at column 0 follows the function, unless the function uses a name that nothing has bound yet: a
    helper may come. Only whole lines count.
    """
    lines = text.rpartition("\n")[0]
    continued = None if is_incomplete(prompt + lines) else _continued(prompt, lines, entry_point)
    if continued is None:
        return False
    tree = parse(prompt + continued)
    assert tree is not None, "what is kept parses"
    if global_names(tree) - bound_names(tree.body) - BUILTINS:
        return False
    behind = lines[len(continued) :] if lines.startswith(continued) else "x"
    return any(line and not line[0].isspace() and line[0] != "#" for line in behind.split("\n"))


@dataclass(frozen=True)
class FunctionEnd:
    """A decoder's test for a finished answer (`is_finished`); it can be pickled to another process."""

    prompt: str
    entry_point: str

    def __call__(self, text: str) -> bool:
        return is_finished(self.prompt, text, self.entry_point)


def _continued(prompt: str, answer: str, entry_point: str) -> str | None:
    """Return the answer up to the end of the function that it completes, with what that uses; None without one."""
    source = longest_prefix(prompt + answer)
    tree = parse(source)
    if tree is None:
        return None
    ends = _Offsets(source)
    found = [node for node in tree.body if entry_point in bound_names([node]) and ends.of(node) > len(prompt)]
    if not found:
        return None
    function = next((node for node in found if not _is_a_stub(node)), found[0])
    kept = [node for node in tree.body if ends.of(node) <= ends.of(function)]
    later = [node for node in tree.body if ends.of(node) > ends.of(function)]
    needed = _needed(kept, later, entry_point)
    head_end = len(source) if not later else ends.line_end(function)
    if len(needed) == len(later):
        return source[len(prompt) :]
    parts = [source[len(prompt) : head_end], *(source[ends.begin(node) : ends.line_end(node)] for node in needed)]
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)


def _is_a_stub(node: ast.stmt) -> bool:
    """Whether a function does nothing: a docstring, `pass`, `...`."""
    body: list[ast.stmt] = getattr(node, "body", [node])
    return all(isinstance(each, ast.Pass) or _is_a_constant(each) for each in body)


def _is_a_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _needed(kept: Sequence[ast.stmt], later: Sequence[ast.stmt], entry_point: str) -> list[ast.stmt]:
    """Return the statements after the function that bind a name it uses, each name once, or that wrap the function."""
    bound = bound_names(kept)
    open_names = {name for node in kept for name in global_names(node)} - bound
    chosen: list[ast.stmt] = []
    grows = True
    while grows:
        grows = False
        for node in later:
            names = bound_names([node])
            wraps = isinstance(node, ast.Assign) and entry_point in names & used_names(node)
            if node not in chosen and (wraps or (names & open_names and isinstance(node, DEFINITIONS))):
                chosen.append(node)
                bound |= names
                open_names = (open_names | global_names(node)) - bound
                grows = True
    return sorted(chosen, key=lambda node: node.lineno)


class _Offsets:
    """Where statements begin and end in a text, in characters; Python counts lines, and bytes of UTF-8 in a line."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._begins = [0]
        for line in self._lines:
            self._begins.append(self._begins[-1] + len(line) + 1)
        self._length = len(source)

    def begin(self, node: ast.stmt) -> int:
        """Return the start of the line that a statement begins on, its decorators included."""
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        return self._begins[min([node.lineno, *(each.lineno for each in decorators)]) - 1]

    def of(self, node: ast.stmt) -> int:
        """Return the end of a statement."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        line = self._lines[node.end_lineno - 1].encode("utf-8", "surrogatepass")
        before = line[: node.end_col_offset].decode("utf-8", "surrogatepass")
        return self._begins[node.end_lineno - 1] + len(before)

    def line_end(self, node: ast.stmt) -> int:
        """Return the end of the line that a statement ends on, its line break included."""
        assert node.end_lineno is not None
        return min(self._begins[node.end_lineno], self._length)


def _replaced_head(prompt: str, program: str, entry_point: str) -> str:
    """Return a continuation that leaves the head's function empty and defines the function again."""
    body = "" if parse(prompt) is not None else "    pass\n"
    broken = "" if prompt.endswith("\n") or not prompt else "\n"
    text = f"{broken}{body}\n{_FUTURE.sub('', program)}"
    return _continued(prompt, text, entry_point) or text
