"""Rounds of collecting and training: does the policy gain from its own judged programs, and from which of them?

    python bench/rounds.py run --seeds 0 1 2 --rounds 3 --out rounds.jsonl
    python bench/rounds.py table rounds.jsonl

For each seed a base is trained on the regime's correct rows (`evidence.py`); every arm goes on from there, round by
round, with the same number of optimizer steps. `online` (weighted by TD errors), `online_finish` (the same, its last
half on correct rows with equal weights) and `rejection` judge the same number of programs: --answers to each of the
first --train-problems training problems, in every round; `none` goes on with the file's correct rows and
`online_none`, weighted, with all of them, and they judge none. One JSON line an arm, seed and round is appended to
--out as soon as it is known: verdicts of --samples programs at temperature 1 of every held-out problem, what was
collected, the critic's health. Round 0 of an arm is the policy after its first round; the base has a line of its own.
No Ray: `evidence_runs.py`. What was done is not done again, and a run that was killed goes on inside its round.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from evidence import NUM_PROBLEMS, World, lines_of
from evidence_arms import CRITIC_STEPS
from evidence_runs import evaluate, train_stages
from rich.console import Console

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.flows.quickstart import FROM_BASE
from wmtp_ray.flows.run.launch_rounds import collect_round
from wmtp_ray.intervals import Float64, difference_over_problems, over_seeds
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.rounds.rounds_record import Round, read_rounds
from wmtp_ray.rounds.run_rounds import Ports, round_config, run_rounds
from wmtp_ray.run_folder import CRITIC_STAGE, RoundsFolder
from wmtp_ray.tracking.result import read_result
from wmtp_ray.tracking.stage_health import read_health

ARMS = {
    "online": ("online",),
    "online_finish": ("online", "train.finish_correct_frac=0.5"),
    "rejection": ("online_rejection",),
    "none": ("online_rejection", "rounds.share_collected=0"),
    "online_none": ("online", "rounds.share_collected=0"),
}
DEFAULT_ARMS = ("online", "online_finish", "rejection", "none")
BASE = "base"
HORIZONS = 4


@dataclass(frozen=True)
class RoundLine:
    """One line of the results; verdicts by problem: how many of `samples` programs pass. `cpu_s` is of the training."""

    arm: str
    regime: int
    seed: int
    round: int
    share: float | None
    keep: str
    steps: int
    critic_steps: int
    cpu_s: float | None
    collected: dict[str, Any] | None
    mixed: dict[str, Any] | None
    health: dict[str, float]
    samples: int
    pass1_t1: float
    passed_by_problem: dict[str, int]


def run(asked: argparse.Namespace) -> None:
    """Append a line for every round that is asked for and not there yet."""
    work = asked.out.with_name(f"{asked.out.name}.work").absolute()
    for seed in asked.seeds:
        world = World(work, asked.regime, 0, seed, HORIZONS, asked.steps, asked.samples, asked.problems)
        _append(asked, world, BASE, [] if _is_there(asked, world, BASE, 0) else [_base_line(world)])
        for arm in asked.arms:
            _append(asked, world, arm, _lines(world, arm, asked))


def _append(asked: argparse.Namespace, world: World, arm: str, lines: Iterable[RoundLine]) -> None:
    for line in lines:
        with asked.out.open("ab") as file:
            file.write(orjson.dumps(asdict(line)) + b"\n")
        print(f"seed {world.seed} {arm:10} round {line.round}  T = 1 {line.pass1_t1:.3f}", flush=True)


def _is_there(asked: argparse.Namespace, world: World, arm: str, number: int) -> bool:
    places = {(each["arm"], each["seed"], each["round"], each["regime"]) for each in lines_of(asked.out)}
    return (arm, world.seed, number, world.regime) in places


def _configured(world: World, arm: str, asked: argparse.Namespace) -> RunConfig:
    recipe, *words = ARMS[arm]
    lists = world.storage / "datasets_local_small" / "list_tasks"
    shared = (
        f"model.path={world.base().directory}",
        f"train.max_steps={asked.steps}",
        FROM_BASE,
        f"critic_stage.max_steps={asked.critic_steps}",
        f"rounds.count={asked.rounds}",
        f"rounds.problems={lists / 'train_problems.jsonl'}",
        f"rounds.limit={asked.train_problems}",
        f"rounds.num_samples={asked.answers}",
        f"rounds.keep={asked.keep}",
        f"rounds.share_collected={'null' if asked.share is None else asked.share}",
    )
    return world.config(f"rounds-{arm}", recipe, *shared, *words)


def _lines(world: World, arm: str, asked: argparse.Namespace) -> Iterator[RoundLine]:
    """Run an arm's rounds, then measure the policy of each that has no line yet."""
    if all(_is_there(asked, world, arm, number) for number in range(asked.rounds)):
        return
    config = _configured(world, arm, asked)
    claim_run_directory(config)
    run_rounds(config, Ports(partial(collect_round, Console(quiet=True)), train_stages))
    folder, record = RoundsFolder(config.run_dir), read_rounds(RoundsFolder(config.run_dir))
    for number, done in enumerate(record.rounds):
        if not _is_there(asked, world, arm, number):
            yield _measured(world, arm, config, number, done, folder)


def _measured(world: World, arm: str, config: RunConfig, number: int, done: Round, folder: RoundsFolder) -> RoundLine:
    run_of = folder.run(number)
    passed = _passed(round_config(config, number, config.model.path), run_of.final, world.samples)
    health = read_health(run_of.path).get(CRITIC_STAGE)
    return RoundLine(
        arm=arm,
        regime=world.regime,
        seed=world.seed,
        round=number,
        share=config.rounds.share_collected,
        keep=config.rounds.keep,
        steps=done.steps,
        critic_steps=done.critic_steps,
        cpu_s=_cpu_s(run_of.path),
        collected=None if done.collected is None else asdict(done.collected),
        mixed=None if done.mixed is None else asdict(done.mixed),
        health={} if health is None else health.metrics,
        samples=world.samples,
        pass1_t1=statistics.fmean(passed.values()) / world.samples,
        passed_by_problem=passed,
    )


def _base_line(world: World) -> RoundLine:
    config = world.config(BASE, "baseline", "stages=[0,2,3]")
    passed = _passed(config, world.base().directory, world.samples)
    mean = statistics.fmean(passed.values()) / world.samples
    return RoundLine(
        BASE, world.regime, world.seed, 0, None, "", 0, 0, None, None, None, {}, world.samples, mean, passed
    )


def _passed(config: RunConfig, policy: Path, samples: int) -> dict[str, int]:
    stages = config.model_copy(update={"stages": (0, 2, 3)})
    found = evaluate(stages, policy, num_samples=samples, temperature=1.0)
    return {problem: sum(verdicts) for problem, verdicts in found.items()}


def _cpu_s(run_dir: Path) -> float | None:
    """CPU seconds of both stages; None where another process than the one that wrote result.json did a part."""
    seconds = read_result(run_dir).seconds_per_stage
    return round(sum(seconds.values()), 1) if seconds else None


def tables_of(lines: Sequence[dict[str, Any]]) -> str:
    """Pass@1 at T = 1 by round, what was collected, and the paired differences after the last round, in Markdown."""
    return "\n\n".join((_pass_table(lines), _collected_table(lines), _difference_table(lines)))


def _pass_table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| arm | round | seeds | T = 1 | steps | judged programs | critic: first difference |", "|---" * 7 + "|"]
    for arm, number, found in _groups(lines):
        judged = sum(each["collected"]["judged"] for each in found if each["collected"]) / len(found)
        first = [each["health"].get("critic/minimal_first_difference_drops") for each in found]
        seen = [each for each in first if each is not None]
        means = " ".join(f"{each['pass1_t1']:.3f}" for each in found)
        told = f"{statistics.fmean(seen):.3f}" if seen else "–"
        mean = statistics.fmean(each["pass1_t1"] for each in found)
        steps = found[0]["steps"]
        rows.append(f"| {arm} | {number} | {len(found)} | {mean:.3f} ({means}) | {steps} | {judged:.0f} | {told} |")
    return "\n".join(rows)


def _collected_table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| arm | round | correct answers | different programs a problem | rows of the file | collected rows |"]
    rows.append("|---" * 6 + "|")
    for arm, number, found in _groups([each for each in lines if each["collected"]]):
        one = [each["collected"] for each in found]
        correct = statistics.fmean(each["correct"] / each["judged"] for each in one)
        different = statistics.fmean(each["different_programs"] / each["problems"] for each in one)
        rows_of = [statistics.fmean(each["mixed"][key] for each in found) for key in ("from_file", "collected")]
        rows.append(f"| {arm} | {number} | {correct:.3f} | {different:.2f} | {rows_of[0]:.0f} | {rows_of[1]:.0f} |")
    return "\n".join(rows)


def _difference_table(lines: Sequence[dict[str, Any]]) -> str:
    last = max(each["round"] for each in lines)
    by_arm = {arm: {each["seed"]: each for each in found} for arm, number, found in _groups(lines) if number == last}
    rows = [f"| difference after round {last} | seeds | T = 1 |", "|---|---|---|"]
    pairs = (
        ("online", "rejection"),
        ("online", "none"),
        ("rejection", "none"),
        ("online_finish", "rejection"),
        ("online_finish", "none"),
    )
    for one, other in pairs:
        if seeds := sorted(by_arm.get(one, {}).keys() & by_arm.get(other, {}).keys()):
            differences_SP = np.array([_rates(by_arm[one][seed]) - _rates(by_arm[other][seed]) for seed in seeds])
            rows.append(f"| {one} minus {other} | {len(seeds)} | {_told(differences_SP)} |")
    return "\n".join(rows)


def _told(differences_SP: Float64) -> str:
    """Mean difference, with at each end the wider of the intervals over problems and over seeds."""
    mean_P = differences_SP.mean(axis=0)
    found = [difference_over_problems(mean_P), over_seeds(differences_SP.mean(axis=1).tolist())]
    low = min(each.low for each in found if each.low is not None)
    high = max(each.high for each in found if each.high is not None)
    return f"{mean_P.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _rates(line: dict[str, Any]) -> Float64:
    passed = line["passed_by_problem"]
    return np.array([passed[problem] / line["samples"] for problem in sorted(passed)])


def _groups(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """The lines of each arm and round, by seed."""
    for place in dict.fromkeys((each["arm"], each["round"]) for each in lines):
        found = [each for each in lines if (each["arm"], each["round"]) == place]
        yield *place, sorted(found, key=lambda each: each["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("--regime", type=int, default=16, help="one problem in R has correct rows (16)")
    verb.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS)
    verb.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    verb.add_argument("--rounds", type=int, default=3)
    verb.add_argument("--steps", type=int, default=80, help="of the policy in a round (80)")
    verb.add_argument("--critic-steps", type=int, default=CRITIC_STEPS, help=f"in a round ({CRITIC_STEPS})")
    verb.add_argument("--train-problems", type=int, default=600, help="that are answered in a round (600)")
    verb.add_argument("--answers", type=int, default=4, help="to each of them in a round (4)")
    verb.add_argument("--share", type=float, help="of collected rows; all rows of both unless given")
    verb.add_argument("--keep", default="all", help="all, last, or a number of rounds (all)")
    verb.add_argument("--samples", type=int, default=4, help="programs of a held-out problem at temperature 1 (4)")
    verb.add_argument("--problems", type=int, default=NUM_PROBLEMS, help=f"held-out problems ({NUM_PROBLEMS})")
    verb.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    verbs.add_parser("table").add_argument("files", type=Path, nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.verb == "table":
        print(tables_of([line for file in asked.files for line in lines_of(file)]))
    else:
        run(asked)


if __name__ == "__main__":
    main()
