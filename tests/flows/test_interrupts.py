"""Ctrl-C at fifty random moments, from a command's first line on: exit code 130, no traceback, nothing left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.flows.world import command_line, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="sees by /proc when the handler is there"),
]

SEED = 11
NUM_MOMENTS = 50
AT_ONCE = 2  # commands at a time
LAUNCH_S = 14.0  # the ranks train by then, where two cores are free
BRIEF_S = 1.0
END_S = 60.0  # for a run that is up and checkpoints first
GONE_S = 10.0
MARK = "WMTP_TEST_MOMENT"  # in the environment of everything that a command has started


@dataclass(frozen=True)
class Moment:
    """A command, and how long after its handler is there the signal comes."""

    number: int
    words: list[str]
    delay_s: float
    end_codes: tuple[int, ...]  # that it may end with when the signal comes as it leaves

    def __str__(self) -> str:
        return f"{self.number}: {self.words[0]} at {self.delay_s:.2f} s"


def moments(world: Path) -> list[Moment]:
    """Return the moments: two in three of a launch, the others of every other verb in turn."""
    draw = random.Random(SEED)
    others = other_commands(world)
    found = []
    for number in range(NUM_MOMENTS):
        if number % 3:
            words, most_s = ["launch", *command_line(world, f"interrupted-{number}")], LAUNCH_S
        else:
            words, most_s = others[number // 3 % len(others)]
        end_codes = (0, 2) if most_s == BRIEF_S else ()
        found.append(Moment(number, words, draw.uniform(0.0, most_s), end_codes))
    return found


def other_commands(world: Path) -> list[tuple[list[str], float]]:
    """Return commands, each with the latest moment to interrupt it at; a brief one may be over by then."""
    rows, model = world / "datasets_local_small" / "list_tasks", world / "models_v2" / "nano_mtp"
    shared = ["preset=quickstart", f"storage_root={world}", "tracking.progress=false"]
    index = ["--tokenizer", str(model / "tokenizer.model"), "--out", str(world / "interrupted.parquet")]
    problems = str(rows / "valid_problems.jsonl")
    return [
        (["evaluate", "--checkpoint", str(model), "--dataset", problems, *shared], LAUNCH_S),
        (sweep_of(world, "interrupted-sweep"), LAUNCH_S),
        (["quickstart", "--storage", str(world / "interrupted-quickstart")], LAUNCH_S),
        (["data", "index", str(rows / "valid.jsonl"), *index], BRIEF_S),
        (["data", "validate", str(rows / "train.jsonl")], BRIEF_S),
        (["doctor", *command_line(world, "interrupted-doctor")], BRIEF_S),
        (["report", str(world / "runs" / "absent"), "--out", str(world / "interrupted.html")], BRIEF_S),
        (["export", str(model), "--format", "hf", "--out", str(world / "interrupted-hf")], BRIEF_S),
        ([*sweep_of(world, "interrupted-plan"), "--dry-run"], BRIEF_S),
    ]


def sweep_of(world: Path, name: str) -> list[str]:
    words = command_line(world, name, "sweep=beta_clip_value")
    return ["sweep", *(word for word in words if not word.startswith("weighting.beta="))]


def hears(process: "subprocess.Popen[str]") -> bool:
    """Whether a handler for SIGTERM is installed, which Python does not do by itself."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


def left_of(session: int, mark: str) -> list[str]:
    """Return what still runs of a command: by its session, or by its mark, which Ray's agents write over."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            is_part = os.getsid(process.pid) == session or process.environ().get(MARK) == mark
            if is_part and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
    return found


def interrupted(moment: Moment) -> list[str]:
    """Interrupt a command at its moment; return what is wrong with how it ended."""
    mark = uuid4().hex
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {MARK: mark}
    process = subprocess.Popen(
        [sys.executable, "-m", "wmtp_ray", *moment.words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_until(lambda: hears(process) or process.poll() is not None, "the handler")
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment.delay_s)
    process.send_signal(signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return [f"did not end in {END_S} s: {process.communicate()[0][-2000:]}"]
    problems = []
    if process.returncode not in (130, *moment.end_codes) or "Traceback" in output:
        problems.append(f"exit code {process.returncode}: {output[-2000:]}")
    give_up = time.monotonic() + GONE_S
    while (left := left_of(process.pid, mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return problems + [f"left running: {each}" for each in left]


def test_fifty_interrupts_end_with_130_and_leave_nothing(world: Path) -> None:
    every = moments(world)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(interrupted, every))
    wrong = [f"{moment}: {problems}" for moment, problems in zip(every, found, strict=True) if problems]
    assert not wrong, "\n".join([f"seed {SEED}", *wrong])
    claimed = [path for path in (world / "runs").glob("interrupted-*") if (path / "config.yaml").exists()]
    assert all((path / "metrics.jsonl").exists() or (path / "checkpoints").exists() for path in claimed), claimed
    assert not list(world.glob(".interrupted*")), "temporary files"
