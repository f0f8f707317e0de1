"""Names of files have one owner: nobody else writes them as paths."""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from wmtp_ray import model_folder

ROOT = Path(__file__).resolve().parents[2]
OWNER = Path(model_folder.__file__)
SHIPPED = ROOT / "wmtp_ray/artifacts/hf/custom_generate/generate.py"  # runs in an export, without this project
SOURCES = sorted(
    path for folder in ("wmtp_ray", "actors", "scripts", "vendor") for path in (ROOT / folder).rglob("*.py")
)


def names_of_a_model() -> set[str]:
    """Every name that the owner gives to a file or folder."""
    values = [value for key, value in vars(model_folder).items() if key.isupper() and not key.startswith("_")]
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def paths_in(source: str) -> Iterator[tuple[int, str]]:
    """Each text of a program that can be a path, with its line: one word, as `"a.json"` and `f"{folder}/a.json"`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1:
            yield node.lineno, node.value


def spelled(source: str, names: set[str]) -> list[tuple[int, str]]:
    """The places where a program spells one of the names as a path; messages and docstrings are sentences."""
    return [(line, text) for line, text in paths_in(source) if PurePosixPath(text).name in names]


def test_a_spelled_name_is_found_and_a_sentence_is_not():
    program = (
        '"""Reads params.json."""\na = b / "params.json"\nc = f"{b}/params.json"\nd = f"put {b}/params.json there"\n'
    )
    assert [line for line, _ in spelled(program, {"params.json"})] == [2, 3]


def test_names_in_a_model_directory_are_spelled_by_their_owner_alone():
    names = names_of_a_model()
    assert len(names) >= 18
    assert {"params.json", "model.safetensors", "tokenizer.model", "config.json", "metadata.json"} <= names
    found = {
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        if path not in (OWNER, SHIPPED)
        for line, text in spelled(path.read_text(encoding="utf-8"), names)
    }
    assert found == set()
