"""trackio's local database, written and read by its own package, each time in a process of its own as in a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trackio", reason="needs the extra trackio")

TRAIN = """
import json, sys
from datetime import datetime
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.tracker import open_tracker

storage, stage, start, end, value = sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5])
words = ["recipe=baseline", "run_name=run", f"storage_root={storage}", "tracking.sinks=[trackio]"]
config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
tracker = open_tracker(config, mlflow_run_id=None)
tracker.truncate_from(stage, start)
for step in range(start, end):
    tracker.log(StepReport(stage, step, {"loss/total": 1.0 / (step + 1)}))
tracker.set_result({"pass@1": value})
(config.run_dir / "kept.txt").write_text("kept")
tracker.add_artifact(config.run_dir / "kept.txt")
problems = tracker.close("FINISHED", 60.0)
rows, configs = [], []
if not problems:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage
    (run,) = trackio.Api().runs("wmtp_ray")
    rows, configs = SQLiteStorage.get_logs("wmtp_ray", run.name, run_id=run.id), [run.config]
print(json.dumps({"problems": problems, "rows": rows, "configs": configs}))
"""


def train(storage: Path, stage: int, start: int, end: int, value: float = 0.25, **environment: str):
    """Train some steps; return the problems, the rows of the database, and the settings of its one run."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("TRACKIO_")} | environment
    words = [sys.executable, "-c", TRAIN, str(storage), *map(str, (stage, start, end, value))]
    done = subprocess.run(words, env=ours, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_resumed_run_continues_without_a_point_twice(tmp_path):
    assert train(tmp_path, 1, 0, 2)["problems"] == []
    assert train(tmp_path, 2, 0, 5)["problems"] == []
    found = train(tmp_path, 2, 3, 7)
    assert found["problems"] == []
    assert [row["step"] for row in found["rows"] if "loss/total" in row] == list(range(7))
    assert [row["step"] for row in found["rows"] if "stage1/loss/total" in row] == [0, 1]
    assert [row["result/pass_1"] for row in found["rows"] if "result/pass_1" in row] == [0.25]
    assert found["configs"][0]["weighting.type"] == "uniform"
    assert (tmp_path / "trackio" / "wmtp_ray.db").is_file()
    assert any(
        path.is_file() and path.read_bytes() == b"kept" for path in (tmp_path / "trackio" / "artifacts").rglob("*")
    )


def test_a_database_elsewhere_is_a_warning_with_the_remedy(tmp_path):
    (problem,) = train(tmp_path, 2, 0, 2, TRACKIO_SPACE_ID="someone/space")["problems"]
    assert "TRACKIO_SPACE_ID is set, expected none" in problem
    assert "send the database afterwards with `trackio sync`" in problem
