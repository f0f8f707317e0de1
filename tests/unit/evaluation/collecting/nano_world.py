"""A few generated problems and a nano model to collect with, and the words of the command."""

import json
from pathlib import Path
from typing import Any

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.tokenizer import render_row

TASKS = ListTasks(seed=3, num_train_problems=6, num_valid_problems=2, num_correct=2, num_incorrect=2, systematic_frac=0)


def make_nano_world(root: Path) -> Path:
    """Write problems, rows, a model and its tokenizer under `root`."""
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", TASKS)
    args = ModelArgs(dim=32, n_layers=4, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
    make_micro_model(root / "models_v2" / "nano_mtp", args, seed=0)
    lines = files.train.read_bytes().splitlines()
    texts = [render_row(parse_row(line, 1, files.train)) for line in lines]
    train_tokenizer(texts, root / "models_v2" / "nano_mtp" / "tokenizer.model", 385)
    return root


def problems_file(storage: Path) -> Path:
    return storage / "datasets_local_small" / "list_tasks" / "train_problems.jsonl"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command(storage: Path, out: Path, *more: str) -> list[str]:
    """Words of `wmtp` that collect two short answers to each of two problems."""
    words = ["--checkpoint", str(storage / "models_v2" / "nano_mtp"), "--problems", str(problems_file(storage))]
    words += ["--num-samples", "2", "--temperature", "1", "--max-new-tokens", "8", "--limit", "2", "--out", str(out)]
    return ["collect", *words, f"storage_root={storage}", "train.device=cpu", *more]
