"""Correct and incorrect programs for a problem, every label proved by running them on all inputs.

Incorrect program i is written in the style of correct program i, so the two differ by one edit and style says nothing
about correctness. No program text is both correct and incorrect for a problem, and none occurs twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from wmtp_ray.data.list_tasks.list_problems import Inputs, Problem, draw_diffuse_bug, is_sound, systematic_bugs
from wmtp_ray.data.list_tasks.operations import Composition
from wmtp_ray.data.list_tasks.programs import STYLES, Style, render_program, run_program

Bug: TypeAlias = Literal["systematic", "diffuse"]

MAX_DRAWS = 10_000  # of one diffuse bug; a few suffice


@dataclass(frozen=True)
class Program:
    """One answer to a problem. `solves` is the composition it really computes; `bug` is None for a correct one."""

    source: str
    solves: Composition
    bug: Bug | None


def correct_programs(rng: Random, problem: Problem, inputs: Inputs, num_correct: int) -> dict[Style, Program]:
    """Write `num_correct` different correct programs, keyed by their style."""
    programs = {
        style: Program(render_program(problem.composition, style), problem.composition, None)
        for style in rng.sample(STYLES, num_correct)
    }
    for program in programs.values():
        assert run_program(program.source, inputs) == list(problem.expected), program.source
    return programs


def incorrect_programs(
    rng: Random, problem: Problem, inputs: Inputs, styles: Sequence[Style], num_incorrect: int, systematic_frac: float
) -> list[Program]:
    """Write `num_incorrect` different wrong programs, the styles taken in turn.

    Each is systematic with probability `systematic_frac` where the problem invites a sound systematic bug not yet
    written in that style, and diffuse otherwise.
    """
    expected = list(problem.expected)
    invited = systematic_bugs(problem.composition)
    written: dict[str, Program] = {}

    def first_new(bugs: Iterable[Composition], style: Style, kind: Bug) -> Program | None:
        for bug in bugs:
            source = render_program(bug, style)
            if source not in written and is_sound(bug, inputs) and run_program(source, inputs) != expected:
                return Program(source, bug, kind)
        return None

    def diffuse() -> Iterable[Composition]:
        drawn = (draw_diffuse_bug(rng, problem.composition) for _ in range(MAX_DRAWS))
        return (bug for bug in drawn if bug not in invited)

    for i in range(num_incorrect):
        style = styles[i % len(styles)]
        program = None
        if rng.random() < systematic_frac:
            program = first_new(rng.sample(invited, len(invited)), style, "systematic")
        program = program or first_new(diffuse(), style, "diffuse")
        assert program, f"no {i + 1}th wrong program found for {problem.prompt!r}"
        written[program.source] = program
    return list(written.values())


def mistaken_step(problem: Problem, program: Program) -> int:
    """Return the step with the systematic bug (the first, if several differ)."""
    steps = zip(problem.composition.steps, program.solves.steps, strict=True)
    return next(k for k, (asked, done) in enumerate(steps) if asked != done)
