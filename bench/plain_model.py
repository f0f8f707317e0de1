"""Whether a change to the model costs the plain LLaMA path any speed: two checkouts, forward and backward, interleaved.

    git worktree add /tmp/before COMMIT
    python bench/plain_model.py --before /tmp/before [--rounds 20]

Each checkout runs in a process of its own on one thread; they take turns, and who begins a round alternates, so that
both meet the same disturbances of the machine. Times are CPU seconds of the fastest step of a round, since others may
use the machine. A ratio above 1 means that this checkout is slower than the one before; a checkout against itself
(`--before .`) shows how much of it is noise. The models are those of Meta's layout: no option of another family is on.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Width, blocks, heads, key heads, vocabulary; lengths of the documents of a flat batch; steps of a round.
MODELS = {
    "nano": ((96, 6, 4, 4, 350), (64,) * 16, 8),
    "20M": ((384, 9, 6, 3, 8000), (128,) * 4, 2),
}


def step_of(model_name: str) -> Callable[[], None]:
    """Return forward and backward of all four horizons over a flat batch of documents."""
    import torch

    from vendor.meta_llama import ModelArgs, Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    (dim, layers, heads, kv_heads, vocabulary), lengths, _ = MODELS[model_name]
    args = ModelArgs(dim, layers, heads, vocabulary, kv_heads, n_future_tokens=4, multiple_of=32)
    model, tokens_BT = Transformer(args), torch.randint(vocabulary, (1, sum(lengths)))

    def step() -> None:
        h_BTD = model.trunk(tokens_BT, document_lengths=lengths)
        heads = [model.head_hidden(h_BTD, horizon, document_lengths=lengths) for horizon in range(1, 5)]
        sum(model.output(hidden_BTD).logsumexp(-1).mean() for hidden_BTD in heads).backward()
        model.zero_grad(set_to_none=True)

    return step


def serve(model_name: str) -> None:
    """Run a round of steps for each line of the standard input and print the seconds of the fastest."""
    step, num_steps = step_of(model_name), MODELS[model_name][2]
    for _ in range(3):
        step()
    for _ in sys.stdin:
        seconds = []
        for _ in range(num_steps):
            started = time.process_time()
            step()
            seconds.append(time.process_time() - started)
        print(min(seconds), flush=True)


def start(checkout: Path, model_name: str) -> subprocess.Popen[str]:
    """Start a checkout's process; it computes nothing until it is asked."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--serve", model_name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, cwd=checkout, text=True, **pipes)


def ask(process: subprocess.Popen[str]) -> float:
    """Let a process run one round and return the seconds of a step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(before: Path, model_name: str, num_rounds: int) -> str:
    """Return the row of a model: the fastest step of all rounds, and median and quartiles of the ratio of a round."""
    old, new = start(before, model_name), start(ROOT, model_name)
    ask(old), ask(new)
    pairs = []
    for number in range(num_rounds):
        first, second = (old, new) if number % 2 == 0 else (new, old)
        times = {first.pid: ask(first), second.pid: ask(second)}
        pairs.append((times[old.pid], times[new.pid]))
    for process in (old, new):
        process.communicate()
    low, middle, high = statistics.quantiles([after / earlier for earlier, after in pairs], n=4)
    old_ms, new_ms = (1000 * min(column) for column in zip(*pairs, strict=True))
    fastest = f"| {model_name} | {old_ms:.1f} | {new_ms:.1f} | {new_ms / old_ms:.3f} |"
    return f"{fastest} {middle:.3f} | {low:.3f} to {high:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--serve", choices=MODELS, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.serve:
        serve(words.serve)
    else:
        print("| model | before, fastest step, CPU ms | here | ratio | ratio, median of rounds | quartiles |")
        print("|---|---|---|---|---|---|")
        for model_name in MODELS:
            print(compare(words.before.resolve(), model_name, words.rounds), flush=True)


if __name__ == "__main__":
    main()
