"""A resumed run compares with the rows that it began with."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.index import build_index
from wmtp_ray.data.index_file import index_path_of, write_index
from wmtp_ray.errors import PlanError
from wmtp_ray.preflight.run_directory import check_plans
from wmtp_ray.tracking.decisions import note_compared_with, read_decisions


def write_indexed(path: Path, num_rows: int) -> str:
    """Write rows and their index; returns the fingerprint."""
    metadata = {"source": "made_up", "difficulty": 1, "has_tests": True}
    record = {"instruction": "Say it.", "input": "", "output": "x", "is_correct": True, "metadata": metadata}
    lines = [json.dumps(record | {"task_id": f"p_correct_{number}"}) + "\n" for number in range(num_rows)]
    path.write_text("".join(lines))
    built = build_index(path, on_error="fail")
    write_index(built, index_path_of(path))
    return built.index.file_fingerprint


def load(tmp_path: Path, weighting: str) -> RunConfig:
    words = (f"weighting.type={weighting}", f"weighting.compared_file={tmp_path / 'all.jsonl'}", "run_name=run")
    given = ["recipe=verifiable", f"storage_root={tmp_path}", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def test_another_content_of_the_compared_file_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path, "oracle")
    began_with = write_indexed(tmp_path / "all.jsonl", 3)
    check_plans(config, {})  # a run that has no folder yet
    config.run_dir.mkdir(parents=True)
    check_plans(config, {})  # nor has it begun
    note_compared_with(config.run_dir, began_with)
    check_plans(config, {})
    assert read_decisions(config.run_dir).compared_with == began_with
    write_indexed(tmp_path / "all.jsonl", 4)
    with pytest.raises(
        PlanError, match=r"--resume of run: the content of weighting.compared_file=.*all.jsonl has chang"
    ):
        check_plans(config, {})
    check_plans(load(tmp_path, "td"), {})  # which reads no such file
