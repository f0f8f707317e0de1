"""What evaluating the policy while it trains costs the training: the same run with and without, in turn.

    python bench/evaluate_meanwhile.py [--rounds 3] [--steps 60] [--every 10] [--problems 10]

The model, rows and launch of bench/end_to_end.py: one rank, one torch thread, float32, CPU. Shown are seconds a step by
the wall clock, from the end of the warm-up to the end of the last step, and the ratio within each round; of the runs
with evaluations also what handing over took of that time, and how many turns were evaluated and skipped. The policies
of a round must have the same hash.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.end_to_end import run, write_site


@dataclass(frozen=True)
class Timed:
    """One run: seconds a step, the share of the time that handing over took, turns, and the policy's hash."""

    step_s: float
    handover_frac: float
    handover_s: list[float]
    num_evaluated: int
    num_skipped: int
    policy: str


def timed(words: list[str], folder: Path, name: str, warm_up: int) -> Timed:
    """Launch a run and read what it has left."""
    run([sys.executable, "-m", "wmtp_ray.launch", *words, f"run_name={name}"])
    run_dir = folder / "runs" / name
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = sorted((line for line in lines if line["stage"] == 2), key=lambda line: line["step"])
    whole_s = steps[-1]["time"] - steps[warm_up - 1]["time"]
    handed = [line["eval/handover_seconds"] for line in steps[warm_up:] if "eval/handover_seconds" in line]
    return Timed(
        step_s=whole_s / (len(steps) - warm_up),
        handover_frac=sum(handed) / whole_s,
        handover_s=handed,
        num_evaluated=sum(line["stage"] == 3 for line in lines),
        num_skipped=sum(line.get("eval/skipped") == 1.0 for line in steps),
        policy=json.loads((run_dir / "result.json").read_text())["policy_sha256"],
    )


def compare(folder: Path, words: list[str], arguments: argparse.Namespace) -> None:
    """Run the rounds, the order of the two turned round each time, and print them."""
    problems = folder / "tasks" / "valid_problems.jsonl"
    evaluates = [
        f"evaluation.every_steps={arguments.every}",
        f"evaluation.files.list_tasks={problems}",
        "evaluation.during_dataset=list_tasks",
        f"evaluation.during_limit={arguments.problems}",
        "evaluation.max_new_tokens=64",
    ]
    ratios: list[float] = []
    for number in range(arguments.rounds):
        found: dict[str, Timed] = {}
        for name in ("with", "without") if number % 2 else ("without", "with"):
            more = evaluates if name == "with" else []
            found[name] = timed([*words, "stages=[2]", *more], folder, f"{name}-{number}", arguments.warm_up)
        with_it, without = found["with"], found["without"]
        assert with_it.policy == without.policy, "the policies differ"
        ratios.append(with_it.step_s / without.step_s)
        print(
            f"round {number}: {1000 * without.step_s:,.1f} ms a step without, {1000 * with_it.step_s:,.1f} with "
            f"({ratios[-1]:.3f} x); handing over {1000 * statistics.median(with_it.handover_s):.2f} ms, "
            f"{with_it.handover_frac:.3%} of the time; {with_it.num_evaluated} evaluated, "
            f"{with_it.num_skipped} skipped",
            flush=True,
        )
    print(f"median of the ratios {statistics.median(ratios):.3f}")


def main() -> None:
    """Write a site, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.data = arguments.tokenizer = None
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), write_site(Path(name), arguments), arguments)


if __name__ == "__main__":
    main()
