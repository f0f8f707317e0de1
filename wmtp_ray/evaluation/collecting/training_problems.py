"""Problems to collect rows for, with all that the rows of the same data set say of a problem.

| problems | row's problem | instruction | input | source |
|---|---|---|---|---|
| list_tasks | list_17 | the prompt | | list_tasks |
| MBPP, train split | mbpp_601 | the text | the first test | mbpp |
| CodeContests | its name | the description | the first public tests | code_contests |
| others in words | task_id | the prompt | | the file's name, or as asked for |
| others that begin a function | task_id | "Complete this Python function ..", the head | | the same |

So rows of both origins group by problem, and their difficulties compare.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wmtp_ray.data.benchmarks import read_records
from wmtp_ray.data.codecontests import SOURCE as CODE_CONTESTS
from wmtp_ray.data.list_tasks.write import SOURCE as LIST_TASKS
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.problems import Problem, ProblemSet, read_problems
from wmtp_ray.evaluation.prompts import instruction_of

_HELD_OUT_FILE = re.compile(r"(valid|test|dev|eval)[_-].*problems")


@dataclass(frozen=True)
class TrainingProblem:
    """A problem, and the fields of its rows; `cf_rating` and `contest` are None where the data set has none."""

    problem: Problem
    name: str
    instruction: str
    input: str
    difficulty: int
    cf_rating: int | None
    contest: str | None


@dataclass(frozen=True)
class TrainingProblems:
    """The problems of a file, and those to collect rows for, `described`; both in the order of the file."""

    problems: ProblemSet
    described: tuple[TrainingProblem, ...]
    source: str

    def only(self, task_ids: Iterable[str], limit: int | None) -> "TrainingProblems":
        """Return the first `limit` of these problems (None: all) to collect rows for."""
        kept = frozenset(task_ids)
        described = tuple(each for each in self.described if each.problem.task_id in kept)[:limit]
        return replace(self, described=described)


def read_training_problems(path: Path, source: str | None = None) -> TrainingProblems:
    """Read a file of problems with tests; `source` names its data set where that is none of ours.

    Raises DataError for a file without problems to train on, and for one that is named as a held-out split.
    """
    if _HELD_OUT_FILE.match(path.name):
        raise DataError(
            f"{path}: found a file of problems that is named as a held-out split, expected training problems: results "
            "are measured on the others; give the train_problems.jsonl of the data set"
        )
    problems = read_problems(path, "train")
    facts = {str(record.get("task_id", record.get("name"))): record for _, record in read_records(path)}
    described = tuple(_described(problem, problems, facts) for problem in problems.problems)
    return TrainingProblems(problems, described, source or _source_of(problems))


def _described(problem: Problem, problems: ProblemSet, facts: dict[str, dict[str, Any]]) -> TrainingProblem:
    record = facts.get(problem.task_id, {})  # MBPP's records say none of it
    return TrainingProblem(
        problem=problem,
        name=problem.task_id.replace("Mbpp/", "mbpp_") if problems.kind == "mbpp" else problem.task_id,
        instruction=instruction_of(problem, problems),
        input=problem.shown,
        difficulty=int(record.get("difficulty") or 0),
        cf_rating=record.get("cf_rating") or None,
        contest=record.get("contest") or None,
    )


def _source_of(problems: ProblemSet) -> str:
    if problems.kind == "mbpp":
        return "mbpp"
    if problems.kind == "codecontests":
        return CODE_CONTESTS
    if all(re.fullmatch(r"list_\d+", problem.task_id) for problem in problems.problems):
        return LIST_TASKS
    return problems.path.name.partition(".")[0].removesuffix("_problems")
