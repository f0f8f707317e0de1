"""The training loop's ports as plain objects in memory: batches that lie in a list, outcomes that end in one."""

from collections.abc import Callable, Sequence

from wmtp_ray.contracts import ScoredBatch
from wmtp_ray.training.loop import Checkpoints, Drift, Evaluations, Ports, ScoredStep, StepOutcome, Versions
from wmtp_ray.training.publishing import NoVersions


class GivenSteps:
    """Batches that are there already, [step][micro_step]."""

    def __init__(self, steps: Sequence[Sequence[ScoredBatch]]) -> None:
        self._steps = steps

    def next(self, step: int) -> ScoredStep:
        return ScoredStep(self._steps[step], data_wait_s=0.0)


class ReportList:
    """Every outcome, in order."""

    def __init__(self) -> None:
        self.outcomes: list[StepOutcome] = []

    def report(self, outcome: StepOutcome) -> None:
        self.outcomes.append(outcome)

    def metric(self, name: str) -> list[float]:
        return [outcome.metrics[name] for outcome in self.outcomes]

    def metrics_of(self, prefix: str) -> list[dict[str, float]]:
        """The metrics of each step whose names begin with `prefix`."""
        return [{n: v for n, v in each.metrics.items() if n.startswith(prefix)} for each in self.outcomes]


class NoCheckpoints:
    def save(self, done: int, mean_loss: float) -> None:
        pass


class CheckpointAt:
    """Saves with `save` after one step, and at no other."""

    def __init__(self, step: int, save: Callable[[float], None]) -> None:
        self._step = step
        self._save = save

    def save(self, done: int, mean_loss: float) -> None:
        if done == self._step:
            self._save(mean_loss)


class StopAfter:
    """Asks for a stop when so many steps are done; None: never."""

    def __init__(self, num_steps: int | None) -> None:
        self._left = num_steps

    def is_asked(self) -> bool:
        if self._left is not None:
            self._left -= 1
        return self._left == 0


class CountedLife:
    def __init__(self) -> None:
        self.signs = 0

    def show(self) -> None:
        self.signs += 1


def plain_ports(
    steps: Sequence[Sequence[ScoredBatch]],
    reports: ReportList,
    *,
    versions: Versions | None = None,
    checkpoints: Checkpoints | None = None,
    stop_after: int | None = None,
    drift: Drift | None = None,
    evaluations: Evaluations | None = None,
) -> Ports:
    """Ports over the batches of every step; who is not given does nothing."""
    return Ports(
        batches=GivenSteps(steps),
        reports=reports,
        versions=versions or NoVersions(),
        checkpoints=checkpoints or NoCheckpoints(),
        stop=StopAfter(stop_after),
        life=CountedLife(),
        drift=drift,
        evaluations=evaluations,
    )
