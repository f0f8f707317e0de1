"""Arms compared on what is comparable: Pass@K problem by problem, and the loss of held-out programs seed by seed.

A training loss is not comparable: arms weigh and read other rows. The reference is the arm with uniform weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.evaluation.pass_at_k import pass_at_k
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.intervals import Float64, Interval, over_problems, over_seeds
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.saved_run import SavedRun
from wmtp_ray.report.statistics import ProblemTest, SeedTest, compare_over_problems, compare_over_seeds


@dataclass(frozen=True)
class ArmScore:
    """An arm on one data set at one K: its seeds' Pass@K, and the mean over seeds of every problem."""

    arm: Arm
    of_seeds: dict[object, float]
    problems_P: Float64
    interval: Interval

    @property
    def seeds_interval(self) -> Interval:
        """Mean and interval over seeds."""
        return over_seeds(list(self.of_seeds.values()))


@dataclass(frozen=True)
class Difference:
    """An arm against the reference: over the same problems, and over the same seeds."""

    score: ArmScore
    reference: ArmScore
    problems: ProblemTest
    seeds: SeedTest | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the problems' interval excludes 0 and no seed contradicts; else `undecided`."""
        if not self.problems.difference.excludes_zero:
            return "undecided"
        is_better = self.problems.difference.value > 0
        if self.seeds is not None and (self.seeds.num_negative if is_better else self.seeds.num_positive):
            return "undecided"
        return "better" if is_better else "worse"


@dataclass(frozen=True)
class DatasetComparison:
    """All arms that were evaluated on the same problems of a data set; `left_out` names the others and the reason.

    `num_problems` is "3 of 6" where the data set has more problems.
    """

    dataset: str
    k: int
    task_ids: tuple[str, ...]
    scores: tuple[ArmScore, ...]
    differences: tuple[Difference, ...]
    left_out: tuple[str, ...]
    num_problems: str


def compare_datasets(arms: Sequence[Arm], reference: Arm) -> list[DatasetComparison]:
    """Return a comparison for every data set that any run was evaluated on, and every K of it."""
    names = dict.fromkeys(name for arm in arms for run in arm.runs for name in run.evaluations)
    return [each for name in names for each in _compare_dataset(name, arms, reference)]


def difference_of(score: ArmScore, base: ArmScore) -> Difference:
    """Compare two arms on the problems and the seeds that both have: `score` - `base`."""
    both_P = np.isfinite(score.problems_P) & np.isfinite(base.problems_P)
    problems = compare_over_problems(base.problems_P[both_P], score.problems_P[both_P])
    return Difference(score, base, problems, compare_over_seeds(base.of_seeds, score.of_seeds))


def held_out_margins(arm: Arm) -> dict[object, float]:
    """Return, by seed, how much likelier correct held-out programs are than incorrect ones (nats a token)."""
    return {
        key: run.evidence.held_out.incorrect - run.evidence.held_out.correct
        for key, run in zip(seed_keys(arm.runs), arm.runs, strict=True)
        if run.evidence is not None and run.evidence.held_out is not None
    }


def held_out_losses(arm: Arm) -> dict[object, float]:
    """Return, by seed, the loss of correct held-out programs (nats a token)."""
    return {
        key: run.evidence.held_out.correct
        for key, run in zip(seed_keys(arm.runs), arm.runs, strict=True)
        if run.evidence is not None and run.evidence.held_out is not None
    }


def seed_keys(runs: Sequence[SavedRun]) -> list[object]:
    """Name the runs of an arm by seed, and by place among those of the same seed."""
    seeds = [run.seed for run in runs]
    return [(seed, seeds[:place].count(seed)) for place, seed in enumerate(seeds)]


def _compare_dataset(name: str, arms: Sequence[Arm], reference: Arm) -> list[DatasetComparison]:
    evaluated = [run.evaluations[name] for arm in (reference, *arms) for run in arm.runs if name in run.evaluations]
    same_problems = _task_ids(evaluated[0])
    ks = [int(k) for k in evaluated[0].pass_at_k]
    return [_compare(name, k, same_problems, arms, reference, evaluated[0].num_problems) for k in ks]


def _compare(
    name: str, k: int, task_ids: tuple[str, ...], arms: Sequence[Arm], reference: Arm, num_problems: str
) -> DatasetComparison:
    scores: list[ArmScore] = []
    left_out: list[str] = []
    for arm in arms:
        score = _score(name, k, task_ids, arm)
        if score is None:
            left_out.append(arm.name)
        else:
            scores.append(score)
    base = next((score for score in scores if score.arm is reference), None)
    differences = [difference_of(score, base) for score in scores if base is not None and score is not base]
    return DatasetComparison(name, k, task_ids, tuple(scores), tuple(differences), tuple(left_out), num_problems)


def _score(name: str, k: int, task_ids: tuple[str, ...], arm: Arm) -> ArmScore | None:
    """Problems with fewer than K judged answers count as NaN and drop out of that seed."""
    of_seeds: dict[object, float] = {}
    tables: list[Float64] = []
    for key, run in zip(seed_keys(arm.runs), arm.runs, strict=True):
        results = run.evaluations.get(name)
        if results is None or _task_ids(results) != task_ids or str(k) not in results.pass_at_k:
            continue
        table = [pass_at_k(p.num_samples, p.num_correct, k) if p.num_samples >= k else np.nan for p in results.problems]
        tables.append(np.array(table, np.float64))
        of_seeds[key] = results.pass_at_k[str(k)].value
    if not tables:
        return None
    stacked = np.array(tables)
    known_P = np.isfinite(stacked).any(axis=0)
    problems_P = np.full(len(task_ids), np.nan)
    problems_P[known_P] = np.nanmean(stacked[:, known_P], axis=0)
    return ArmScore(arm, of_seeds, problems_P, over_problems(problems_P[known_P]))


def _task_ids(results: EvaluationResults) -> tuple[str, ...]:
    return tuple(problem.task_id for problem in results.problems)
