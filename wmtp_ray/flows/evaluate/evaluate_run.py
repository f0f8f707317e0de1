"""Stage 3 of a run: Pass@K of its policy, into eval/, result.json, the run's trackers and the console."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.metrics_sink import MetricsSink
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.evaluation_plan import EvaluationPlan
from wmtp_ray.evaluation.identity import free_directory
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.flows.evaluate.evaluate import OtherSettings, Place, evaluate_policy
from wmtp_ray.intervals import RULE
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.run_folder import EVALUATION_STAGE, RunFolder
from wmtp_ray.text_tables import table
from wmtp_ray.tracking.decisions import note_evaluation, read_decisions
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.result import RunResult, write_result
from wmtp_ray.tracking.run_log import DRIVER, log_stage
from wmtp_ray.tracking.run_warnings import RunWarnings
from wmtp_ray.tracking.sink import LACKS
from wmtp_ray.training.best_checkpoint import WantedStep, wanted_checkpoint
from wmtp_ray.training.checkpoint import latest_checkpoint, step_of
from wmtp_ray.training.export_policy import export_policy

_LOG = logging.getLogger(__name__)


def evaluate_run(
    config: RunConfig, plan: EvaluationPlan, result: RunResult, also: Sequence[OtherSettings] = ()
) -> RunResult:
    """Evaluate the run's policy on the planned data sets; save and return `result` with the outcome.

    What is found with other settings, `also`, stays in its folders and is no part of the result. Call on a connected
    Ray. When the evaluation fails, result.json says so and keeps what training left.
    """
    started = time.perf_counter()
    found: list[EvaluationResults] = []
    status: RunStatus = "FAILED"
    warned = RunWarnings(config.run_dir, DRIVER)
    note_evaluation(config.run_dir, plan.evaluated_as, plan.absent)
    try:
        log_stage(EVALUATION_STAGE)
        if plan.datasets:
            _LOG.info("Evaluation on %s", ", ".join(each.name for each in plan.datasets))
            model = policy_of_run(config.run_dir) or config.model.path  # not trained, without stage 2
            policy = PolicyFiles(model, config.tokenizer.path)
            place = folder_in(config.folder.evaluations)
            with warned:
                done = evaluate_policy(config, plan, policy, place, config.run_dir, also)
            found = [each.results for each in done[: len(plan.datasets)]]
        status = "FINISHED" if config.folder.final.is_dir() else result.status
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        metrics: dict[str, float] = {}
        for each in found:
            metrics |= each.metrics()
        warnings = [f"{each.sources.dataset}: {text}" for each in found for text in each.warnings]
        seconds = {"stage_3": time.perf_counter() - started}
        problems = _track(config, metrics, status) if plan.datasets else []
        warnings += warned.new()
        log_stage(None)
        of_training = [each for each in result.warnings if not (plan.datasets and each.startswith(LACKS))]
        result = replace(
            result,
            status=status,
            metrics={**result.metrics, **metrics},
            seconds_per_stage=result.seconds_per_stage | seconds,
            warnings=tuple(dict.fromkeys((*of_training, *plan.warnings, *warnings, *problems))),
            decisions=read_decisions(config.run_dir),
        )
        write_result(config.run_dir, result)
    if found:
        print(render_results(found))
    return result


def policy_of_run(run_dir: Path, step: WantedStep = None) -> Path | None:
    """Return the model directory of a run's policy: the final one, else its newest whole checkpoint, else None.

    `step` asks for the checkpoint of that step, or for the best one; ArtifactError where there is none.
    """
    folder = RunFolder(run_dir)
    if step is not None:
        return _exported(run_dir, wanted_checkpoint(run_dir, step))
    if ModelFolder(folder.final).params.is_file():
        return folder.final
    checkpoint = latest_checkpoint(folder.checkpoints)
    return None if checkpoint is None else _exported(run_dir, checkpoint)


def _exported(run_dir: Path, checkpoint: Path) -> Path:
    """Return the model directory of a checkpoint, made the first time."""
    exported = RunFolder(run_dir).exported / checkpoint.name
    if not exported.is_dir():
        exported.parent.mkdir(exist_ok=True)
        with atomic_directory(exported) as temporary:
            export_policy(run_dir, step_of(checkpoint), temporary)
    return exported


def folder_in(home: Path) -> Place:
    """Return where evaluations go: <home>/<dataset>, with the key where that holds another evaluation."""
    return lambda dataset, identity: free_directory(home / dataset.name, identity)


def render_results(results: list[EvaluationResults]) -> str:
    """Return a table of Pass@K with intervals and verdicts."""
    rows = [["", "problems", "", "estimate", "95 % interval", "verdicts", "empty"]]
    for each in results:
        verdicts = ", ".join(f"{count} {status}" for status, count in each.verdicts.items())
        for k, estimate in each.pass_at_k.items():
            interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
            first = [each.sources.dataset, each.num_problems]
            rows.append([*first, f"Pass@{k}", f"{estimate.value:.3f}", interval, verdicts, _empty(each)])
    return f"{table(rows, left=(0, 2, 5))}\nintervals: {RULE}"


def _empty(results: EvaluationResults) -> str:
    return "" if results.answers is None else f"{results.answers.num_empty} of {results.answers.num_answers}"


def _track(config: RunConfig, metrics: dict[str, float], status: RunStatus) -> list[str]:
    """Add the numbers and files to the run's trackers; returns what could not be recorded."""
    sink: Any = ray.remote(MetricsSink).options(num_cpus=0).remote(config)
    sink.set_result.remote(metrics)
    sink.set_tags.remote(read_decisions(config.run_dir).tags())
    deadline_s = config.deadlines.start_s + config.deadlines.tracking_s
    try:
        problems: list[str] = ray.get(sink.close.remote(status), timeout=deadline_s)
    except RayError as error:
        problems = [f"the metrics actor did not close: {error}"]
    ray.kill(sink)
    return problems
