"""What evaluations found of the policy while it trained: a folder for each evaluated step of one set of problems.

    <home>/step_<n>/  evaluation.json samples.jsonl verdicts.jsonl results.json      after n optimizer steps

Reads; `evaluate_step.py` writes. Imports neither torch nor Ray.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.errors import ArtifactError
from wmtp_ray.evaluation.results import FILE_NAME, EvaluationResults, read_results

_PREFIX = "step_"


@dataclass(frozen=True)
class StepScores:
    """The evaluated steps in `home`, the folder of one set of problems and settings."""

    home: Path

    def folder_of(self, step: int) -> Path:
        """Return the folder of the policy after `step` steps."""
        return self.home / f"{_PREFIX}{step}"

    def steps(self) -> list[int]:
        """Return the steps whose evaluation is done, in order."""
        found = (path.parent.name.removeprefix(_PREFIX) for path in self.home.glob(f"{_PREFIX}*/{FILE_NAME}"))
        return sorted(int(number) for number in found if number.isdigit())

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation of a step is done."""
        return (self.folder_of(step) / FILE_NAME).is_file()

    def results_of(self, step: int) -> EvaluationResults | None:
        """Return the results of a step, None where there are none that can be read."""
        with suppress(ArtifactError):
            return read_results(self.folder_of(step))
        return None

    def pass_at_1(self, step: int) -> float | None:
        """Return the Pass@1 of a step, None where it is not known."""
        results = self.results_of(step)
        estimate = None if results is None else results.pass_at_k.get("1")
        return None if estimate is None else estimate.value

    def best_step(self) -> int | None:
        """Return the step of the highest Pass@1, of equal ones the last; None before the first evaluation."""
        known = [(value, step) for step in self.steps() if (value := self.pass_at_1(step)) is not None]
        return max(known)[1] if known else None


def due_steps(interval: int, num_steps: int) -> list[int]:
    """Return the numbers of steps after which the policy is evaluated: 10 steps, every 4: 0, 4, 8 and 10."""
    return [done for done in range(num_steps + 1) if is_due(done, interval, num_steps)]


def is_due(done: int, interval: int, num_steps: int) -> bool:
    """Whether the policy after `done` of `num_steps` steps is to be evaluated: at every `interval`, and the last."""
    return done % interval == 0 or done == num_steps
