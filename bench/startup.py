"""How long from the command to the first optimizer step, and where the seconds go.

    python bench/startup.py --storage storage [--rounds 3]

`--storage` is one that `make quickstart` has filled. Rounds of recipe=baseline (one rank) and recipe=verifiable (one
rank, one critic) are interleaved; the machine should have nothing else to do. Seconds count from the command; a process
is up when it has recorded itself in the run's folder.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

NUM_STEPS = 3
PHASES = {
    "config.yaml": "configuration, index, plan: the folder is claimed",
    "driver": "the driver is on Ray",
    "critic_0": "the critic is up",
    "rank_0": "the rank is up",
    "reader": "a process reads rows",
    "first step": "the first optimizer step is done",
    "end": "the run is over",
}


def measure(storage: Path, name: str, words: list[str]) -> dict[str, float]:
    """Run a launch of a few steps; return seconds at which each phase was reached."""
    run_dir = storage / "runs" / name
    shutil.rmtree(run_dir, ignore_errors=True)
    command = [sys.executable, "-m", "wmtp_ray.launch", *words, "preset=quickstart", f"storage_root={storage}"]
    limits = [f"run_name={name}", f"train.max_steps={NUM_STEPS}", "stages=[2]", "tracking.mlflow=false"]
    seconds: dict[str, float] = {}
    started = time.time()
    with subprocess.Popen([*command, *limits], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            there = [path.name for path in (run_dir / "config.yaml", *run_dir.glob("processes/*")) if path.exists()]
            for found in there:
                seconds.setdefault("reader" if found.startswith("reader") else Path(found).stem, time.time() - started)
            time.sleep(0.02)
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}"
    seconds["config.yaml"] = seconds.pop("config")
    seconds["first step"] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])["time"] - started
    seconds["end"] = time.time() - started
    shutil.rmtree(run_dir)
    return seconds


def measure_refusal(storage: Path) -> float:
    """Return the seconds that a mistake takes to be refused."""
    command = [sys.executable, "-m", "wmtp_ray.launch", "recipe=baseline", "preset=quickstart", "weighting.bta=1"]
    started = time.time()
    refused = subprocess.run([*command, f"storage_root={storage}"], capture_output=True)
    assert refused.returncode == 2, refused.stderr
    return time.time() - started


def show(values: list[float], what: str) -> None:
    """Print one line."""
    print(f"  {statistics.median(values):5.1f} s ({min(values):.1f}, {max(values):.1f})  {what}")


def main() -> None:
    """Print medians over interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    storage = arguments.storage.absolute()
    critic = max(storage.glob("runs/quickstart-verifiable-*/critic/final"))
    launches = {
        "recipe=baseline": ["recipe=baseline"],
        "recipe=verifiable": ["recipe=verifiable", f"critic.path={critic}", f"model.path={critic}"],
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in launches}
    for _ in range(arguments.rounds):
        for name, words in launches.items():
            rounds[name].append(measure(storage, "startup-bench", words))
    print(f"median of {arguments.rounds} rounds (smallest, largest)")
    show([measure_refusal(storage) for _ in range(arguments.rounds)], "a misspelt key is refused")
    for name, found in rounds.items():
        print(f"{name}, {NUM_STEPS} steps")
        for phase, meaning in PHASES.items():
            values = [each[phase] for each in found if phase in each]
            if values:
                show(values, meaning)


if __name__ == "__main__":
    main()
