"""SIGKILL at several points of `wmtp collect` in one process; the same command goes on and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.evaluation.collecting.nano_world import command, make_nano_world, rows_of
from wmtp_ray.cli import main

pytestmark = pytest.mark.timeout(300)
NUM_ANSWERS = 6 * 30
WAIT_S = 120.0


def killed(words: list[str], path: Path, num_lines: int) -> None:
    """Run the command until a file has so many lines, then kill it with SIGKILL."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wmtp_ray.cli", *words], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    give_up = time.monotonic() + WAIT_S
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def places(lines: list[bytes]) -> list[tuple[str, int]]:
    return [(record["task_id"], record["sample"]) for record in map(json.loads, lines)]


def test_sigkill_at_several_points_repeats_no_work_and_changes_no_byte(tmp_path: Path) -> None:
    storage = make_nano_world(tmp_path / "storage")
    more = ("--num-samples=30", "--limit=6", "--max-new-tokens=16", "--batch-size=4")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert main(command(storage, whole, *more)) == 0
    assert rows_of(whole)

    words, answers = command(storage, out, *more), tmp_path / "killed.jsonl.answers"
    files = [answers / "samples.jsonl", answers / "verdicts.jsonl"]
    kept: dict[Path, list[bytes]] = {path: [] for path in files}
    for path, num_lines in ((files[0], 1), (files[0], NUM_ANSWERS // 3), (files[1], NUM_ANSWERS // 2)):
        killed(words, path, num_lines)
        assert not out.exists(), "rows are there when all is drawn and judged"
        for each in files:
            content = each.read_bytes()
            lines = content[: content.rfind(b"\n") + 1].splitlines()
            assert lines[: len(kept[each])] == kept[each]
            assert len(set(places(lines))) == len(lines), "no answer and no verdict comes twice"
            kept[each] = lines
        assert len(kept[files[0]]) < NUM_ANSWERS
    assert main(words) == 0
    for each in files:
        lines = each.read_bytes().splitlines()
        assert set(kept[each]) <= set(lines), "what was there, with its time of judging, is still there"
        assert len(set(places(lines))) == len(lines) == NUM_ANSWERS
    assert out.read_bytes() == whole.read_bytes()
    manifests = [path.with_name(f"{path.name}.manifest.json").read_bytes() for path in (whole, out)]
    assert manifests[0] == manifests[1]

    out.unlink()  # killed between the last verdict and the rows
    assert main(words) == 0
    assert out.read_bytes() == whole.read_bytes()
