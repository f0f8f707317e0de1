"""What lies in a run's folder is spelled in one place: `wmtp_ray/run_folder.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, RoundsFolder, RunFolder, StageFolder, SweepFolder

ROOT = Path(__file__).resolve().parents[2]
OWNER = ROOT / "wmtp_ray" / "run_folder.py"
MODULES = sorted(path for folder in ("wmtp_ray", "actors", "scripts") for path in (ROOT / folder).rglob("*.py"))
# The same word for another thing.
HOMONYMS = {
    "ray": {"wmtp_ray/preflight/ray_place.py", "wmtp_ray/flows/cluster.py"},  # Ray's own temporary folder
    "logs": {"wmtp_ray/flows/cluster.py"},  # of a Ray session
    "snapshots": {"wmtp_ray/training/checkpoint.py"},  # inside a checkpoint
    "runs": {"scripts/sync_to_vessl_storage.py"},  # a part of the storage
}


def names() -> set[str]:
    """Every name in a run's or a sweep's folder, from the properties of the classes that own them."""
    here = Path("here")
    found = {"runs", "critic", "final"}
    for folder in (RunFolder(here), SweepFolder(here), StageFolder(here), RoundsFolder(here)):
        values = [
            getattr(folder, name) for name in dir(folder) if isinstance(getattr(type(folder), name, None), property)
        ]
        found |= {path.name for path in values if isinstance(path, Path)}
    found |= {RunFolder(here).plan(stage).name for stage in (CRITIC_STAGE, TRAIN_STAGE)}
    return found | {RunFolder(here).plan_arrays(stage).name for stage in (CRITIC_STAGE, TRAIN_STAGE)}


def spelled(tree: ast.AST, known: set[str]) -> Iterator[ast.Constant]:
    """Literals that name a file of a run, and any known name that is joined to a path with `/`."""
    for node in ast.walk(tree):
        sides = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else []
        yield from (each for each in sides if isinstance(each, ast.Constant) and each.value in known)
        if isinstance(node, ast.Constant) and node.value in known and "." in str(node.value):
            yield node


def test_no_other_file_spells_what_is_in_a_run():
    known = names()
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "stage1_plan.npz", "sweep.json", "stop_requested"} <= known
    assert {"rounds.json", "collected", "mixed"} <= known
    found = {
        f"{name}:{node.lineno}: {node.value}"
        for path in MODULES
        if path != OWNER
        for node in spelled(ast.parse(path.read_text(encoding="utf-8")), known)
        if (name := str(path.relative_to(ROOT))) not in HOMONYMS.get(str(node.value), ())
    }
    assert found == set(), "ask RunFolder, StageFolder or SweepFolder"


def test_a_spelling_would_be_found():
    tree = ast.parse("a = run_dir / 'critic' / 'final'\nb = 'config.yaml'\nc = 'critic'\nd = 'see config.yaml there'")
    assert sorted(node.value for node in spelled(tree, names())) == ["config.yaml", "critic", "final"]


def test_stage_2_leaves_its_files_in_the_runs_folder_and_stage_1_in_critic(tmp_path):
    folder = RunFolder(tmp_path)
    assert (folder.stage(TRAIN_STAGE).final, folder.stage(CRITIC_STAGE).final) == (
        tmp_path / "final",
        tmp_path / "critic/final",
    )
    assert (folder.plan(TRAIN_STAGE).name, folder.plan_arrays(CRITIC_STAGE).name) == ("plan.json", "stage1_plan.npz")
    assert not folder.is_begun
    folder.critic.checkpoints.mkdir(parents=True)
    assert folder.is_begun
