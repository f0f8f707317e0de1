"""All three recipes and the control arms on real rows, side by side, as one table.

    python bench/real_rows.py --data FILE.jsonl --tokenizer tokenizer.model [--steps 10] [--batch-rows 8] [--out T.md]

A micro model (dim 256, 3 trunk blocks and 4 heads, 32,000 pieces) is made once. `verifiable` trains its critic first
(stage 1); the other arms that need a critic start from the same one, so that they differ in their weights and in
nothing else. The reference of rho1_weighted is what `baseline` became.
"""

import argparse
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.config.arms import ARMS
from wmtp_ray.config.load import Arguments, dump_config, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.flows.run.train import train
from wmtp_ray.tracking.metrics_file import read_reports
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.training.stages import read_stage_result, stage_directory

CONTROLS = [arm.name for arm in ARMS.values() if arm.role not in ("method", "rival")]
COLUMNS = {
    "first": "loss, first step",
    "last": "loss, last step",
    "weight/mean": "weight mean",
    "weight/std": "weight std",
    "weight/ess_frac": "ESS",
    "critic/explained_variance": "explained variance",
    "staleness": "max staleness",
    "wait": "mean wait, s",
    "perf/supervised_tokens_per_s": "supervised tokens/s",
}


def arms(critic: str, reference: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (name, recipe, overrides), in an order in which each finds what it needs."""
    yield "baseline", "baseline", []
    yield "verifiable (td)", "verifiable", ["stages=[0,1,2]"]
    after_stage_1 = ["stages=[0,2]", f"critic.path={critic}"]
    yield "verifiable, beta 0.2", "verifiable", [*after_stage_1, "weighting.beta=0.2"]
    yield "rho1_weighted (topk)", "rho1_weighted", [f"reference.path={reference}"]
    yield "rho1_weighted (weighted)", "rho1_weighted", [f"reference.path={reference}", "rho1.mode=weighted"]
    for control in CONTROLS:
        yield f"{control}, mixed rows", "verifiable", [*after_stage_1, f"weighting.type={control}"]


def main() -> None:
    """Run every arm in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = run_arms(Path(folder), arguments)
    print(table)
    if arguments.out is not None:
        arguments.out.write_text(table)


def run_arms(root: Path, arguments: argparse.Namespace) -> str:
    """Return the table of all arms as Markdown."""
    vocab_size = CodeTokenizer(arguments.tokenizer).vocab_size
    args = ModelArgs(dim=256, n_layers=7, n_heads=8, vocab_size=vocab_size, n_future_tokens=4, multiple_of=64)
    make_micro_model(root / "micro", args, seed=0)
    data = root / arguments.data.name
    data.write_bytes(arguments.data.read_bytes())
    common = [
        f"storage_root={root}",
        f"model.path={root / 'micro'}",
        f"tokenizer.path={arguments.tokenizer.absolute()}",
        f"data.train_file={data}",
        f"train.max_steps={arguments.steps}",
        f"train.batch_rows={arguments.batch_rows}",
        f"critic_stage.max_steps={arguments.steps}",
        f"critic_stage.batch_rows={2 * arguments.batch_rows}",
        "critic.health_rows=64",
        "tracking.mlflow=false",
    ]
    critic, reference = root / "runs" / "arm-1" / "critic" / "final", root / "runs" / "arm-0" / "final"
    lines, health = [], ""
    config = _configured("baseline", "cluster", common)
    with joined(config.cluster.num_cpus):
        for number, (name, recipe, overrides) in enumerate(arms(str(critic), str(reference))):
            config = _configured(recipe, f"arm-{number}", [*common, *overrides])
            prepared = prepare(config)
            config.run_dir.mkdir(parents=True)
            atomic_write(config.run_dir / "config.yaml", dump_config(config).encode())
            lines.append(_line(name, train(config, prepared), config.run_dir))
            print(lines[-1], flush=True)
            stage_1 = read_stage_result(stage_directory(config, 1))
            if stage_1 is not None and stage_1.health is not None:
                health = _health(stage_1.health.metrics, stage_1.health.failures)
    head = f"| arm | steps | {' | '.join(COLUMNS.values())} |\n|---|---|{'---|' * len(COLUMNS)}\n"
    return head + "\n".join(lines) + f"\n\nCritic after stage 1, on held-out problems: {health}\n"


def _configured(recipe: str, run_name: str, overrides: list[str]) -> RunConfig:
    arguments = Arguments(recipe=recipe, preset="cpu", run_name=run_name, overrides=tuple(overrides))
    return load_config(arguments, now=datetime.now())


def _line(name: str, result: RunResult, run_dir: Path) -> str:
    steps = [report for report in read_reports(run_dir) if report.stage == 2]
    values = dict(result.metrics) | {
        "first": steps[0].metrics["loss/policy_unweighted"],
        "last": steps[-1].metrics["loss/policy_unweighted"],
        "staleness": max(step.metrics["score/staleness_steps"] for step in steps),
        "wait": sum(step.metrics["score/wait_s"] for step in steps) / len(steps),
        # The first step carries the start of the stream: the rate is that of the others.
        "perf/supervised_tokens_per_s": sum(s.metrics["perf/supervised_tokens_per_s"] for s in steps[1:])
        / max(1, len(steps) - 1),
    }
    cells = [f"{values[key]:.4g}" if values.get(key) is not None else "-" for key in COLUMNS]
    return f"| {name} | {len(steps)} | {' | '.join(cells)} |"


def _health(metrics: dict[str, float], failures: list[str]) -> str:
    wanted = (
        "auc_100",
        "auc_25",
        "pair_accuracy",
        "explained_variance",
        "explained_variance_ceiling",
        "std_within_response",
    )
    wanted += ("baseline_length_pair_accuracy", "baseline_log_likelihood_pair_accuracy")
    numbers = ", ".join(f"{key} {metrics[f'critic/{key}']:.3f}" for key in wanted if f"critic/{key}" in metrics)
    return f"{numbers}. Gate: {'; '.join(failures) or 'passed'}."


if __name__ == "__main__":
    main()
