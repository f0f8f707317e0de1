"""Two rounds of the method on a nano model in this process: real answers, verdicts, critic and policy, without Ray."""

import json
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.evidence_runs import train_stages
from tests.unit.evaluation.collecting.nano_world import make_nano_world, problems_file
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.flows.run.launch_rounds import collect_round
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.rounds.rounds_record import RoundsRecord
from wmtp_ray.rounds.run_rounds import Ports, run_rounds
from wmtp_ray.run_folder import RoundsFolder

SHORT = (
    "stages=[0,1,2] rounds=2 rounds.num_samples=3 rounds.limit=4 rounds.share_collected=null critic.source=frozen "
    "critic.health_rows=8 critic_stage.batch_rows=4 critic_stage.max_steps=2 critic_stage.epochs=9 train.batch_rows=8 "
    "train.max_steps=2 train.epochs=9 train.sampling.curriculum_learning=false evaluation.max_new_tokens=8 "
    "evaluation.draft_horizons=0 evaluation.batch_size=4"
)
QUIET = Console(quiet=True)


def configured(storage: Path, name: str) -> RunConfig:
    words = [f"storage_root={storage}", f"run_name={name}", f"rounds.problems={problems_file(storage)}"]
    given = ["recipe=online", "preset=quickstart", *words, *SHORT.split()]
    config = load_config(parse_arguments(given), now=datetime(2026, 1, 1))
    claim_run_directory(config)
    return config


def rounds(config: RunConfig) -> RoundsRecord:
    return run_rounds(config, Ports(partial(collect_round, QUIET), train_stages))


def test_the_policys_own_programs_are_judged_and_trained_on_and_two_runs_are_the_same(tmp_path):
    storage = make_nano_world(tmp_path)
    first, second = (rounds(configured(storage, name)) for name in ("first", "second"))
    assert first == second, "the same rows, files and policies, bit by bit"
    assert (first.steps, first.judged) == (2 * 2, 2 * 4 * 3)
    assert len({each.policy_sha256 for each in first.rounds}) == 2
    folder = RoundsFolder(configured(storage, "first").run_dir)
    for number, each in enumerate(first.rounds):
        assert each.collected is not None
        assert each.mixed is not None
        rows = [json.loads(line) for line in folder.rows(number).read_bytes().splitlines()]
        assert len(rows) == each.collected.correct_rows + each.collected.incorrect_rows > 0
        assert (each.mixed.from_file, each.critic_steps) == (6 * 4, 2)
        assert len(folder.train_file(number).read_bytes().splitlines()) == 24 + each.mixed.collected
        kept = sum(len(folder.rows(before).read_bytes().splitlines()) for before in range(number + 1))
        assert each.mixed.collected + each.mixed.repeated + each.mixed.contradicted == kept
