"""The language of the generated benchmark: list operations, reducers and their reference semantics.

A *step* is an operation with its constant; a *composition* is one to three steps and an optional reducer, applied
left to right to a list of small integers. This module does not render whole programs (programs.py) and does not choose
problems (list_problems.py). The reference semantics are plain functions, written apart from the rendered source, so
running a program against them proves something.

Difficulty is the sum of the costs of the parts; a composition that costs more than 11 is not used. Example: "keep
below 0, reverse, min" costs 4 + 1 + 2 = 7.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = list[int] | int

MAX_STEPS = 3
DIFFICULTIES = range(1, 12)
ABSENT_CONSTANT = 0


@dataclass(frozen=True)
class Operation:
    """One list operation.

    `words` and `source` contain `{c}` where the constant goes. `source` is an expression of `x` for kind "map", a
    condition on `x` for "filter", an expression of the whole list `{a}` for "list". `constants` is the single
    ABSENT_CONSTANT where none is used.
    """

    words: str
    kind: Literal["map", "filter", "list"]
    cost: int
    source: str
    apply: Callable[[list[int], int], list[int]]
    constants: tuple[int, ...] = (ABSENT_CONSTANT,)


@dataclass(frozen=True)
class Reducer:
    """What turns the final list into one number; of an empty list all give 0."""

    words: str
    cost: int
    source: str
    apply: Callable[[list[int]], int]


@dataclass(frozen=True)
class Step:
    """An operation with its constant chosen."""

    operation: Operation
    constant: int

    @property
    def words(self) -> str:
        return self.operation.words.format(c=self.constant)


@dataclass(frozen=True)
class Composition:
    """What a problem asks for: steps from left to right, then the reducer."""

    steps: tuple[Step, ...]
    reducer: Reducer | None

    @property
    def difficulty(self) -> int:
        return sum(step.operation.cost for step in self.steps) + (self.reducer.cost if self.reducer else 0)

    @property
    def operation_words(self) -> frozenset[str]:
        """The words of its operations, constants left open."""
        return frozenset(step.operation.words for step in self.steps)

    @property
    def part_words(self) -> tuple[str, ...]:
        """The words of every part, constants left open: what must have been seen to solve it."""
        reducer_words = (self.reducer.words,) if self.reducer else ()
        return tuple(step.operation.words for step in self.steps) + reducer_words

    def apply(self, values: Sequence[int]) -> Value:
        """Run the reference semantics; the argument is left alone."""
        result = list(values)
        for step in self.steps:
            result = step.operation.apply(result, step.constant)
        return self.reducer.apply(result) if self.reducer else result


SMALL = (1, 2, 3)
BOUNDS = (0, 1, 2)
LENGTHS = (1, 2, 3)

OPERATIONS = (
    Operation("add {c}", "map", 1, "x + {c}", lambda values, c: [x + c for x in values], SMALL),
    Operation("minus {c}", "map", 1, "x - {c}", lambda values, c: [x - c for x in values], SMALL),
    Operation("times {c}", "map", 1, "x * {c}", lambda values, c: [c * x for x in values], (2, 3)),
    Operation("modulo {c}", "map", 3, "x % {c}", lambda values, c: [x - x // c * c for x in values], (3, 4, 5)),
    Operation("square", "map", 2, "x * x", lambda values, _: [x**2 for x in values]),
    Operation("negate", "map", 1, "-x", lambda values, _: [0 - x for x in values]),
    Operation("keep even", "filter", 4, "x % 2 == 0", lambda values, _: [x for x in values if not x & 1]),
    Operation("keep odd", "filter", 4, "x % 2 == 1", lambda values, _: [x for x in values if x & 1]),
    Operation("keep below {c}", "filter", 4, "x < {c}", lambda values, c: [x for x in values if c > x], BOUNDS),
    Operation("keep above {c}", "filter", 4, "x > {c}", lambda values, c: [x for x in values if c < x], BOUNDS),
    Operation("reverse", "list", 1, "{a}[::-1]", lambda values, _: list(reversed(values))),
    Operation("sort", "list", 1, "sorted({a})", lambda values, _: sorted(values)),
    Operation("sort down", "list", 2, "sorted({a})[::-1]", lambda values, _: sorted(values, reverse=True)),
    Operation("first {c}", "list", 2, "{a}[:{c}]", lambda values, c: values[:c], LENGTHS),
    Operation("drop {c}", "list", 2, "{a}[{c}:]", lambda values, c: values[c:], LENGTHS),
)

REDUCERS = (
    Reducer("sum", 1, "sum({a})", sum),
    Reducer("count", 1, "len({a})", len),
    Reducer("max", 2, "max({a}, default=0)", lambda values: sorted(values)[-1] if values else 0),
    Reducer("min", 2, "min({a}, default=0)", lambda values: sorted(values)[0] if values else 0),
)

OPERATION_OF_WORDS = {operation.words: operation for operation in OPERATIONS}
