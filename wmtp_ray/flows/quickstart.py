"""`make quickstart`: from an empty storage to a table that compares arms of equal training.

Generated problems of which few have correct programs, a tokenizer trained on them, a nano multi-token model, a short
ordinary training to have something to weigh. From there three arms take the same number of steps: `baseline` on correct
programs alone, `verifiable` through a critic with a trunk of its own, and `shuffled`, its control. Each is evaluated on
problems never seen, by running what it writes: its likeliest program, and programs drawn at temperature 1.

It uses the same code paths as a real run: files on disk, configurations by name, the flow. Only the sizes are small.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.rows_tokenizer import train_on_rows
from wmtp_ray.config.arms import arm_named
from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.list_tasks import DEFAULT_TASKS, ListTasks, ListTasksFiles, write_list_tasks
from wmtp_ray.evaluation.results import EvaluationResults, read_results
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.evaluate.evaluate import OtherSettings, Place
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.flows.run.run_stages import run_stages
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.report.quickstart_summary import (
    BASELINE,
    CONTROL,
    FILE_NAME,
    METHOD,
    CriticFindings,
    QuickstartArm,
    QuickstartSummary,
    differences_between,
    share_of,
    verdict_sentences,
    write_summary,
)
from wmtp_ray.report.quickstart_tables import critic_table, loss_table, pass_table, run_table
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.tracking.training_record import record_of_run
from wmtp_ray.training.held_out import measure_held_out
from wmtp_ray.training.stages import critic_bundle, read_stage_result

VOCAB_SIZE = 448
PROBLEMS_PER_CORRECT = 16  # one of so many problems has correct rows: where weights have something to win
TASKS = replace(DEFAULT_TASKS, correct_problems_frac=1 / PROBLEMS_PER_CORRECT)
PRESETS = "quickstart,own-critic"
NANO = ModelSpec(dim=96, n_layers=6, n_heads=4, vocab_size=VOCAB_SIZE, n_future_tokens=4, multiple_of=32)
BASE_STEPS = 300
ARM_STEPS = 80
CRITIC_STEPS = 100
NUM_DRAWN, DRAWN = 1, "-t1"  # programs of a problem at temperature 1, and what their folder is called behind its set
# So short a training spends its steps best on the next token; the further horizons learn beside it.
HORIZON_COEFS = (1.0, 0.05, 0.05, 0.05)
FROM_BASE = "train.learning_rate=2.0e-3"
CRITIC_RATE = "critic_stage.learning_rate=3.0e-3"  # of a trunk of 96 units
CORRECT_ROWS = TASKS.num_train_problems // PROBLEMS_PER_CORRECT * TASKS.num_correct
ALL_ROWS = CORRECT_ROWS + TASKS.num_train_problems * TASKS.num_incorrect
# Rows of all difficulties at once, in as many passes as the steps take; few measurements and checkpoints.
SHORT = (
    f"train.sampling.n_samples={ALL_ROWS}",
    "train.sampling.curriculum_learning=false",
    "train.epochs=100",
    "train.checkpoint_every=150",
    f"critic_stage.sampling.n_samples={2 * CORRECT_ROWS}",
    "critic_stage.epochs=100",
    f"critic_stage.max_steps={CRITIC_STEPS}",
    "critic_stage.eval_every=0",
    "critic.health_rows=300",
    "evaluation.num_decoders=2",
    f"loss.horizon_coefs={list(HORIZON_COEFS)}",
)


@dataclass(frozen=True)
class _Finished:
    """A run of the quickstart that is over; the base is not evaluated. `drawn` is at temperature 1."""

    config: RunConfig
    result: RunResult
    greedy: EvaluationResults | None
    drawn: EvaluationResults | None
    seconds: float


def quickstart(storage_root: Path, now: datetime) -> None:
    """Run it all under `storage_root`, print the tables and write quickstart.json."""
    console, started = Console(), time.perf_counter()
    console.print("[bold]1/4[/] problems, tokenizer and a nano model")
    files = write_inputs(storage_root)
    base_config = quickstart_base(storage_root, now)
    with joined(base_config.cluster.num_cpus):
        console.print(f"[bold]2/4[/] base: {BASE_STEPS} steps of ordinary training on correct programs, from scratch")
        base = _run(base_config)
        console.print(f"[bold]3/4[/] {ARM_STEPS} steps from there, three ways: {BASELINE}, {METHOD}, {CONTROL}")
        arms = {name: _run(config) for name, config in quickstart_arms(base_config, now)}
    console.print("[bold]4/4[/] held-out problems")
    models = {"random": base_config.model.path} | {
        name: each.config.folder.final for name, each in ({"base": base} | arms).items()
    }
    losses = {name: measure_held_out(path, arms[METHOD].config, files.valid) for name, path in models.items()}
    summary = _summary(base, arms, time.perf_counter() - started)
    write_summary(storage_root / FILE_NAME, summary)
    critic = summary.arms[METHOD].critic_health
    tables = [critic_table(critic)] if critic is not None else []
    tables += [run_table({name: each.result for name, each in arms.items()}), loss_table(losses)]
    print(*tables, pass_table(summary.arms), "", sep="\n", flush=True)
    for sentence in summary.verdict:
        console.print(sentence, highlight=False)
    console.print(f"Written: {storage_root / FILE_NAME}", soft_wrap=True)
    console.print(f"         {base_config.run_dir.parent}/quickstart-*-{now:%Y%m%d-%H%M%S}", soft_wrap=True)
    console.print(f"{summary.seconds:.0f} s in all. Next, on real data: README.md, 'Your own data'.")


def write_inputs(storage_root: Path, tasks: ListTasks = TASKS) -> ListTasksFiles:
    """Write problems, tokenizer and model where preset.quickstart.yaml looks for them."""
    files = write_list_tasks(storage_root / "datasets_local_small" / "list_tasks", tasks)
    model = storage_root / "models_v2" / "nano_mtp"
    make_micro_model(model, NANO, seed=0)
    train_on_rows(files.train, ModelFolder(model).tokenizer.model, VOCAB_SIZE)
    return files


def quickstart_base(storage_root: Path, now: datetime) -> RunConfig:
    """Return the run that all arms start from: ordinary training on correct programs, which is not compared.

    It is the longest, so two ranks share its steps; their sum of gradients is that of one.
    """
    words = (f"train.max_steps={BASE_STEPS}", "train.num_workers=2", "stages=[0,2]")
    return _configured("base", BASELINE, storage_root, now, *words)


def quickstart_arms(base: RunConfig, now: datetime) -> Iterator[tuple[str, RunConfig]]:
    """Yield the arms in the order in which they run: the control takes the critic that the method has trained."""
    shared = (f"model.path={base.folder.final}", f"train.max_steps={ARM_STEPS}", FROM_BASE)
    root = base.storage_root
    yield BASELINE, _configured(BASELINE, BASELINE, root, now, *shared)
    method = _configured(METHOD, METHOD, root, now, *shared)
    yield METHOD, method
    control = (f"weighting.type={CONTROL}", f"critic.path={method.folder.critic.final}", "stages=[0,2,3]")
    yield CONTROL, _configured(CONTROL, METHOD, root, now, *shared, *control)


def _configured(name: str, recipe: str, storage_root: Path, now: datetime, *overrides: str) -> RunConfig:
    """Load the preset with what all runs of the quickstart share."""
    run_name = f"quickstart-{name}-{now:%Y%m%d-%H%M%S}"
    words = (f"storage_root={storage_root}", *SHORT, CRITIC_RATE, *overrides)
    return load_config(Arguments(recipe=recipe, preset=PRESETS, run_name=run_name, overrides=words), now=now)


def _run(config: RunConfig) -> _Finished:
    started = time.perf_counter()
    prepared = prepare(config)
    claim_run_directory(config)
    at_temperature_1 = config.evaluation.model_copy(update={"num_samples": NUM_DRAWN, "temperature": 1.0})
    result = run_stages(config, prepared, [OtherSettings(at_temperature_1, _folder_of_drawn(config))])
    greedy = drawn = None
    if prepared.evaluation is not None:
        (dataset,) = prepared.evaluation.datasets
        greedy = read_results(config.folder.evaluations / dataset.name)
        drawn = read_results(config.folder.evaluations / f"{dataset.name}{DRAWN}")
    return _Finished(config, result, greedy, drawn, time.perf_counter() - started)


def _folder_of_drawn(config: RunConfig) -> Place:
    """One name in every arm: a report pairs evaluations by it."""
    return lambda dataset, identity: config.folder.evaluations / f"{dataset.name}{DRAWN}"


def _summary(base: _Finished, arms: dict[str, _Finished], seconds: float) -> QuickstartSummary:
    greedy = {name: each.greedy for name, each in arms.items() if each.greedy is not None}
    drawn = {name: each.drawn for name, each in arms.items() if each.drawn is not None}
    return QuickstartSummary(
        base=_arm(base),
        arms={name: _arm(each) for name, each in arms.items()},
        differences={name: share_of(each) for name, each in differences_between(greedy).items()},
        differences_t1={name: share_of(each) for name, each in differences_between(drawn).items()},
        verdict=tuple(verdict_sentences(greedy, drawn)),
        seconds=seconds,
    )


def _arm(run: _Finished) -> QuickstartArm:
    training = record_of_run(run.config.run_dir)
    return QuickstartArm(
        run=str(run.config.run_dir),
        started_from=training.start.weights_sha256,
        steps=training.steps,
        supervised_tokens=training.supervised_tokens,
        greedy=None if run.greedy is None else share_of(run.greedy.pass_at_k["1"]),
        t1=None if run.drawn is None else share_of(run.drawn.pass_at_k["1"]),
        critic_health=_critic(run.config, training.weighting),
        seconds=run.seconds,
    )


def _critic(config: RunConfig, weighting: str) -> CriticFindings | None:
    """Return the health of the critic that weighed the run's tokens, as its stage 1 measured it."""
    bundle = critic_bundle(config) if arm_named(weighting).source == "critic" else None
    stage_1 = None if bundle is None else read_stage_result(bundle.parent)
    if stage_1 is None or stage_1.health is None:
        return None
    health = stage_1.health
    return CriticFindings(health.metrics, tuple(health.failures), tuple(health.beside_baselines))
