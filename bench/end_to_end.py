"""What our launch costs over a bare loop and gains over Hugging Face's Trainer: the same model, rows and steps.

    python bench/end_to_end.py [--trainer-python PYTHON] [--data FILE.jsonl --tokenizer tokenizer.model] [--rounds 5]

One horizon on all sides, float32, CPU, the same number of torch threads. Every variant is a process of its own, rounds
are interleaved; shown are supervised tokens a second from the end of the warm-up to the end of the last step, by the
wall clock, and the medians of the ratios within a round. Variants:

    bare          a PyTorch loop over batches that lie in memory, torch's cross-entropy of the supervised positions
    bare, fused   the same with our fused loss
    launch        `python -m wmtp_ray.launch recipe=baseline`, one worker: Ray, Ray Data, metrics, MLflow, all of it
    trainer, ...  transformers' Trainer, padded with rows grouped by length, and padding-free (flattened)

The trainer needs a Python with torch and transformers (`--trainer-python`); without one it is left out.
How long a run takes to start: bench/startup.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples, render_row
from wmtp_ray.flows.run.prepare import prepare

HERE = Path(__file__).parent
PIECES, TABLE_ROWS = 448, 8192  # generated text has few pieces; the table is that of a small real tokenizer
TASKS = ListTasks(
    seed=1, num_train_problems=400, num_valid_problems=10, num_correct=4, num_incorrect=2, systematic_frac=0.7
)


def write_site(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Write data, tokenizer, model and the planned rows under `folder`; return the launch's words."""
    data, tokenizer = arguments.data, arguments.tokenizer
    if data is None:
        data, tokenizer = write_list_tasks(folder / "tasks", TASKS).train, folder / "tokenizer.model"
        lines = data.read_bytes().splitlines()
        texts = (render_row(parse_row(line, number, data)) for number, line in enumerate(lines, start=1))
        train_tokenizer(texts, tokenizer, PIECES)
    args = ModelArgs(
        dim=arguments.dim,
        n_layers=arguments.layers,
        n_heads=8,
        vocab_size=max(TABLE_ROWS, CodeTokenizer(tokenizer).vocab_size),
        n_future_tokens=1,
        multiple_of=64,
    )
    make_micro_model(folder / "model", args, seed=0)
    words = [
        "recipe=baseline",
        "preset=cpu",
        f"storage_root={folder}",
        f"model.path={folder / 'model'}",
        f"tokenizer.path={Path(tokenizer).absolute()}",
        f"data.train_file={Path(data).absolute()}",
        f"data.index_file={folder / 'rows.index.parquet'}",
        "data.max_tokens=1024",
        f"train.max_steps={arguments.steps}",
        f"train.batch_rows={arguments.batch_rows}",
        "train.micro_batch_tokens=65536",
        "train.checkpoint_every=100000",
        f"cluster.threads_per_worker={arguments.threads}",
        "tracking.progress=false",
    ]
    write_planned_rows(folder, words)
    return words


def write_planned_rows(folder: Path, words: list[str]) -> None:
    """Leave the rows of the plan, tokenised, where the other variants read them."""
    config = load_config(parse_arguments(words), now=datetime.now())
    prepared = prepare(config)
    plan, index = prepared.plans[2], prepared.index
    ids = plan.row_ids_P
    examples = read_examples(
        config.data.train_file,
        index.offset_R[ids].tolist(),
        index.num_bytes_R[ids].tolist(),
        ids.tolist(),
        CodeTokenizer(config.tokenizer.path),
        is_correct_N=index.is_correct_R[ids].tolist(),
    )
    np.savez(
        folder / "rows.npz",
        tokens_T=np.concatenate([each.tokens_T for each in examples]),
        lengths_N=np.array([len(each.tokens_T) for each in examples]),
        prompts_N=np.array([each.prompt_tokens for each in examples]),
        step_starts_S=plan.step_starts_S,
    )


def run_launch(words: list[str], folder: Path, number: int) -> dict[str, list[float]]:
    """Launch a run; the end of a step is the time at which its metrics were written."""
    name = f"round-{number}"
    run([sys.executable, "-m", "wmtp_ray.launch", *words, f"run_name={name}"])
    lines = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    supervised = [line["perf/supervised_tokens_per_s"] * line["perf/step_s"] for line in lines]
    return {"seconds": [line["time"] for line in lines], "supervised": supervised}


def run_script(python: str, script: str, folder: Path, threads: int, kind: str) -> dict[str, list[float]]:
    """Run one of the scripts beside this one and read what it printed last."""
    return json.loads(run([python, str(HERE / script), str(folder), str(threads), kind]).splitlines()[-1])


def run(command: list[str]) -> str:
    """Run a command from the repository, quietly; what it said is shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, env=os.environ)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def rate(clock: dict[str, list[float]], warm_up: int) -> float:
    """Supervised tokens a second after `warm_up` steps."""
    seconds, supervised = clock["seconds"], clock["supervised"]
    return sum(supervised[warm_up:]) / (seconds[-1] - seconds[warm_up - 1])


def compare(folder: Path, words: list[str], arguments: argparse.Namespace) -> None:
    """Run the rounds and print rates and ratios."""
    threads = arguments.threads
    variants: dict[str, Callable[[int], dict[str, list[float]]]] = {
        "bare": lambda n: run_script(sys.executable, "end_to_end_bare.py", folder, threads, "plain"),
        "bare, fused": lambda n: run_script(sys.executable, "end_to_end_bare.py", folder, threads, "fused"),
        "launch": lambda n: run_launch(words, folder, n),
    }
    for kind in ("padded", "flattened") if arguments.trainer_python else ():
        variants[f"trainer, {kind}"] = lambda n, kind=kind: run_script(
            arguments.trainer_python, "end_to_end_trainer.py", folder, threads, kind
        )
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(arguments.rounds):
        for name, variant in variants.items():
            rates[name].append(rate(variant(number), arguments.warm_up))
        print(
            f"round {number}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items()), flush=True
        )
    print(f"\n{'':20s} supervised tokens/s   launch is")
    for name, values in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["launch"], values, strict=True))
        print(f"{name:20s} {statistics.median(values):19,.0f}   {ratio:.2f} x")


def main() -> None:
    """Write a site, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer-python", default=None)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        words = write_site(Path(name), arguments)
        compare(Path(name), words, arguments)


if __name__ == "__main__":
    main()
