"""ARCHITECTURE.md's "How to add", walked with toys in a copy of the tree: the files that it names are enough."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wmtp_ray.contracts import StepReport
from wmtp_ray.report.saved_run import read_run
from wmtp_ray.tracking.metrics_file import JsonlSink

ROOT = Path(__file__).resolve().parents[2]
TOY_ARM = """    WeightingArm(
        name="toy",
        role="control",
        source="none",
        needs_policy_losses=True,
        shape="beta",
        usual_rows="mixed",
        weight="as surprisal",
    ),
    WeightingArm(
        name="rho1","""
LOADED = """
from datetime import datetime
from wmtp_ray.config.load import load_config, parse_arguments
def load(*words):
    return load_config(parse_arguments(["recipe=verifiable", *words]), now=datetime(2026, 1, 1))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what runs, to be changed."""
    for name in ("wmtp_ray", "actors", "vendor", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path.name} has {before!r} {text.count(before)} times"
    path.write_text(text.replace(before, after), encoding="utf-8")


def run(tree: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run Python on the copy alone."""
    return subprocess.run([sys.executable, *words], cwd=tree, capture_output=True, text=True)


def recipes() -> dict[str, list[str]]:
    """The files of each row of "How to add", in order."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## How to add")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (a [^|]+?) \| (1\. .+) \|$", section, re.MULTILINE)
    return {what: re.findall(r"`([\w./]+/[\w./]*)`", files) for what, files in rows}


def test_every_recipe_names_files_that_are_there():
    found = recipes()
    assert len(found) == 9
    places = (ROOT, ROOT / "wmtp_ray")
    absent = [name for files in found.values() for name in files if not any((p / name).exists() for p in places)]
    assert absent == []


def test_a_weighting_takes_its_formula_and_its_row(tree):
    assert recipes()["a weighting that reads existing scores"][0] == "scoring/scorers.py"
    change(
        tree / "wmtp_ray/scoring/scorers.py",
        '    "td": _from_td_errors,\n',
        '    "td": _from_td_errors,\n    "toy": _from(surprisal_advantage),\n',
    )
    change(tree / "wmtp_ray/config/arms.py", '    WeightingArm(\n        name="rho1",', TOY_ARM)
    program = (
        LOADED
        + """
from wmtp_ray.config.arms import arms_table, place_in_reports
from wmtp_ray.scoring.scorers import build_scorer
scorer = build_scorer(load("weighting.type=toy", "train.value_coef=0"), 4)
print(scorer.needs_policy_losses, place_in_reports("toy"), "| `toy` |" in arms_table())
"""
    )
    done = run(tree, "-c", program)
    assert (done.stdout, done.stderr) == ("True 2 True\n", "")


def test_a_setting_takes_its_field_and_its_value(tree):
    before = "    max_logits_mb: Positive = "
    change(tree / "wmtp_ray/config/schema.py", before, f'    toy: Positive = setting(STAGE_2, "A toy.")\n{before}')
    unset = run(tree, "-c", f"{LOADED}\nload()")
    assert "loss.toy" in unset.stderr
    change(tree / "configs/defaults.yaml", "  max_logits_mb: 64\n", "  max_logits_mb: 64\n  toy: 2.5\n")
    done = run(tree, "-c", f'{LOADED}\nprint(load().loss.toy, load("loss.toy=3").loss.toy)')
    assert (done.stdout, done.stderr) == ("2.5 3.0\n", "")


def test_a_verb_takes_its_parser_and_its_call(tree):
    verb = '    toy = verbs.add_parser("toy", help="a toy")\n    toy.set_defaults(run=_toy)\n'
    call = '\n\ndef _toy(arguments: argparse.Namespace) -> None:\n    raise ConfigError("found a toy")\n'
    records = tree / "wmtp_ray/cli/record_verbs.py"
    change(records, '    """Add the verbs of this module."""\n', f'    """Add the verbs of this module."""\n{verb}')
    records.write_text(f"from wmtp_ray.errors import ConfigError\n{records.read_text()}{call}")
    done = run(tree, "-m", "wmtp_ray.cli", "toy")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: found a toy\n")
    assert "toy" in run(tree, "-m", "wmtp_ray.cli", "--help").stdout


def test_a_metric_of_any_name_is_saved_and_read_back_for_the_report(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: baseline\nweighting: {type: uniform}\n")
    sink = JsonlSink(tmp_path)
    sink.log(StepReport(2, 0, {"toy/metric": 0.5}))
    sink.close()
    assert read_run(tmp_path).curves[2].metrics["toy/metric"].tolist() == [0.5]
