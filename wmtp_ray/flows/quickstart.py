"""`make quickstart`: from nothing to a table.

Generated problems, a tokenizer trained on them, a nano multi-token model, a short ordinary training to have something
to weight, then `recipe=verifiable` through critic and policy; both evaluated on problems never seen, by running what
they write.

It uses the same doors as a real run: files on disk, configurations by name, the flow. Only the sizes are small.
"""

import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.rows_tokenizer import train_on_rows
from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.list_tasks import QUICKSTART_TASKS, ListTasksFiles, write_list_tasks
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.prepare import prepare
from wmtp_ray.flows.run_directory import claim_run_directory
from wmtp_ray.flows.run_stages import run_stages
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.training.held_out import HeldOutLosses, measure_held_out
from wmtp_ray.training.stages import read_stage_result, stage_directory

VOCAB_SIZE = 448
NANO = ModelArgs(dim=96, n_layers=6, n_heads=4, vocab_size=VOCAB_SIZE, n_future_tokens=4, multiple_of=32)
BASE_STEPS = 240


def quickstart(storage_root: Path, now: datetime) -> int:
    """Run it all under `storage_root` and print the table; returns the exit code."""
    console, started = Console(), time.perf_counter()
    console.print("[bold]1/4[/] problems, tokenizer and a nano model")
    files = write_inputs(storage_root)
    stamp = now.strftime("%Y%m%d-%H%M%S")
    root = f"storage_root={storage_root}"
    base = _configured("baseline", f"quickstart-base-{stamp}", now, root, f"train.max_steps={BASE_STEPS}")
    weighted = _configured(
        "verifiable", f"quickstart-verifiable-{stamp}", now, root, f"model.path={base.run_dir / 'final'}"
    )
    with joined(base.cluster.num_cpus):
        console.print("[bold]2/4[/] recipe=baseline: ordinary training on correct programs, from scratch")
        base_result = _run(base)
        console.print("[bold]3/4[/] recipe=verifiable: a critic learns to judge, then weights the policy's tokens")
        weighted_result = _run(weighted)
    console.print("[bold]4/4[/] held-out problems, before and after")
    models = {"random": base.model.path, "baseline": base.run_dir / "final", "verifiable": weighted.run_dir / "final"}
    losses = {name: measure_held_out(path, weighted, files.valid) for name, path in models.items()}
    results = {"baseline": base_result, "verifiable": weighted_result}
    for table in (_health_table(weighted), _run_table(results), _loss_table(losses), _pass_table(results)):
        console.print(table)
    console.print(f"Written: {base.run_dir}\n         {weighted.run_dir}")
    console.print(f"{time.perf_counter() - started:.0f} s in all. Next: README.md, 'Your own data'.")
    return 0


def write_inputs(storage_root: Path) -> ListTasksFiles:
    """Write problems, tokenizer and model where preset.quickstart.yaml looks for them."""
    files = write_list_tasks(storage_root / "datasets_local_small" / "list_tasks", QUICKSTART_TASKS)
    model = storage_root / "models_v2" / "nano_mtp"
    make_micro_model(model, NANO, seed=0)
    train_on_rows(files.train, model / "tokenizer.model", VOCAB_SIZE)
    return files


def _configured(recipe: str, run_name: str, now: datetime, *overrides: str) -> RunConfig:
    arguments = Arguments(recipe=recipe, preset="quickstart", run_name=run_name, overrides=overrides)
    return load_config(arguments, now=now)


def _run(config: RunConfig) -> RunResult:
    prepared = prepare(config)
    claim_run_directory(config)
    return run_stages(config, prepared)


def _loss_table(losses: dict[str, HeldOutLosses]) -> Table:
    table = Table(
        "model",
        "correct programs",
        "incorrect programs",
        "margin",
        title="Loss per token on problems never seen",
        caption="Lower is likelier. A positive margin: correct programs are likelier than incorrect ones. The "
        "verifiable run reads incorrect programs too; compare it with weighting.type=uniform on the same rows.",
    )
    for name, each in losses.items():
        table.add_row(name, f"{each.correct:.3f}", f"{each.incorrect:.3f}", f"{each.incorrect - each.correct:+.3f}")
    return table


def _pass_table(results: dict[str, RunResult]) -> Table:
    table = Table(
        "model",
        "Pass@1",
        "95 % interval",
        title="Held-out problems solved by the program that the model writes",
        caption="Greedy; every program is run on ten inputs. The interval is over problems; `wmtp evaluate --compare` "
        "compares two runs in pairs.",
    )
    for name, result in results.items():
        value, low, high = (result.metrics[f"eval/list_tasks/pass@1{part}"] for part in ("", "/ci_low", "/ci_high"))
        table.add_row(name, f"{value:.3f}", f"[{low:.3f}, {high:.3f}]")
    return table


def _run_table(results: dict[str, RunResult]) -> Table:
    names = {
        "loss/policy_unweighted": "loss of the last batch, all horizons",
        "weight/mean": "token weights: mean",
        "weight/std": "token weights: standard deviation",
        "weight/ess_frac": "token weights: effective sample size",
        "critic/explained_variance": "critic: explained variance, last batch",
        "score/staleness_steps": "critic's version: steps behind",
        "perf/supervised_tokens_per_s": "supervised tokens per second",
    }
    table = Table("", *results, title="The two runs")
    table.add_row("steps", *(str(result.steps) for result in results.values()))
    for key, label in names.items():
        cells = [f"{r.metrics[key]:.4g}" if key in r.metrics else "-" for r in results.values()]
        table.add_row(label, *cells)
    return table


def _health_table(config: RunConfig) -> Table:
    stage_1 = read_stage_result(stage_directory(config, 1))
    metrics = stage_1.health.metrics if stage_1 is not None and stage_1.health is not None else {}
    names = {
        "auc_100": "AUC at the end of a program",
        "pair_accuracy": "correct above incorrect, within a problem",
        "baseline_length_pair_accuracy": "the same, by length alone",
        "baseline_log_likelihood_pair_accuracy": "the same, by the policy's own likelihood",
        "minimal_first_difference_drops": "the first wrong token drops more",
    }
    table = Table("critic on held-out problems", "found", "chance", title="The critic before it weighs anything")
    for key, label in names.items():
        if f"critic/{key}" in metrics:
            table.add_row(label, f"{metrics[f'critic/{key}']:.3f}", "0.5")
    return table
