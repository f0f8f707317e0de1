"""Which answers to a problem are correct, incorrect, or neither; which are the same program.

Two programs are the same where their syntax trees are: comments, blank lines, spacing, quotes and superfluous brackets
make no other program; names and docstrings do. Texts that are no Python are compared without comments and blank lines.
"""

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from wmtp_ray.data.kept_rows import LANGUAGES
from wmtp_ray.data.validation.normal_form import normal_program
from wmtp_ray.evaluation.judge.verdict import Status
from wmtp_ray.evaluation.judging import INFRASTRUCTURE
from wmtp_ray.evaluation.python_source import parse

Unusable = Literal["empty", "changed"]
Left = Unusable | Literal["error", "unserialisable", "contradicted", "duplicate"]
CORRECT: tuple[Status, ...] = ("pass",)
INCORRECT: tuple[Status, ...] = ("fail", "timeout", "memory")


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer's number, its whole program, its verdict, and why no row can hold it (None: one can)."""

    sample: int
    program: str
    status: Status
    unusable: Unusable | None = None


@dataclass(frozen=True)
class ClassifiedAnswers:
    """The different programs among some answers, by class, in the order of the answers; why the others are left out.

    empty           nothing was written
    changed         the policy's tokenizer would encode it as another text
    error           the judge failed, not the program
    unserialisable  no pass, and not proved wrong
    contradicted    the same program also has a verdict of the other class
    duplicate       an answer before it is the same program
    """

    correct: tuple[JudgedAnswer, ...]
    incorrect: tuple[JudgedAnswer, ...]
    left_out: Counter[Left]

    def has(self, number: int) -> bool:
        """Whether there are so many of each class."""
        return min(len(self.correct), len(self.incorrect)) >= number


def classify(answers: Sequence[JudgedAnswer]) -> ClassifiedAnswers:
    """Sort the answers to one problem."""
    classes: dict[str, set[bool]] = defaultdict(set)
    for each in answers:
        if _why_without_class(each) is None:
            classes[program_key(each.program)].add(each.status in CORRECT)
    kept: dict[bool, list[JudgedAnswer]] = {True: [], False: []}
    left_out: Counter[Left] = Counter()
    seen: set[str] = set()
    for each in answers:
        why = _why_without_class(each)
        key = program_key(each.program)
        if why is None and len(classes[key]) > 1:
            why = "contradicted"
        elif why is None and key in seen:
            why = "duplicate"
        if why is None:
            seen.add(key)
            kept[each.status in CORRECT].append(each)
        else:
            left_out[why] += 1
    return ClassifiedAnswers(tuple(kept[True]), tuple(kept[False]), left_out)


def _why_without_class(answer: JudgedAnswer) -> Left | None:
    if answer.unusable is not None:
        return answer.unusable
    if answer.status == INFRASTRUCTURE:
        return "error"
    return "unserialisable" if answer.status == "unserialisable" else None


@lru_cache(maxsize=1 << 17)
def program_key(program: str) -> str:
    """Return a hash that the same programs share."""
    return hashlib.sha256(_normal_form(program).encode("utf-8", "surrogatepass")).hexdigest()


def _normal_form(program: str) -> str:
    tree = parse(program)
    try:
        return normal_program(program, LANGUAGES["python3"]) if tree is None else ast.dump(tree)
    except (RecursionError, ValueError):  # thousands of brackets deep; an integer of thousands of digits
        return normal_program(program, LANGUAGES["python3"])
