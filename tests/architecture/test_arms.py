"""Which arm a run is, is asked in one place: the table of `wmtp_ray/config/arms.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from wmtp_ray.config.arms import ARMS

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for folder in ("wmtp_ray", "actors", "scripts", "bench") for path in (ROOT / folder).rglob("*.py")
)
TABLE, FORMULAS = "wmtp_ray/config/arms.py", "wmtp_ray/scoring/scorers.py"
# The same word for another thing: a value of critic.gate, a kind of range, a feature of the value head.
HOMONYMS = {
    "uniform": {"wmtp_ray/config/critic.py", "wmtp_ray/config/sweep.py"},
    "surprisal": {"wmtp_ray/config/critic.py", "wmtp_ray/model/value_spec.py"},
}


def arms_spelt(tree: ast.AST) -> Iterator[ast.Constant]:
    """Literals that are an arm's name and nothing else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ARMS:
            yield node


def types_compared(tree: ast.AST) -> Iterator[ast.expr]:
    """Sides of a comparison, and subjects of a match, that are a weighting or its type."""
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides += [node.subject] if isinstance(node, ast.Match) else []
        yield from (each for each in sides if ast.unparse(each).endswith(("weighting.type", ".weighting")))


def test_no_other_file_spells_an_arm():
    spelt = {
        f"{name}:{node.lineno}: {node.value}"
        for path in MODULES
        if (name := str(path.relative_to(ROOT))) not in (TABLE, FORMULAS)
        for node in arms_spelt(ast.parse(path.read_text(encoding="utf-8")))
        if name not in HOMONYMS.get(str(node.value), ())
    }
    assert spelt == set(), "ask the row of config/arms.py for what you need to know"


def test_no_file_compares_a_weighting_with_a_literal():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare | ast.Match) and list(types_compared(node)):
                assert not any(isinstance(each, ast.Constant) for each in ast.walk(node)), f"{path}:{node.lineno}"


def test_a_comparison_would_be_found():
    source = "config.weighting.type in ('td', 'other') or arm.weighting == 'x'"
    tree = ast.parse(f"{source}\nmatch w.weighting.type:\n case _: pass")
    assert [node.value for node in arms_spelt(tree)] == ["td"]
    assert len(list(types_compared(tree))) == 3


def test_the_homonyms_are_there():
    for word, names in HOMONYMS.items():
        trees = {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in names}
        assert {name for name, tree in trees.items() if word in [each.value for each in arms_spelt(tree)]} == names
