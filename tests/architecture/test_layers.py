"""Who may import whom, and what may be defined where."""

import ast
import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(path for package in ("wmtp_ray", "actors", "vendor") for path in (ROOT / package).rglob("*.py"))
# What a process pays for before a command can be refused, from the bottom up.
LIGHT_MODULES = ["wmtp_ray.contracts", "wmtp_ray.config.load", "wmtp_ray.plan.run_plan", "wmtp_ray.artifacts.manifest"]
LIGHT_MODULES += [
    "wmtp_ray.model.spec",
    "wmtp_ray.model.value_spec",
    "wmtp_ray.data.index",
    "wmtp_ray.flows.run.prepare",
    "wmtp_ray.launch",
    "wmtp_ray.cli",
]


def imports_of(path: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(f"{'.' * node.level}{node.module or ''}")
    return found


@pytest.fixture
def loggers_stay_on() -> Iterator[None]:
    """import-linter configures logging for a process of its own, and disables every logger that is there."""
    loggers = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    on = [each for each in loggers if not each.disabled]
    yield
    for each in on:
        each.disabled = False


@pytest.mark.usefixtures("loggers_stay_on")
def test_the_contracts_of_the_layers_hold(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_every_package_of_the_project_is_under_the_contracts():
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == {
        path.relative_to(ROOT).parts[0] for path in MODULES
    }


def test_a_command_can_be_refused_without_torch_or_ray():
    """One process imports one after the other and says which of them brought something heavy along."""
    program = f"""
import importlib, sys
for name in {LIGHT_MODULES}:
    importlib.import_module(name)
    if heavy := {{"torch", "ray", "mlflow", "pandas"}} & set(sys.modules):
        sys.exit(f"{{name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_never_imports_its_tests():
    assert [
        path for path in MODULES if any(name.split(".")[0] in ("tests", "conftest") for name in imports_of(path))
    ] == []


def test_the_entry_module_defines_only_main():
    """In a worker process this module is another `__main__`: a class defined here would be two classes."""
    module = ast.parse((ROOT / "wmtp_ray" / "launch.py").read_text(encoding="utf-8"))
    defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assigned = [node for node in module.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    assert (defined, assigned) == (["main"], [])


@pytest.mark.parametrize("name", PYPROJECT["project"]["scripts"])
def test_the_commands_of_the_package_resolve(name):
    command = EntryPoint(name, PYPROJECT["project"]["scripts"][name], "console_scripts").load()
    assert callable(command)
