"""What `--dry-run` says of the real model, 7B_1T_4, on one, two and four A100s of 80 GB, trained whole and by adapters.

    python -m bench.fit        (from the repository's root; allocates no model)

The rows are generated: 20,000 problems with lengths like those of CodeContests, of which the recipe draws what it
always draws. So steps, tokens and hours are those of a whole run of `recipe=verifiable`.
"""

import json
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np

from bench.estimate import LORA, SEVEN_B
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import ConfigError
from wmtp_ray.plan.run_plan import plan_critic_stage, plan_training
from wmtp_ray.training.estimate.render_estimate import render_estimate
from wmtp_ray.training.estimate.run_estimate import estimate_run, require_fit

WHOLE = "model.lora=null"
SHARED_CARD = ("cluster.gpus_per_worker=0.7", "cluster.gpus_per_critic=0.3")
TWO_RANKS = (
    "preset=a100-4",
    "train.num_workers=2",
    "train.batch_rows=128",
    "train.micro_batch_tokens=8192",
    *SHARED_CARD,
)
LAYOUTS = {
    "1 A100, all weights": ("preset=a100-1", WHOLE),
    "1 A100, LoRA": ("preset=a100-1",),
    "2 A100, all weights": (*TWO_RANKS, WHOLE),
    "2 A100, LoRA": (*TWO_RANKS, LORA),
    "4 A100, all weights": ("preset=a100-4", WHOLE),
    "4 A100, LoRA": ("preset=a100-4", LORA),
}
NUM_PROBLEMS, ROWS_OF_EACH = 20_000, 40
MEAN_PROMPT_TOKENS, MEAN_RESPONSE_TOKENS, SPREAD = 700, 400, 0.6


def generated_index() -> RowIndex:
    """Index rows that lie nowhere: lognormal lengths, half of each problem's programs correct."""
    random = np.random.default_rng(0)
    num_rows = NUM_PROBLEMS * ROWS_OF_EACH
    prompt_P = _lengths(random, MEAN_PROMPT_TOKENS, NUM_PROBLEMS)
    difficulty_P = random.integers(1, 12, NUM_PROBLEMS).astype(np.int16)
    return RowIndex(
        path="generated",
        offset_R=np.arange(num_rows, dtype=np.int64) * 4000,
        num_bytes_R=np.full(num_rows, 3999, dtype=np.int32),
        difficulty_R=np.repeat(difficulty_P, ROWS_OF_EACH),
        is_correct_R=np.arange(num_rows) % 2 == 0,
        problem_R=np.repeat(np.arange(NUM_PROBLEMS, dtype=np.int32), ROWS_OF_EACH),
        problem_names=tuple(f"problem_{number}" for number in range(NUM_PROBLEMS)),
        language_R=np.full(num_rows, 3, dtype=np.int8),
        cf_rating_R=np.zeros(num_rows, dtype=np.int16),
        source_R=np.zeros(num_rows, dtype=np.int16),
        source_names=("generated",),
        prompt_tokens_R=np.repeat(prompt_P, ROWS_OF_EACH),
        response_tokens_R=_lengths(random, MEAN_RESPONSE_TOKENS, num_rows),
        file_fingerprint="generated",
        tokenizer_hash="generated",
    )


def _lengths(random: np.random.Generator, mean: float, num: int) -> np.ndarray:
    return np.maximum(8, random.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, num)).astype(np.int32)


def fit_of(words: tuple[str, ...], index: RowIndex, model: Path) -> str:
    """Return what the plan of such a run would say of memory and time, and the refusal if there is one."""
    arguments = parse_arguments(["recipe=verifiable", f"model.path={model}", *words])
    config = load_config(arguments, now=datetime.now())
    plans = {
        1: plan_critic_stage(index, config.data, config.critic_stage, config.seed, needs_pairs=False),
        2: plan_training(index, config.data, config.train, config.seed),
    }
    estimate = estimate_run(config, plans, index)
    try:
        require_fit(estimate)
    except ConfigError as refusal:
        return f"{render_estimate(estimate)}\n\nrefused: {refusal}"
    return render_estimate(estimate)


def main() -> None:
    """Print every layout."""
    index = generated_index()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.json").write_text(json.dumps(SEVEN_B))
        for name, words in LAYOUTS.items():
            print(f"{name}: {' '.join(words)}\n{'-' * 100}\n{fit_of(words, index, Path(folder))}\n")


if __name__ == "__main__":
    main()
