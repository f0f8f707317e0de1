"""A plan, and the estimate beside it, read no setting that does not say so (`config/effects.py`)."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from wmtp_ray.config.effects import PLAN, STAGE_1
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig, effects
from wmtp_ray.config.section import Section
from wmtp_ray.plan.run_plan import plan_critic_stage, plan_training
from wmtp_ray.preflight.needed_resources import needed_resources
from wmtp_ray.training.estimate.run_estimate import estimate_run

# Only whether weights that need no critic have one beside them all the same: the plan of rows does not change, and
# trials of a sweep over it share their plans.
OF_THE_ESTIMATE_ALONE = {"train.value_coef", "critic.anchor_coef"}


class Watched:
    """A section whose settings note that they were read; properties are computed from watched settings."""

    def __init__(self, section: Section, read: set[str], prefix: str = "") -> None:
        self._section, self._read, self._prefix = section, read, prefix

    def __getattr__(self, name: str) -> Any:
        if isinstance(found := getattr(type(self._section), name, None), property):
            assert found.fget is not None
            return found.fget(self)
        value = getattr(self._section, name)
        if isinstance(value, Section):
            return Watched(value, self._read, f"{self._prefix}{name}.")
        if name in type(self._section).model_fields:
            self._read.add(f"{self._prefix}{name}")
        return value


def load(tmp_path: Path, *words: str) -> RunConfig:
    (tmp_path / "params.json").write_text(
        json.dumps({"dim": 32, "n_layers": 4, "n_heads": 2, "vocab_size": 100, "n_future_tokens": 2})
    )
    given = ["recipe=verifiable", "run_name=x", f"model.path={tmp_path}", "preset=cpu", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def test_plans_and_estimate_read_what_says_that_a_plan_reads_it(make_index, tmp_path: Path) -> None:
    index, read = make_index(400), set[str]()
    batch = ("train.batch_rows=8", "critic_stage.batch_rows=8", "data.max_tokens=128")
    no_critic = ("weighting.type=uniform", "train.value_coef=0")
    packed = ("train.batch_sequences=2", "train.micro_batch_tokens=256")
    for words in ((), packed, ("weighting.type=surprisal",), no_critic):
        config: Any = Watched(load(tmp_path, *batch, *words), read)
        plans = {
            1: plan_critic_stage(
                index,
                config.data,
                config.critic_stage,
                config.seed,
                needs_pairs=config.critic.objective == "pairwise",
            ),
            2: plan_training(index, config.data, config.train, config.seed),
        }
        estimate_run(config, plans, index)
        needed_resources(config)
    assert {"data.policy_rows", "train.sampling.seed", "critic.objective", "critic_stage.sampling.seed"} <= read
    assert {key for key in read if not effects().reads(PLAN, key)} == OF_THE_ESTIMATE_ALONE


def test_the_plan_of_stage_1_reads_what_says_that_stage_1_reads_it(make_index, tmp_path: Path) -> None:
    read = set[str]()
    config: Any = Watched(load(tmp_path, "critic_stage.batch_rows=8", "data.max_tokens=128"), read)
    plan_critic_stage(make_index(400), config.data, config.critic_stage, config.seed)
    assert "critic_stage.sampling.difficulty_range" in read
    assert [key for key in read if not effects().reads(STAGE_1, key)] == []
