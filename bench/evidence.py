"""Where weighting wins: the same nano model trained by every arm in regimes of few correct programs.

    python bench/evidence.py ceiling --regime 8 16 --seeds 0 1 2 --out ceiling.jsonl
    python bench/evidence.py critics --regime 16 --seeds 0 1 --out critics.jsonl
    python bench/evidence.py arms --regime 16 --seeds 0 1 2 3 4 --out arms.jsonl
    python bench/evidence.py table arms.jsonl

In regime R one problem in R has correct rows, all have incorrect ones (`ListTasks.correct_problems_frac`); --held-out N
leaves N operations without any correct row. For each seed a base is trained on the regime's correct rows; every arm
takes the same number of steps from there. One JSON line an arm and seed is appended to --out as soon as it is known,
and what is there already is not done again; what arms share (data, base, critic) lies in FILE.work and is reused. No
Ray: `evidence_runs.py`. An arm costs about a CPU-minute.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import torch
from evidence_arms import ALL_ARMS, ARMS, CEILING, CONTRASTED, CRITIC_STEPS, CRITICS, PERFECT, Critic
from evidence_runs import Trained, evaluate, train
from evidence_tables import tables_of

from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.rows_tokenizer import train_on_rows
from wmtp_ray.config import arms
from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.list_tasks import DEFAULT_TASKS, ListTasks, write_list_tasks
from wmtp_ray.flows.quickstart import BASE_STEPS, CRITIC_RATE, FROM_BASE, HORIZON_COEFS, NANO, PRESETS, VOCAB_SIZE
from wmtp_ray.model_folder import ModelFolder

NOW = datetime(2026, 1, 1)
ARM_STEPS, NUM_PROBLEMS = 200, DEFAULT_TASKS.num_valid_problems
PLAIN, WITH_CRITIC = str(arms.BASELINE.recipe), str(arms.METHOD.recipe)


HEALTH = {
    "auc_end": "auc_100",
    "pair_accuracy": "pair_accuracy",
    "min_v_pair_accuracy": "minimal_pair_accuracy_min",
    "first_difference": "minimal_first_difference_drops",
    "drop_at_edit_auc": "minimal_drop_at_edit_auc",
    "top1_in_edit": "minimal_largest_drop_in_edit",
    "explained_variance": "explained_variance",
}


@dataclass(frozen=True)
class ArmResult:
    """One line of an experiment. Verdicts by problem: 0 or 1 greedy, how many of `samples` at temperature 1.

    `cpu_s` is that of the training; None where a process before this one did it and was killed.
    """

    experiment: str
    arm: str
    regime: int
    held_out: int
    seed: int
    horizons: int
    base_steps: int
    steps: int
    greedy: float
    pass1_t1: float
    samples: int
    cpu_s: float | None
    greedy_by_problem: dict[str, int]
    passed_by_problem: dict[str, int]


@dataclass(frozen=True)
class CriticResult:
    """One line of the ladder of critics."""

    experiment: str
    arm: str
    regime: int
    held_out: int
    seed: int
    horizons: int
    steps: int
    cpu_s: float | None
    health: dict[str, float]
    gate_failures: list[str]


@dataclass(frozen=True)
class World:
    """A regime and a seed: its data, its base and its critics, made once and kept under `root`.

    `samples` programs at temperature 1 are drawn for the first `problems` held-out problems.
    """

    root: Path
    regime: int
    held_out: int
    seed: int
    horizons: int
    steps: int
    samples: int
    problems: int

    @property
    def tasks(self) -> ListTasks:
        return replace(DEFAULT_TASKS, correct_problems_frac=1 / self.regime, held_out_operations=self.held_out)

    @property
    def storage(self) -> Path:
        held_out = f"-without{self.held_out}" if self.held_out else ""
        return self.root / f"regime{self.regime}{held_out}-h{self.horizons}"

    def config(self, name: str, recipe: str, *words: str) -> RunConfig:
        """A run of this seed, with what all of them share."""
        seeds = (f"{key}={self.seed}" for key in ("seed", "train.sampling.seed", "critic_stage.sampling.seed"))
        shared = (
            f"storage_root={self.storage}",
            f"loss.horizon_coefs={list(HORIZON_COEFS[: self.horizons])}",
            CRITIC_RATE,
            "critic_stage.eval_every=0",
            f"evaluation.draft_horizons={self.horizons - 1}",
            f"evaluation.limit={self.problems}",
            "evaluation.batch_size=64",
            "train.sampling.curriculum_learning=false",
            "train.epochs=1000",
            "train.checkpoint_every=100000",
            "critic_stage.epochs=1000",
            f"critic_stage.max_steps={CRITIC_STEPS}",
            "critic.drift_every=0",
        )
        run_name = f"{name}-s{self.seed}"
        arguments = Arguments(recipe, PRESETS, run_name, overrides=(*shared, *seeds, *words))
        return load_config(arguments, now=NOW)

    def base(self) -> Trained:
        """The policy that every arm starts from: ordinary training on the regime's correct rows."""
        self._write_inputs()
        return train(self.config("base", PLAIN, "stages=[0,2,3]", f"train.max_steps={BASE_STEPS}"), 2)

    def critic(self, name: str) -> Trained:
        """One of the critics."""
        kind = CRITICS[name]
        return train(self.config(f"critic-{name}", WITH_CRITIC, f"model.path={self._trunk(kind)}", *kind.words), 1)

    def arm(self, name: str) -> tuple[RunConfig, Trained]:
        """An arm, trained from the base."""
        arm = ARMS[name]
        words = [f"model.path={self.base().directory}", f"train.max_steps={self.steps}", FROM_BASE, *arm.words]
        if arm.source == "critic":
            words.append(f"critic.path={self.critic(arm.critic).directory}")
            words += CRITICS[arm.critic].model_words
        if arm.source == "reference":
            words.append(f"reference.path={self.arm('correct')[1].directory}")
        if name in CONTRASTED:
            words.append(f"reference.incorrect_path={self.arm('incorrect')[1].directory}")
        if name in PERFECT:  # told of every problem, also where no row of it is trained on
            words.append(f"weighting.compared_file={self._every_program()}")
        config = self.config(f"{name}-{self.steps}", PLAIN, *words, "stages=[0,2,3]")
        return config, train(config, 2)

    def _trunk(self, kind: Critic) -> Path:
        """The model that a critic starts from."""
        base = self.base().directory
        if kind.trunk == "mixed":
            return self.arm("mixed")[1].directory
        return self._random_model if kind.trunk == "random" else base

    @property
    def _random_model(self) -> Path:
        return self.storage / "models_v2" / "nano_mtp"

    def _every_program(self) -> Path:
        """The rows of every problem, correct ones included: what a critic that knows every bug knows."""
        folder = self.storage / "datasets_local_small" / "every_program"
        if not (folder / "train.jsonl").exists():
            write_list_tasks(folder, DEFAULT_TASKS)
        return folder / "train.jsonl"

    def _write_inputs(self) -> None:
        model = self._random_model
        if ModelFolder(model).tokenizer.model.exists():
            return
        data = self.storage / "datasets_local_small" / "list_tasks"
        files = write_list_tasks(data, self.tasks)
        shape = replace(NANO, n_layers=NANO.num_trunk_blocks + self.horizons, n_future_tokens=self.horizons)
        make_micro_model(model, shape, seed=0)  # one random start: what a seed gives does not depend on those before
        train_on_rows(files.train, ModelFolder(model).tokenizer.model, VOCAB_SIZE)


def measured_arm(world: World, experiment: str, name: str) -> ArmResult:
    """Train an arm, then let it write programs for the held-out problems."""
    config, trained = world.arm(name)
    greedy = evaluate(config, trained.directory, num_samples=1, temperature=0.0)
    drawn = evaluate(config, trained.directory, num_samples=world.samples, temperature=1.0)
    return ArmResult(
        experiment,
        name,
        world.regime,
        world.held_out,
        world.seed,
        world.horizons,
        BASE_STEPS,
        trained.steps,
        greedy=statistics.fmean(each[0] for each in greedy.values()),
        pass1_t1=statistics.fmean(statistics.fmean(each) for each in drawn.values()),
        samples=world.samples,
        cpu_s=_rounded(trained.cpu_s),
        greedy_by_problem={problem: int(each[0]) for problem, each in greedy.items()},
        passed_by_problem={problem: sum(each) for problem, each in drawn.items()},
    )


def measured_critic(world: World, experiment: str, name: str) -> CriticResult:
    """Train a critic and measure it on held-out problems."""
    trained = world.critic(name)
    assert trained.health is not None, "stage 1 measures the critic"
    metrics = trained.health.metrics
    health = {
        key: round(metrics[f"critic/{metric}"], 4) for key, metric in HEALTH.items() if f"critic/{metric}" in metrics
    }
    return CriticResult(
        experiment,
        name,
        world.regime,
        world.held_out,
        world.seed,
        world.horizons,
        trained.steps,
        _rounded(trained.cpu_s),
        health,
        trained.health.failures,
    )


def _rounded(cpu_s: float | None) -> float | None:
    return None if cpu_s is None else round(cpu_s, 1)


def worlds(asked: argparse.Namespace) -> Iterator[World]:
    """Every regime and seed that is asked for, seed by seed."""
    work = asked.out.with_name(f"{asked.out.name}.work").absolute()
    for seed in asked.seeds:
        for regime in asked.regime:
            sizes = asked.horizons, asked.steps, asked.samples, asked.problems
            yield World(work, regime, asked.held_out, seed, *sizes)


def run(asked: argparse.Namespace) -> None:
    """Append a line for everything that is asked for and not there yet."""
    measure: Callable[[World, str, str], ArmResult | CriticResult] = measured_arm
    names: Sequence[str] = asked.arms or (CEILING if asked.experiment == "ceiling" else ALL_ARMS)
    if asked.experiment == "critics":
        measure, names = measured_critic, asked.arms or tuple(CRITICS)
    known = CRITICS if asked.experiment == "critics" else ARMS
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no such arm: {', '.join(unknown)}; expected one of {', '.join(known)}")
    done = {place_of(line) for line in lines_of(asked.out)}
    for world in worlds(asked):
        for name in names:
            if planned_place(world, asked.experiment, name) in done:
                continue
            result = measure(world, asked.experiment, name)
            with asked.out.open("ab") as file:
                file.write(orjson.dumps(asdict(result)) + b"\n")
            print(summary_of(result), flush=True)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines that a file of results holds."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def place_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a line is the result of."""
    keys = ["experiment", "arm", "regime", "held_out", "seed", "horizons"]
    if line["experiment"] == "critics":
        return tuple(line[key] for key in keys)
    return (*(line[key] for key in [*keys, "steps", "samples"]), len(line["greedy_by_problem"]))


def planned_place(world: World, experiment: str, name: str) -> tuple[Any, ...]:
    """The `place_of` the line that is about to be measured."""
    place = (experiment, name, world.regime, world.held_out, world.seed, world.horizons)
    return place if experiment == "critics" else (*place, world.steps, world.samples, world.problems)


def summary_of(result: ArmResult | CriticResult) -> str:
    """One line for the console."""
    head = f"regime {result.regime} seed {result.seed} {result.arm:24} "
    numbers = {"greedy": result.greedy, "T = 1": result.pass1_t1} if isinstance(result, ArmResult) else result.health
    cost = "" if result.cpu_s is None else f"  {result.cpu_s:.0f} CPU-s"
    return head + "  ".join(f"{name} {number:.3f}" for name, number in numbers.items()) + cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="experiment", required=True)
    for name in ("ceiling", "critics", "arms"):
        verb = verbs.add_parser(name)
        verb.add_argument("--regime", type=int, nargs="+", default=[16], help="one problem in R has correct rows (16)")
        verb.add_argument("--arms", nargs="+", help="of the experiment; all of them unless given")
        verb.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        verb.add_argument("--steps", type=int, default=ARM_STEPS, help=f"of every arm ({ARM_STEPS})")
        verb.add_argument("--horizons", type=int, default=4, choices=range(1, 5))
        verb.add_argument("--held-out", type=int, default=0, help="operations without any correct row (0)")
        verb.add_argument("--samples", type=int, default=4, help="programs of a problem at temperature 1 (4)")
        verb.add_argument("--problems", type=int, default=NUM_PROBLEMS, help=f"held-out problems ({NUM_PROBLEMS})")
        verb.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    verbs.add_parser("table").add_argument("files", type=Path, nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.experiment == "table":
        print(tables_of([line for file in asked.files for line in lines_of(file)]))
    else:
        run(asked)


if __name__ == "__main__":
    main()
