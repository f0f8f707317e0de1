"""What a fault costs: each made in a run of its own, against one that was left alone.

    PYTHONPATH=. python bench/faults.py [--only WORDS]

The world and the faults are those of the tests (`tests/flows`): a nano model, steps of about 0.4 s. Seconds to recover
count from the fault to the first step that was not recorded before it: finding out (a deadline, where nothing dies),
starting again, doing steps again. Where a run ends they count from the start of `--resume`, and of Ray where the driver
was another process.
"""

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.value_critic import ValueCritic
from tests.flows.faults import (
    NanCritic,
    fill_the_disk_of_rank_0,
    kill_a_reader,
    kill_server,
    mlflow_server,
    replace_data,
    stop_at_step,
)
from tests.flows.world import (
    SlowCritic,
    command_line,
    configured,
    kill_at_step,
    kill_family,
    make_world,
    meanwhile,
    metrics_of,
    run,
    start_driver,
    wait_until,
)
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import WmtpError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.tracking.result import read_result

TWO_RANKS = ("train.num_workers=2", "deadlines.collective_s=20")


@dataclass(frozen=True)
class Fault:
    """A fault, and the run that it is made in; its policy must be that of the run with the same recipe and ranks."""

    name: str
    make: Callable[[Path], object]
    overrides: tuple[str, ...] = ()
    recipe: str = "verifiable"
    critic_class: type[ValueCritic] = SlowCritic


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    fault: str
    outcome: str
    seconds: float

    def __str__(self) -> str:
        return f"| {self.fault} | {self.outcome} | {self.seconds:.1f} |"


@dataclass
class Moment:
    """When a fault was made and what had been recorded then."""

    time_s: float = 0.0
    step: int = -1

    def take(self, run_dir: Path) -> None:
        """Now."""
        lines = metrics_of(run_dir)
        self.time_s, self.step = time.time(), lines[-1]["step"] if lines else -1

    def seconds_to_next_step(self, run_dir: Path) -> float:
        """From this moment to the first step that was not recorded at it."""
        return min(float(line["time"]) for line in metrics_of(run_dir) if line["step"] > self.step) - self.time_s


def survivable() -> list[Fault]:
    """Faults after which the run goes on by itself."""
    return [
        Fault("critic, SIGKILL", lambda run_dir: kill_at_step(run_dir, "critic_0", 4)),
        Fault(
            "critic, SIGSTOP (score_s=6)",
            lambda run_dir: stop_at_step(run_dir, "critic_0", 4),
            ("deadlines.score_s=6",),
        ),
        Fault("metrics actor, SIGKILL", lambda run_dir: kill_at_step(run_dir, "metrics", 4)),
        Fault("reader of Ray Data, SIGKILL", kill_a_reader, ("data.read_ahead_rows=1",)),
        Fault("the only rank, SIGKILL", lambda run_dir: kill_at_step(run_dir, "rank_0", 4)),
        Fault(
            "the only rank, SIGSTOP (step_s=25)",
            lambda run_dir: stop_at_step(run_dir, "rank_0", 4),
            ("deadlines.step_s=25",),
        ),
        Fault("rank 1 of 2, SIGKILL", lambda run_dir: kill_at_step(run_dir, "rank_1", 4), TWO_RANKS),
        Fault("rank 1 of 2, SIGSTOP (collective_s=20)", lambda run_dir: stop_at_step(run_dir, "rank_1", 4), TWO_RANKS),
        Fault("reference, SIGKILL", lambda run_dir: kill_at_step(run_dir, "reference_0", 2), recipe="rho1_weighted"),
    ]


class Bench:
    """Runs in one world; undisturbed policies are made once for each kind of run."""

    def __init__(self, world: Path) -> None:
        self._world = world
        self._policies: dict[tuple[str, bool], str | None] = {}

    def survived(self, fault: Fault) -> Row:
        """Make a fault in a run that goes on by itself."""
        config = self._configured(fault.name, fault.recipe, *fault.overrides)
        moment = Moment()
        with meanwhile(lambda: fault.make(config.run_dir), lambda: moment.take(config.run_dir)):
            result = run(config, fault.critic_class)
        outcome = self._verdict(fault.recipe, TWO_RANKS[0] in fault.overrides, result.policy_sha256)
        return Row(fault.name, outcome, moment.seconds_to_next_step(config.run_dir))

    def resumed(self, name: str, make: Callable[[RunConfig], object], mend: Callable[[RunConfig], object]) -> Row:
        """Make a fault that ends a run, mend what it did, resume."""
        data = shutil.copy(self._world / "datasets_local_small" / "list_tasks" / "train.jsonl", self._world / name)
        config = self._configured(name, "verifiable", f"data.train_file={data}")
        critic_class = NanCritic if name.startswith("a loss") else SlowCritic
        try:
            with meanwhile(lambda: make(config)):
                run(config, critic_class)
            failed = "did not fail"
        except WmtpError as error:
            failed = str(error).replace(str(self._world), "")[:70]
        mend(config)
        moment = Moment()
        moment.take(config.run_dir)
        result = run(config)
        verdict = self._verdict("verifiable", False, result.policy_sha256)
        return Row(name, f'exit 1, "{failed} ..."; resumed: {verdict}', moment.seconds_to_next_step(config.run_dir))

    def driver(self, name: str, hit: Callable[[Any], object]) -> Row:
        """Hit a driver of its own at step 4, then resume with another."""
        config = self._configured(name, "verifiable")
        words, run_dir = command_line(self._world, config.run_name), config.run_dir
        driver = start_driver(words)
        wait_until(lambda: len(metrics_of(run_dir)) > 4, "step 4")
        hit(driver)
        driver.communicate()
        moment = Moment()
        moment.take(run_dir)
        start_driver([*words, "--resume"]).communicate()
        verdict = self._verdict("verifiable", False, read_result(run_dir).policy_sha256)
        return Row(name, f"exit {driver.returncode}; resumed: {verdict}", moment.seconds_to_next_step(run_dir))

    def server(self, folder: Path) -> Row:
        """Kill an MLflow server under a run."""
        with mlflow_server(folder) as (uri, server):
            overrides = ("tracking.mlflow=true", f"tracking.mlflow_uri={uri}", "deadlines.tracking_s=20")
            return self.survived(
                Fault("MLflow server, SIGKILL", lambda run_dir: kill_server(run_dir, server), overrides)
            )

    def _configured(self, name: str, recipe: str, *overrides: str) -> RunConfig:
        run_name = "".join(letter if letter.isalnum() else "-" for letter in name)
        reference = (
            (f"reference.path={self._world / 'models_v2' / 'nano_reference'}",) if recipe != "verifiable" else ()
        )
        return configured(self._world, run_name, *reference, *overrides, recipe=recipe)

    def _verdict(self, recipe: str, two_ranks: bool, policy_sha256: str | None) -> str:
        if (recipe, two_ranks) not in self._policies:
            overrides = TWO_RANKS if two_ranks else ()
            left_alone = run(self._configured(f"left alone {recipe} {two_ranks}", recipe, *overrides))
            self._policies[recipe, two_ranks] = left_alone.policy_sha256
        return "the same policy" if self._policies[recipe, two_ranks] == policy_sha256 else "ANOTHER POLICY"


def tear_newest_checkpoint(config: RunConfig) -> None:
    """Cut a file of the newest checkpoint in two."""
    newest = max((config.run_dir / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    weights = newest / "optimizer.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)


def rows(world: Path) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Name every fault with the way to make it."""
    bench = Bench(world)
    originals = world / "datasets_local_small" / "list_tasks" / "train.jsonl"
    for fault in survivable():
        yield fault.name, lambda fault=fault: bench.survived(fault)
    yield "MLflow server, SIGKILL", lambda: bench.server(world)
    for name, make, mend in (
        ("a loss that is no number", lambda config: None, lambda config: None),
        ("full disk", lambda config: fill_the_disk_of_rank_0(config.run_dir), lambda config: None),
        (
            "full disk, then the newest checkpoint cut",
            lambda c: fill_the_disk_of_rank_0(c.run_dir),
            tear_newest_checkpoint,
        ),
        (
            "data file replaced",
            lambda config: replace_data(config.run_dir, config.data.train_file),
            lambda config: shutil.copy(originals, config.data.train_file),
        ),
    ):
        yield name, lambda name=name, make=make, mend=mend: bench.resumed(name, make, mend)
    yield "driver, SIGKILL", lambda: bench.driver("driver, SIGKILL", kill_family)
    yield "driver, SIGTERM", lambda: bench.driver("driver, SIGTERM", lambda each: each.send_signal(signal.SIGTERM))


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose names contain this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        with joined(configured(world, "cluster").cluster.num_cpus):
            print("| fault | outcome | seconds to recover |\n|---|---|---|", flush=True)
            for name, make_row in rows(world):
                if arguments.only in name:
                    print(make_row(), flush=True)


if __name__ == "__main__":
    main()
