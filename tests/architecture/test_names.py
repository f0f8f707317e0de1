"""Names and words: a file name stands for one module, and docstrings and messages use the words of the field."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED_NAMES = {
    "__init__.py": "a package",
    "__main__.py": "`python -m`",
    "arms.py": "config/ has the table of arms; report/ groups runs by it",
}
OTHER_WORDS = {
    "sign of life": "heartbeat",
    "signs of life": "heartbeats",
    "started anew": "restarted",
    "starts anew": "restarts",
    "mend": "fix",
    "mended": "fixed",
    "nobody": "no process, no module, unknown",
    "somebody": "the user, another process",
    "everybody": "all processes, all callers",
    "whom": "which process, which module",
    "owes": "pending calls",
}
_WORDS = re.compile(r"(?<![\w/.])(" + "|".join(sorted(OTHER_WORDS, key=len, reverse=True)) + r")(?![\w/])")


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield docstrings and all other texts of a module, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_a_file_name_stands_for_one_module() -> None:
    places = defaultdict(list)
    for path in modules("wmtp_ray", "actors"):
        places[path.name].append(str(path.relative_to(ROOT)))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared.keys() <= SHARED_NAMES.keys(), shared


def test_docstrings_and_messages_use_the_words_of_the_field() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r}; write {OTHER_WORDS[match[0]]}"
        for path in modules("wmtp_ray", "actors", "vendor", "scripts")
        for line, text in texts(path)
        for match in _WORDS.finditer(" ".join(text.split()))
    ]
    assert not found, "\n".join(found)


def test_each_module_under_metas_names_says_that_it_is_our_own_definition() -> None:
    for path in modules("vendor"):
        docstring = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split()).lower()
        assert "our own definition" in docstring, path
