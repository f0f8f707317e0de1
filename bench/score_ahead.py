"""How much of the critic's cost is hidden: policy and critic of known length, scored ahead against synchronously.

    python bench/score_ahead.py [--steps 60] [--policy-ms 50] [--critic-ms 40]

Policy and critic sleep for a known time, so each has a core of its own whatever the machine; everything between them
(`ScoreAhead`, Ray actors, the object store, the version schedule) is the real thing. Rounds of the three modes are
interleaved in one run. Hidden share = 1 - (async - alone) / (sync - alone).
"""

import argparse
import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from actors.score_ahead import ScoreAhead
from actors.stalls import ScorerWatch
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.plan.versions import PublishedVersions

Mode = Literal["async", "sync"]
LOOKAHEAD, PUBLISH_EVERY, TOKENS = 4, 5, 4096


class SleepingCritic:
    """Answers after a known time, with values of the right shape."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        time.sleep(self._seconds)
        return [Scores(version, np.zeros(batch.tokens_BT.shape, np.float32)) for batch in batches]


def batches(num_steps: int) -> Iterator[list[TokenBatch]]:
    """Yield batches of one document each."""
    for step in range(num_steps):
        row = np.zeros((1, TOKENS))
        yield [
            TokenBatch(
                step=step,
                micro_step=0,
                tokens_BT=row.astype(np.int64),
                document_ids_BT=row.astype(np.int32),
                positions_BT=np.arange(TOKENS, dtype=np.int32)[None],
                supervised_mask_BT=row.astype(np.bool_),
                document_lengths_M=np.array([TOKENS], np.int32),
                rewards_M=np.ones(1, np.float32),
                row_ids_M=np.array([step], np.int64),
            )
        ]


def seconds_per_step(pool: list[Any], mode: Mode, num_steps: int, policy_s: float) -> float:
    """Time a loop that asks for scores and then sleeps for the policy's step; no pool means no scores."""
    schedule = PublishedVersions(LOOKAHEAD, PUBLISH_EVERY)
    scores = ScoreAhead(
        batches(num_steps),
        ScorerWatch(Path(), tuple(pool), tuple(f"critic_{number}" for number in range(len(pool)))),
        schedule,
        directory="",
        first_step=0,
        rank=0,
        lookahead_steps=LOOKAHEAD,
        mode=mode,
        deadline_s=60.0,
        start_s=60.0,
    )
    start = time.perf_counter()
    for step in range(num_steps):
        if pool:
            scores.next(step)
        time.sleep(policy_s)
    return (time.perf_counter() - start) / num_steps


def main() -> None:
    """Print the medians of interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--policy-ms", type=float, default=50.0)
    parser.add_argument("--critic-ms", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    critic = ray.remote(SleepingCritic).options(num_cpus=1).remote(arguments.critic_ms / 1000)
    ray.get(critic.score.remote([], "", 0))
    modes: dict[str, tuple[list[Any], Mode]] = {
        "policy alone": ([], "sync"),
        "synchronous": ([critic], "sync"),
        "scored ahead": ([critic], "async"),
    }
    measured: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(arguments.rounds):
        for name, (pool, mode) in modes.items():
            measured[name].append(1000 * seconds_per_step(pool, mode, arguments.steps, arguments.policy_ms / 1000))
    for name, values in measured.items():
        print(f"{name:13s} {statistics.median(values):7.2f} ms a step   (min {min(values):.2f}, max {max(values):.2f})")
    hidden = [1 - (ahead - alone) / (sync - alone) for alone, sync, ahead in zip(*measured.values(), strict=True)]
    print(f"hidden share of the critic's cost: median {statistics.median(hidden):.3f}, min {min(hidden):.3f}")


if __name__ == "__main__":
    main()
