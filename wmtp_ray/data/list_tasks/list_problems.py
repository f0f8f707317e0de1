"""Which compositions become problems, how they are worded, and which bugs are put into them.

Two kinds of bugs, both replacing the composition by another one:

- *systematic*: an operation of `SYSTEMATIC_BUGS` is always mistaken for the same other one (`sort down` forgets the
  "down"), so a critic that sees many programs can learn to expect it;
- *diffuse*: one random change (a constant, an operation, the order of two steps, the reducer), never one of the
  systematic ones, which a critic can only find by understanding the program.

Does not look at program text; that a bug is sound and shows is for the caller to check.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random

from wmtp_ray.data.list_tasks.operations import (
    DIFFICULTIES,
    MAX_STEPS,
    OPERATION_OF_WORDS,
    OPERATIONS,
    REDUCERS,
    Composition,
    Operation,
    Reducer,
    Step,
    Value,
)
from wmtp_ray.errors import ConfigError

Inputs = Sequence[Sequence[int]]
Skeleton = tuple[tuple[Operation, ...], Reducer | None]

DRAWS_BEFORE_EXHAUSTED = 300
NUM_INPUTS = 10

# operation -> the operation it is mistaken for, and that one's constant (None: the same constant)
SYSTEMATIC_BUGS: dict[str, tuple[str, int | None]] = {
    "minus {c}": ("add {c}", None),
    "square": ("times {c}", 2),
    "keep even": ("keep odd", None),
    "keep below {c}": ("keep above {c}", None),
    "sort down": ("sort", None),
    "first {c}": ("drop {c}", None),
}


@dataclass(frozen=True)
class Problem:
    """One problem: what is asked, in which words, and the answers to the inputs (in their order)."""

    number: int
    composition: Composition
    prompt: str
    expected: tuple[Value, ...]


def draw_inputs(rng: Random) -> tuple[tuple[int, ...], ...]:
    """Draw the lists every problem is tested on: an empty one, a single number, the rest of 5 to 9 numbers in -9..9."""
    lengths = [0, 1, *(rng.randint(5, 9) for _ in range(NUM_INPUTS - 2))]
    return tuple(tuple(rng.randint(-9, 9) for _ in range(length)) for length in lengths)


def draw_compositions(rng: Random, num_problems: int, inputs: Inputs) -> list[Composition]:
    """Draw different compositions, dealing the difficulties 1..11 in turn; a difficulty without new ones is skipped.

    All are sound (see `is_sound`) and no two agree on all inputs, so a held-out problem is new in behaviour, not only
    in wording. Raises ConfigError when the language has too few of them.
    """
    skeletons = skeletons_by_difficulty()
    open_difficulties = list(DIFFICULTIES)
    compositions: dict[str, Composition] = {}
    while len(compositions) < num_problems:
        if not open_difficulties:
            raise ConfigError(
                f"{num_problems} list problems were asked for, but only {len(compositions)} different ones were found: "
                "lower num_train_problems or num_valid_problems"
            )
        for difficulty in tuple(open_difficulties[: num_problems - len(compositions)]):
            composition = draw_new_composition(rng, skeletons[difficulty], inputs, compositions)
            if composition is None:
                open_difficulties.remove(difficulty)
            else:
                compositions[behaviour(composition, inputs)] = composition
    return list(compositions.values())


def draw_new_composition(
    rng: Random, skeletons: Sequence[Sequence[Skeleton]], inputs: Inputs, known_behaviours: dict[str, Composition]
) -> Composition | None:
    """Draw a composition whose behaviour is new; None after `DRAWS_BEFORE_EXHAUSTED` draws without a new one.

    Every number of steps is as likely, however few compositions have it: short programs keep the rows short.
    """
    for _ in range(DRAWS_BEFORE_EXHAUSTED):
        operations, reducer = rng.choice(rng.choice(skeletons))
        steps = tuple(Step(operation, rng.choice(operation.constants)) for operation in operations)
        composition = Composition(steps, reducer)
        if behaviour(composition, inputs) not in known_behaviours and is_sound(composition, inputs):
            return composition
    return None


def skeletons_by_difficulty() -> dict[int, list[list[Skeleton]]]:
    """All compositions with their constants left open, no operation twice, by difficulty and then number of steps."""
    skeletons: dict[int, list[list[Skeleton]]] = {difficulty: [] for difficulty in DIFFICULTIES}
    for num_steps in range(1, MAX_STEPS + 1):
        of_cost: dict[int, list[Skeleton]] = defaultdict(list)
        for operations in permutations(OPERATIONS, num_steps):
            cost = sum(operation.cost for operation in operations)
            of_cost[cost].append((operations, None))
            for reducer in REDUCERS:
                of_cost[cost + reducer.cost].append((operations, reducer))
        for difficulty in DIFFICULTIES:
            if of_cost[difficulty]:
                skeletons[difficulty].append(of_cost[difficulty])
    return skeletons


def behaviour(composition: Composition, inputs: Inputs) -> str:
    """The answers to all inputs as one comparable text."""
    return repr([composition.apply(values) for values in inputs])


def is_sound(composition: Composition, inputs: Inputs) -> bool:
    """Whether a composition makes a valid problem: no operation twice, and every step changes an answer.

    "sort, sum" is not, as the sum does not care. Bugs must be sound too, or `sum(sorted(a))` would give them away.
    """
    steps = composition.steps
    if len({step.operation.words for step in steps}) < len(steps):
        return False
    whole = behaviour(composition, inputs)
    without_one = (replace(composition, steps=steps[:k] + steps[k + 1 :]) for k in range(len(steps)))
    return all(behaviour(shorter, inputs) != whole for shorter in without_one)


def hold_out(compositions: Sequence[Composition], num_valid: int) -> tuple[list[Composition], list[Composition]]:
    """Split into (train, valid): valid takes every difficulty in proportion, and no part that train would then lack.

    Raises ConfigError when there are too few problems to leave every operation and reducer in train.
    """
    by_difficulty = sorted(range(len(compositions)), key=lambda k: compositions[k].difficulty)
    parts_left = Counter(part for composition in compositions for part in composition.part_words)
    held_out: set[int] = set()
    for n in range(num_valid):
        start = n * len(by_difficulty) // num_valid
        for k in by_difficulty[start:] + by_difficulty[:start]:
            parts = compositions[k].part_words
            if k not in held_out and all(parts_left[part] > 1 for part in parts):
                held_out.add(k)
                parts_left.subtract(parts)
                break
        else:
            raise ConfigError(
                f"only {len(held_out)} of {num_valid} held-out problems leave every operation in the "
                f"{len(compositions) - num_valid} train problems: raise num_train_problems or lower num_valid_problems"
            )
    train = [composition for k, composition in enumerate(compositions) if k not in held_out]
    return train, [compositions[k] for k in sorted(held_out)]


def word_prompt(rng: Random, composition: Composition) -> str:
    """Describe a composition in one of three ways.

    "keep below 0, reverse, min" | "keep below 0 then reverse then min" | "min after keep below 0, reverse"
    """
    steps = [step.words for step in composition.steps]
    reducer = [composition.reducer.words] if composition.reducer else []
    return rng.choice(
        (
            ", ".join(steps + reducer),
            " then ".join(steps + reducer),
            f"{reducer[0] if reducer else 'list'} after {', '.join(steps)}",
        )
    )


def asked_operations(prompt: str) -> frozenset[str]:
    """Read a prompt back: the words of the operations that it asks for, constants left open.

    "min after keep below 0, reverse" asks for "keep below {c}" and "reverse".
    """
    parts = re.split(r", | then | after ", prompt)
    patterns = {words: re.escape(words).replace(r"\{c\}", r"\d+") for words in OPERATION_OF_WORDS}
    return frozenset(words for words, pattern in patterns.items() for part in parts if re.fullmatch(pattern, part))


def systematic_bugs(composition: Composition) -> list[Composition]:
    """Return every systematic bug that applies to the composition, one for each step that has one."""
    bugs = []
    for k, step in enumerate(composition.steps):
        if step.operation.words in SYSTEMATIC_BUGS:
            words, constant = SYSTEMATIC_BUGS[step.operation.words]
            mistaken = Step(OPERATION_OF_WORDS[words], step.constant if constant is None else constant)
            bugs.append(with_step(composition, k, mistaken))
    return bugs


def draw_diffuse_bug(rng: Random, composition: Composition) -> Composition:
    """Draw one random change; it may turn out to be no change, or no bug."""
    changes: list[Callable[[Random, Composition], Composition]] = [change_constant, change_operation]
    if len(composition.steps) > 1:
        changes.append(swap_neighbours)
    if composition.reducer:
        changes.append(change_reducer)
    return rng.choice(changes)(rng, composition)


def change_constant(rng: Random, composition: Composition) -> Composition:
    """Give one step another constant of its operation."""
    k = rng.randrange(len(composition.steps))
    operation = composition.steps[k].operation
    return with_step(composition, k, Step(operation, rng.choice(operation.constants)))


def change_operation(rng: Random, composition: Composition) -> Composition:
    """Put any operation in the place of one step."""
    operation = rng.choice(OPERATIONS)
    step = Step(operation, rng.choice(operation.constants))
    return with_step(composition, rng.randrange(len(composition.steps)), step)


def swap_neighbours(rng: Random, composition: Composition) -> Composition:
    """Exchange two neighbouring steps."""
    k = rng.randrange(len(composition.steps) - 1)
    steps = composition.steps
    return replace(composition, steps=(*steps[:k], steps[k + 1], steps[k], *steps[k + 2 :]))


def change_reducer(rng: Random, composition: Composition) -> Composition:
    """Reduce in any other way."""
    return replace(composition, reducer=rng.choice(REDUCERS))


def with_step(composition: Composition, k: int, step: Step) -> Composition:
    """The composition with its k-th step replaced."""
    return replace(composition, steps=(*composition.steps[:k], step, *composition.steps[k + 1 :]))
