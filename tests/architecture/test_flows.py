"""`flows/` wires: what would make sense without Ray is in its library. And nothing imports in a circle."""

import ast
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).resolve().parents[2]
FLOWS = sorted(path for path in (ROOT / "wmtp_ray" / "flows").rglob("*.py") if path.name != "__init__.py")
PACKAGES = ("wmtp_ray", "actors", "vendor")
# Wires nothing, and stays: why.
REASONS = {"after_death.py": "watches the processes of a Ray of our own, from a process that must not import Ray"}


def imported_by(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def wires(path: Path) -> bool:
    """Whether a file imports Ray, an actor, or another flow."""
    return any(name.split(".")[0] in ("ray", "actors") or ".flows." in f"{name}." for name in imported_by(path))


def test_every_flow_wires_something():
    assert len(FLOWS) > 20
    assert {path.name for path in FLOWS if not wires(path)} == set(REASONS)


def test_no_module_imports_itself_through_others():
    modules = grimp.build_graph(*PACKAGES, include_external_packages=False, cache_dir=None)
    graph = networkx.DiGraph(
        (name, other) for name in modules.modules for other in modules.find_modules_directly_imported_by(name)
    )
    assert graph.number_of_edges() > 1000
    circles = [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1]
    assert circles == []
