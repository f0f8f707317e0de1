"""Python source as text: does it parse, how far, which names it binds and uses. Runs and compiles nothing.

The text comes from models and is hostile: nothing here raises for any text, and the limits below bound the time.
"""

import ast
import builtins
import re
import warnings
from collections.abc import Iterable, Iterator

MAX_CHARS = 50_000  # longer texts count as not parsing
_MAX_CUTS = 40  # of one text; each finds an earlier end
BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__"}
DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_NAMES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_INCOMPLETE = ("was never closed", "unterminated triple-quoted", "unexpected EOF")

# Special tokens as text: <|endoftext|>, <|im_end|>, <｜end▁of▁sentence｜>, </s>, <eos>, [/INST].
SPECIAL_TOKEN = re.compile(r"<[|｜][^|｜<>\n]{1,40}[|｜]>|</?s>|<eos>|<(?:start|end)_of_turn>|\[/?INST\]")


def parse(source: str) -> ast.Module | None:
    """Return the syntax tree, None for what is no Python."""
    found = _parse_or_error(source)
    return found if isinstance(found, ast.Module) else None


def longest_prefix(source: str) -> str:
    """Return the longest beginning of `source` that parses: whole lines, or a line up to a special token.

    "x = 1\\nThat is all." -> "x = 1\\n"; "x = 1<|endoftext|>" -> "x = 1". "" where nothing does.
    """
    lines = source.split("\n")
    end = len(lines)
    for _ in range(_MAX_CUTS):
        text = "\n".join(lines[:end]) + ("\n" if end < len(lines) else "")
        found = _parse_or_error(text)
        if isinstance(found, ast.Module):
            return text if end else ""
        if found is None:
            return ""
        wrong = min(found, end)  # the number of the line that cannot be read
        special = SPECIAL_TOKEN.search(lines[wrong - 1])
        if special:
            cut = "\n".join([*lines[: wrong - 1], lines[wrong - 1][: special.start()]])
            if parse(cut) is not None:
                return cut
        end = wrong - 1
    return ""


def is_incomplete(source: str) -> bool:
    """Whether a bracket or a triple-quoted string is still open at the end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source[:MAX_CHARS])
    except SyntaxError as error:
        return any(text in str(error.msg) for text in _INCOMPLETE)
    except (ValueError, MemoryError, RecursionError):
        return False
    return False


def bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements bind in their own scope: definitions, imports, assignments, loop variables."""
    return {name for node in nodes for name in _bound(node)}


def used_names(node: ast.AST) -> set[str]:
    """Return every name that is read anywhere in a node, local names included."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}


def global_names(node: ast.AST) -> set[str]:
    """Return the names that a node reads and binds nowhere inside itself; builtins are among them."""
    bound = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    bound |= {name for each in ast.walk(node) if not isinstance(each, ast.Module) for name in _bound_here(each)}
    return used_names(node) - bound


def _bound(node: ast.AST) -> Iterator[str]:
    pending = [node]
    while pending:
        each = pending.pop()
        yield from _bound_here(each)
        if not isinstance(each, (*_SCOPES, *_OWN_NAMES)):
            pending += ast.iter_child_nodes(each)


def _bound_here(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _SCOPES):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name


def _parse_or_error(source: str) -> ast.Module | int | None:
    """Return the tree, or the number of the line that cannot be read, None where no line is to blame."""
    if len(source) > MAX_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python will refuse one day
            return ast.parse(source)
    except SyntaxError as error:
        return error.lineno or None
    except (ValueError, MemoryError, RecursionError):  # NUL, half a surrogate pair, too deep
        return None
