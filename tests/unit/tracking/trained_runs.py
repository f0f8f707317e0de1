"""Folders of runs as far as a training record reads them, written from numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.training_record import Start, TrainingRecord


def write_trained_run(
    run_dir: Path,
    model: Path,
    *,
    steps: int = 4,
    planned: int | None = None,
    tokens_per_step: int = 100,
    weights: bytes = b"weights",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run of stage 2 that took `steps` of `planned` steps from `model`; return its policy's folder."""
    final = run_dir / "final"
    final.mkdir(parents=True)
    (final / "model.safetensors").write_bytes(weights)
    sections = {"recipe": "baseline", "run_name": run_dir.name, "seed": 1, "model": {"path": str(model)}}
    sections |= {"weighting": {"type": "uniform"}, "data": {"policy_rows": "correct_only"}} | dict(config or {})
    (run_dir / "config.yaml").write_text(yaml.safe_dump(sections))
    counts = {"supervised_tokens": tokens_per_step * (planned or steps)}
    plan = {"dataset_fingerprint": "f" * 8, "phases": [{"end_step": planned or steps}], "counts": counts}
    (run_dir / "plan.json").write_text(json.dumps(plan))
    sink = JsonlSink(run_dir)
    for step in range(steps):
        sink.log(StepReport(2, step, {"perf/supervised_tokens_per_s": tokens_per_step * 3.0, "perf/step_s": 1.0 / 3.0}))
    sink.close()
    (run_dir / "stage_result.json").write_text(json.dumps({"steps": steps, "policy_sha256": run_dir.name * 4}))
    return final


def record(
    name: str,
    start: Start,
    *,
    steps: int = 60,
    tokens: int | None = 6000,
    weighting: str = "uniform",
    **settings: Any,
) -> TrainingRecord:
    """Return a training whose policy has the hash `<name>-policy`."""
    defaults = {"seed": 1, "data.policy_rows": "correct_only", "weighting.type": weighting}
    return TrainingRecord(
        run=f"/runs/{name}",
        policy_sha256=f"{name}-policy",
        steps=steps,
        supervised_tokens=tokens,
        critic_steps=0,
        weighting=weighting,
        dataset_fingerprint="rows",
        start=start,
        settings=defaults | settings,
    )
