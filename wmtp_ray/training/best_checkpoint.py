"""Which checkpoint of a run is its best, by `train.keep_best_by`: the lowest loss, or the highest Pass@1.

Of equal Pass@1 the later one is better. A checkpoint that was not evaluated, since its turn was skipped, comes after
all that were, by its loss; one whose evaluation is not done yet stays until it is.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from wmtp_ray.config.load import load_resolved
from wmtp_ray.errors import ArtifactError
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.training.checkpoint import (
    LossRanking,
    Ranking,
    find_damage,
    latest_checkpoint,
    list_checkpoints,
    mean_loss_of,
    step_of,
)

WantedStep = int | Literal["best"] | None


class PassRanking:
    """By the Pass@1 of the policy; `pending` are the steps whose evaluation is not done."""

    def __init__(self, scores: StepScores, pending: Callable[[], set[int]] = set) -> None:
        self._scores = scores
        self._pending = pending

    def cost(self, checkpoint: Path) -> tuple[float, ...]:
        """Return what checkpoints are ordered by."""
        step = step_of(checkpoint)
        found = self._scores.pass_at_1(step)
        return (math.inf, mean_loss_of(checkpoint)) if found is None else (-found, -step)

    def is_open(self, checkpoint: Path) -> bool:
        """Whether the evaluation of its policy is not done."""
        return step_of(checkpoint) in self._pending()


def wanted_checkpoint(run_dir: Path, step: WantedStep) -> Path:
    """Return a run's whole checkpoint of a step, the best, or the newest (None); ArtifactError where there is none."""
    folder = RunFolder(run_dir)
    return (
        best_checkpoint(folder.checkpoints, _scores_of(folder))
        if step == "best"
        else checkpoint_of(folder.checkpoints, step)
    )


def _scores_of(folder: RunFolder) -> StepScores | None:
    """Return the scores that a run's checkpoints are kept by: of the set that it used last; None: they are not."""
    if load_resolved(folder.config).train.keep_best_by == "loss":
        return None
    homes = [path for path in folder.step_evaluations.glob("*") if StepScores(path).steps()]
    return StepScores(max(homes, key=lambda path: path.stat().st_mtime)) if homes else None


def best_checkpoint(root: Path, scores: StepScores | None) -> Path:
    """Return the best whole checkpoint below `root`, by Pass@1 where there are `scores`; ArtifactError without any."""
    ranking: Ranking = LossRanking() if scores is None else PassRanking(scores)
    whole = [path for path in list_checkpoints(root) if find_damage(path) is None]
    if not whole:
        raise ArtifactError(f"{root} has no whole checkpoint, of which one could be the best; train the run first")
    return min(whole, key=ranking.cost)


def checkpoint_of(root: Path, step: int | None) -> Path:
    """Return the whole checkpoint of a step, None: the newest one; ArtifactError where there is none."""
    found = {step_of(path): path for path in list_checkpoints(root)}
    chosen = latest_checkpoint(root) if step is None else found.get(step)
    if chosen is None:
        wanted = "no whole checkpoint" if step is None else f"no checkpoint of step {step}"
        raise ArtifactError(f"{root} has {wanted}; there are those of the steps {sorted(found)}")
    if step is not None and (damage := find_damage(chosen)) is not None:
        raise ArtifactError(
            f"The checkpoint {chosen} is damaged ({damage}); there are those of the steps {sorted(found)}"
        )
    return chosen
