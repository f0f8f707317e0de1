"""Write the generated benchmark: rows for training, problems with tests for evaluation, and a manifest.

The same configuration gives the same bytes, whatever PYTHONHASHSEED. The problems' files are HumanEval-shaped, with
one difference: `prompt` is an instruction in words and the answer a whole program, not a continuation of the prompt.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from wmtp_ray.data.dataset_manifest import FILE_NAME as MANIFEST_FILE
from wmtp_ray.data.list_tasks.labelled_programs import Program, correct_programs, incorrect_programs, mistaken_step
from wmtp_ray.data.list_tasks.list_problems import (
    SYSTEMATIC_BUGS,
    Inputs,
    Problem,
    draw_compositions,
    draw_inputs,
    hold_out,
    word_prompt,
)
from wmtp_ray.data.list_tasks.operations import OPERATIONS, Composition
from wmtp_ray.data.list_tasks.programs import ENTRY_POINT, STYLES
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ConfigError
from wmtp_ray.saved_records import write_record

SOURCE = "list_tasks"
PYTHON_3 = 3  # the row schema's language code
MAX_INCORRECT = 24

Record = dict[str, Any]  # a JSON object


@dataclass(frozen=True)
class ListTasks:
    """What to generate.

    `num_correct` (1..6) and `num_incorrect` (0..24) are rows per problem. `systematic_frac` (0..1) is the probability
    that an incorrect row of a problem which invites a systematic bug has one; the other incorrect rows are diffuse. It
    moves the share of programs in which an operation is wrong: keep that away from one half (the manifest says what it
    became), where the likeliest program of a model trained on all rows is a coin toss.

    `correct_problems_frac` (0..1) is the share of train problems that have correct rows. The others lose theirs and
    nothing else changes: rows, order, problems' files and the valid split are those of 1.0, and the problems of a
    smaller share are among those of a larger one.

    `held_out_operations` (0..14) operations, drawn by seed, are in no correct row: problems that ask for them are not
    among those with correct rows. What a model learns of such an operation, it learns from incorrect programs.
    """

    seed: int
    num_train_problems: int
    num_valid_problems: int
    num_correct: int
    num_incorrect: int
    systematic_frac: float
    correct_problems_frac: float = 1.0
    held_out_operations: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "num_train_problems": (1, float("inf")),
            "num_valid_problems": (0, float("inf")),
            "num_correct": (1, len(STYLES)),
            "num_incorrect": (0, MAX_INCORRECT),
            "systematic_frac": (0, 1),
            "correct_problems_frac": (0, 1),
            "held_out_operations": (0, len(OPERATIONS) - 1),
        }
        for name, (low, high) in limits.items():
            found = getattr(self, name)
            if not low <= found <= high:
                raise ConfigError(f"list tasks: {name} is {found}, expected {low} to {high}: choose one in that range")
        if self.correct_problems_frac == 0 and self.num_incorrect == 0:
            raise ConfigError(
                "list tasks: correct_problems_frac and num_incorrect are 0: that leaves no row to train on; raise one"
            )

    @property
    def operations_without_correct_rows(self) -> tuple[str, ...]:
        """The words of the operations that are held out; those of a smaller number are among those of a larger one."""
        order = Random(f"{self.seed}/held-out operations").sample(OPERATIONS, len(OPERATIONS))
        return tuple(operation.words for operation in order[: self.held_out_operations])


DEFAULT_TASKS = ListTasks(
    seed=0, num_train_problems=2400, num_valid_problems=300, num_correct=3, num_incorrect=3, systematic_frac=0.7
)


@dataclass(frozen=True)
class ListTasksFiles:
    """The files written: rows of both splits, their problems with tests, and the manifest."""

    train: Path
    valid: Path
    train_problems: Path
    valid_problems: Path
    manifest: Path


@dataclass(frozen=True)
class ListTasksManifest:
    """The content of manifest.json: what was asked for, counts of each split, each file's SHA-256, what is held out."""

    config: ListTasks
    splits: dict[str, dict[str, Any]]
    sha256: dict[str, str]
    operations_without_correct_rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnsweredProblem:
    """A problem with its correct programs, then its incorrect ones; `has_correct_rows` False: the first are no rows."""

    problem: Problem
    correct: tuple[Program, ...]
    incorrect: tuple[Program, ...]
    has_correct_rows: bool = True

    @property
    def rows(self) -> tuple[Program, ...]:
        return (*self.correct, *self.incorrect) if self.has_correct_rows else self.incorrect


def write_list_tasks(directory: Path, config: ListTasks) -> ListTasksFiles:
    """Generate the benchmark into `directory` (created if absent; the five files are overwritten).

    Raises ConfigError when more different problems are asked for than exist, or too few train problems to contain
    every operation of the held-out ones.
    """
    rng = Random(config.seed)
    inputs = draw_inputs(rng)
    compositions = draw_compositions(rng, config.num_train_problems + config.num_valid_problems, inputs)
    train_compositions, valid_compositions = hold_out(compositions, config.num_valid_problems)
    train = without_correct_rows(answer_all(train_compositions, 0, inputs, config), config)
    valid = answer_all(valid_compositions, len(train), inputs, config)

    directory.mkdir(parents=True, exist_ok=True)
    files = ListTasksFiles(
        train=write_jsonl(directory / "train.jsonl", shuffled_rows(rng, train)),
        valid=write_jsonl(directory / "valid.jsonl", shuffled_rows(rng, valid)),
        train_problems=write_jsonl(
            directory / "train_problems.jsonl", [problem_record(each, inputs) for each in train]
        ),
        valid_problems=write_jsonl(
            directory / "valid_problems.jsonl", [problem_record(each, inputs) for each in valid]
        ),
        manifest=directory / MANIFEST_FILE,
    )
    written = (files.train, files.valid, files.train_problems, files.valid_problems)
    manifest = ListTasksManifest(
        config=config,
        splits={"train": split_counts(train), "valid": split_counts(valid)},
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written},
        operations_without_correct_rows=config.operations_without_correct_rows,
    )
    write_record(files.manifest, manifest)
    return files


def answer_all(
    compositions: Sequence[Composition], first_number: int, inputs: Inputs, config: ListTasks
) -> list[AnsweredProblem]:
    """Word and answer the compositions, numbered from `first_number`."""
    return [answer(n, composition, inputs, config) for n, composition in enumerate(compositions, first_number)]


def answer(number: int, composition: Composition, inputs: Inputs, config: ListTasks) -> AnsweredProblem:
    """Word one problem and write its programs, from a random stream of its own."""
    rng = Random(f"{config.seed}/{number}")
    expected = tuple(composition.apply(values) for values in inputs)
    problem = Problem(number, composition, word_prompt(rng, composition), expected)
    correct = correct_programs(rng, problem, inputs, config.num_correct)
    incorrect = incorrect_programs(rng, problem, inputs, list(correct), config.num_incorrect, config.systematic_frac)
    return AnsweredProblem(problem, tuple(correct.values()), tuple(incorrect))


def without_correct_rows(answered: Sequence[AnsweredProblem], config: ListTasks) -> list[AnsweredProblem]:
    """Leave correct rows to `correct_problems_frac` of the problems (at least one, unless it is 0), drawn by seed.

    The draw has a random stream of its own, and each share takes the first of one order. Problems that ask for a
    held-out operation are passed over; ConfigError when nothing else is left.
    """
    order = Random(f"{config.seed}/has correct rows").sample(range(len(answered)), len(answered))
    num_kept = round(config.correct_problems_frac * len(answered))
    held_out = set(config.operations_without_correct_rows)
    eligible = [n for n in order if not held_out & answered[n].problem.composition.operation_words]
    kept = set(eligible[: max(num_kept, 1 if config.correct_problems_frac else 0)])
    if not kept and config.correct_problems_frac:
        raise ConfigError(
            f"list tasks: held_out_operations is {config.held_out_operations}, and every one of the {len(answered)} "
            "train problems asks for one of these: hold out fewer, or raise num_train_problems"
        )
    return [replace(each, has_correct_rows=n in kept) for n, each in enumerate(answered)]


def shuffled_rows(rng: Random, answered: Sequence[AnsweredProblem]) -> list[Record]:
    """All rows of a split in random order, which does not depend on who has correct rows."""
    rows = [
        (each.has_correct_rows or program.bug is not None, row_record(each.problem, program, i))
        for each in answered
        for programs in (each.correct, each.incorrect)
        for i, program in enumerate(programs)
    ]
    rng.shuffle(rows)
    return [row for is_kept, row in rows if is_kept]


def row_record(problem: Problem, program: Program, i: int) -> Record:
    """One row of the row schema; `metadata.bug` is there on incorrect rows only."""
    metadata = {
        "source": SOURCE,
        "difficulty": problem.composition.difficulty,
        "has_tests": True,
        "language": PYTHON_3,
    }
    if program.bug:
        metadata["bug"] = program.bug
    return {
        "instruction": problem.prompt,
        "input": "",
        "output": program.source,
        "task_id": f"list_{problem.number}_{'incorrect' if program.bug else 'correct'}_{i}",
        "is_correct": program.bug is None,
        "metadata": metadata,
    }


def problem_record(answered: AnsweredProblem, inputs: Inputs) -> Record:
    """One problem with its tests: the source of a `check(candidate)` over all inputs."""
    problem = answered.problem
    asserts = [
        f"    assert candidate({list(values)!r}) == {expected!r}"
        for values, expected in zip(inputs, problem.expected, strict=True)
    ]
    return {
        "task_id": f"list_{problem.number}",
        "prompt": problem.prompt,
        "entry_point": ENTRY_POINT,
        "canonical_solution": answered.correct[0].source,
        "test": "\n".join(["def check(candidate):", *asserts]) + "\n",
        "difficulty": problem.composition.difficulty,
    }


def split_counts(answered: Sequence[AnsweredProblem]) -> Record:
    """Count problems, rows and bugs of a split for the manifest."""
    difficulties = Counter(each.problem.composition.difficulty for each in answered)
    bugs = Counter(program.bug for each in answered for program in each.incorrect)
    num_correct = sum(len(each.correct) for each in answered if each.has_correct_rows)
    return {
        "problems": len(answered),
        "problems_with_correct_rows": sum(each.has_correct_rows for each in answered),
        "rows": num_correct + bugs.total(),
        "correct_rows": num_correct,
        "incorrect_rows": bugs.total(),
        "systematic_rows": bugs["systematic"],
        "diffuse_rows": bugs["diffuse"],
        "problems_by_difficulty": {str(difficulty): difficulties[difficulty] for difficulty in sorted(difficulties)},
        "systematic_bug_share": systematic_bug_shares(answered),
    }


def systematic_bug_shares(answered: Sequence[AnsweredProblem]) -> dict[str, float]:
    """Of all programs that were asked for an operation, the fraction in which it has its systematic bug."""
    asked: Counter[str] = Counter()
    mistaken: Counter[str] = Counter()
    for each in answered:
        steps = each.problem.composition.steps
        for step in steps:
            asked[step.operation.words] += len(each.rows)
        for program in each.incorrect:
            if program.bug == "systematic":
                mistaken[steps[mistaken_step(each.problem, program)].operation.words] += 1
    return {words: round(mistaken[words] / asked[words], 4) for words in SYSTEMATIC_BUGS if asked[words]}


def write_jsonl(path: Path, records: Sequence[Record]) -> Path:
    """Write one record a line and return the path."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    atomic_write(path, "".join(lines).encode())
    return path
