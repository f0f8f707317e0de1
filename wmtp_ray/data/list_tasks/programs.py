"""Program text of a composition, in several styles, and its execution.

A style is two independent choices, and every composition has a text of its own in each of the `STYLES`. Correct and
incorrect programs are rendered by the same code from the same styles: a wrong program is the right program of another
composition, hence no token can belong to wrong programs only. `run_program` executes OUR OWN text in this process; it
is no sandbox (evaluation/judge is).

"keep below 0, reverse, min" in two of the styles:

    def f(a):                            def f(b):
        a = [x for x in a if x < 0]          c = [x for x in b if x < 0]
        a = a[::-1]                          return min(c[::-1], default=0)
        return min(a, default=0)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias, cast

from wmtp_ray.data.list_tasks.operations import Composition, Step, Value

ENTRY_POINT = "f"

LastStep: TypeAlias = Literal["own line", "in return"]


@dataclass(frozen=True)
class Style:
    """How a program is written.

    `names` are the list's names before and after each step, the last one repeating; `last_step` says whether the last
    step stands on its own line or inside the return.
    """

    names: tuple[str, ...]
    last_step: LastStep


NAMINGS = (("a",), ("v",), ("b", "c", "d", "e"))
LAST_STEPS: tuple[LastStep, ...] = ("own line", "in return")
STYLES = tuple(Style(*choices) for choices in product(NAMINGS, LAST_STEPS))


def render_step(step: Step, values: str) -> str:
    """Write one step as an expression of the list named `values`."""
    operation = step.operation
    templates = {"map": f"[{operation.source} for x in {{a}}]", "filter": f"[x for x in {{a}} if {operation.source}]"}
    return templates.get(operation.kind, operation.source).format(a=values, c=step.constant)


def render_program(composition: Composition, style: Style) -> str:
    """Write the whole function, without a final newline."""
    names = [style.names[min(k, len(style.names) - 1)] for k in range(len(composition.steps) + 1)]
    lines = [f"def {ENTRY_POINT}({names[0]}):"]
    result = names[0]
    for k, step in enumerate(composition.steps):
        result = render_step(step, names[k])
        if style.last_step == "own line" or k + 1 < len(composition.steps):
            lines.append(f"    {names[k + 1]} = {result}")
            result = names[k + 1]
    if composition.reducer:
        result = composition.reducer.source.format(a=result)
    return "\n".join([*lines, f"    return {result}"])


def run_program(source: str, inputs: Sequence[Sequence[int]]) -> list[Value]:
    """Execute a rendered program on copies of the inputs."""
    namespace: dict[str, object] = {}
    exec(source, namespace)
    function = cast(Callable[[list[int]], Value], namespace[ENTRY_POINT])
    return [function(list(values)) for values in inputs]
