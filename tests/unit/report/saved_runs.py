"""Folders of runs as training, stages and evaluation leave them, written from numbers: nothing is trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from wmtp_ray.contracts import StepReport
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.result import RunResult, write_result
from wmtp_ray.tracking.token_evidence import (
    HeldOutLoss,
    ProgramPair,
    TokenEvidence,
    TokenTrace,
    write_token_evidence,
)

RECIPES = {
    "uniform": ("baseline", "correct_only"),
    "td": ("verifiable", "mixed"),
    "rho1": ("rho1_weighted", "correct_only"),
}
TOKENS = ("def", " f", "(x)", ":", "\n    ", "return", " x", " + ", "1", "<end>")
HOSTILE = "</script><script>window.stolen = 1</script><img src=x onerror=window.stolen=2>&amp;\u2028"
CRITIC_METRICS = {
    "critic/num_problems": 40.0,
    "critic/num_responses": 80.0,
    "critic/explained_variance": 0.02,
    "critic/auc_25": 0.51,
    "critic/auc_50": 0.53,
    "critic/auc_75": 0.55,
    "critic/auc_100": 0.6,
    "critic/auc_mean": 0.62,
    "critic/pair_accuracy": 0.7,
    "critic/minimal_drop_at_edit_auc": 0.71,
    "critic/minimal_drop_at_edit_auc_standard_error": 0.02,
    "critic/minimal_drop_at_edit_auc_twin": 0.5,
    "critic/baseline_length_auc": 0.52,
    "critic/baseline_bag_of_tokens_auc": 0.66,
    "critic/baseline_length_pair_accuracy": 0.54,
}


def write_run(
    root: Path,
    name: str,
    *,
    weighting: str = "td",
    seed: int = 1,
    passed: Sequence[int] | None = None,
    margin: float | None = 0.1,
    num_steps: int = 30,
    changes: Mapping[str, Any] | None = None,
    tokens: tuple[str, ...] = TOKENS,
    warnings: tuple[str, ...] = (),
) -> Path:
    """Write a finished run. `passed` is 0 or 1 for each problem of a data set; `changes` are dotted keys."""
    run = root / name
    run.mkdir(parents=True)
    write_config(run, weighting, seed, changes or {})
    write_metrics(run, weighting, seed, num_steps)
    result = RunResult("FINISHED", num_steps, {}, f"{seed:x}" * 64, {"stage_2": 12.0}, warnings)
    write_result(run, result)
    if margin is not None:
        write_evidence(run, weighting, margin, tokens)
    if weighting != "uniform":
        (run / "stage_result.json").write_text(
            json.dumps({"health": {"metrics": CRITIC_METRICS, "failures": ["too low"]}})
        )
    if passed is not None:
        write_evaluation(run, passed)
    return run


def write_config(run: Path, weighting: str, seed: int, changes: Mapping[str, Any]) -> None:
    recipe, rows = RECIPES.get(weighting, ("verifiable", "mixed"))
    config: dict[str, Any] = {
        "recipe": recipe,
        "run_name": run.name,
        "seed": seed,
        "data": {"policy_rows": rows, "train_file": "train.jsonl"},
        "weighting": {"type": weighting, "beta": 0.9, "clip_min": 0.1, "clip_max": 5.0},
        "train": {"learning_rate": 0.001, "sampling": {"seed": seed}},
        "cluster": {"num_cpus": seed},
    }
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = config
        for each in sections:
            section = section.setdefault(each, {})
        section[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def write_metrics(run: Path, weighting: str, seed: int, num_steps: int) -> None:
    rng = np.random.default_rng(seed)
    sink = JsonlSink(run)
    for step in range(num_steps):
        noise = 0.02 * float(rng.normal())
        metrics = {f"loss/ce_h{k}": k / (1 + step) + noise for k in (1, 2)}
        is_uniform = weighting == "uniform"
        metrics |= {
            "loss/policy": 1.0 / (1 + step),
            "loss/value": 0.25 + noise,
            "weight/mean": 1.0,
            "weight/std": 0.0 if is_uniform else 0.4,
            "weight/ess_frac": 1.0 if is_uniform else 0.8,
            "weight/clip_min_frac": 0.0 if is_uniform else 0.01,
            "weight/clip_max_frac": 0.0 if is_uniform else 0.02,
            "weight/below_0.5_frac": 0.0 if is_uniform else 0.1,
            "weight/below_2_frac": 1.0 if is_uniform else 0.9,
            "critic/explained_variance": noise,
            "score/staleness_steps": 0.0 if is_uniform else float(step % 3),
            "score/wait_s": 0.001,
            "perf/data_wait_frac": 0.01,
            "perf/step_s": 0.2,
            "perf/mfu": 0.3,
            "perf/supervised_tokens_per_s": 1000.0 + step,
        }
        sink.log(StepReport(2, step, metrics))
    sink.close()


def trace_of(tokens: tuple[str, ...], weighting: str, *, is_correct: bool) -> TokenTrace:
    n = len(tokens)
    values = tuple(0.5 + 0.01 * place - (0.0 if is_correct else 0.2 * (place >= 7)) for place in range(n))
    weights = {
        "uniform": (1.0,) * n,
        weighting: (*tuple(0.1 if place % 3 == 0 else 1.5 for place in range(n - 1)), 5.0),
    }
    return TokenTrace(7, n, tokens, (0.5,) * n, weights, 0.5, values, (0.01,) * n, (7, 8))


def write_evidence(run: Path, weighting: str, margin: float, tokens: tuple[str, ...]) -> None:
    pairs = tuple(
        ProgramPair(
            problem, "Add one.", True, trace_of(tokens, weighting, is_correct=True),
            trace_of(tokens, weighting, is_correct=False),
        )
        for problem in ("p1", "p2", "p3", "p4")
    )  # fmt: skip
    held_out = HeldOutLoss(0.5, 0.5 + margin, 80, 40)
    write_token_evidence(run, TokenEvidence(weighting, 0.1, 5.0, held_out, pairs))


def write_evaluation(run: Path, passed: Sequence[int], dataset: str = "tiny") -> None:
    """Write results.json in the form of `evaluation/results.py`, one sample a problem."""
    share = sum(passed) / len(passed)
    problems = [
        {
            "task_id": f"t{number}",
            "num_samples": 1,
            "num_correct": one,
            "verdicts": ["pass" if one else "fail"],
            "passed_frac": None,
        }
        for number, one in enumerate(passed)
    ]
    content = {
        "key": "k",
        "identity": {"dataset": {"sha256": "d"}, "answers": {"format": "completion-stripped"}},
        "sources": {
            "dataset": dataset,
            "dataset_path": "d",
            "left_out": [],
            "answers_path": "a",
            "tokenizer_path": None,
            "num_problems": 9,
            "format_reason": "auto: a reason",
        },
        "pass_at_k": {"1": {"value": share, "low": share, "high": share, "num_problems": len(passed)}},
        "verdicts": {"fail": passed.count(0), "pass": sum(passed)},
        "problems": problems,
        "decoding": None,
        "excluded": [],
        "warnings": [],
        "seconds": 1.0,
        "answers": {
            "num_answers": len(passed),
            "num_empty": passed.count(0),
            "examples": [
                {
                    "task_id": f"t{number}",
                    "sample": 0,
                    "status": "pass" if one else "fail",
                    "detail": "" if one else "AssertionError",
                    "text": f"def t{number}():\n    return '<b>{number}'\n" if one else "",
                }
                for number, one in enumerate(passed[:2])
            ],
        },
    }
    directory = run / "eval" / dataset
    directory.mkdir(parents=True)
    (directory / "results.json").write_bytes(orjson.dumps(content))
