"""Measures that judge scores against correctness: AUC, Brier, pair accuracy, correlation, explained variance.

Numpy, one number each, None where the data cannot give it (one class only, no pair, no variance): never a stand-in.
`scores_R`, `correct_R`, `problems_R` have one entry per response R. Ties count one half. Used by `critic_health` and
its baselines, so that a critic and what it must beat are measured by the same lines.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Problems = Sequence[str | int]


def auc(scores_R: Floats, correct_R: Bools) -> float | None:
    """Return the chance that a correct response scores above an incorrect one (Mann-Whitney, by mid-ranks)."""
    num_correct, num_incorrect = int(correct_R.sum()), int((~correct_R).sum())
    if not num_correct or not num_incorrect:
        return None
    _, group_R, counts_G = np.unique(scores_R, return_inverse=True, return_counts=True)
    mid_ranks_G = np.cumsum(counts_G) - (counts_G - 1) / 2
    rank_sum = mid_ranks_G[group_R][correct_R].sum()
    return float((rank_sum - num_correct * (num_correct + 1) / 2) / (num_correct * num_incorrect))


def brier(scores_R: Floats, correct_R: Bools) -> float | None:
    """Return the mean of `(score - correct)^2`; scores are taken as they are, also outside [0, 1]."""
    return float(np.mean((scores_R - correct_R) ** 2)) if len(scores_R) else None


def correlation(x_R: Floats, y_R: Floats) -> float | None:
    """Return Pearson's correlation."""
    if len(x_R) < 2 or np.ptp(x_R) == 0 or np.ptp(y_R) == 0:
        return None
    return float(np.corrcoef(x_R, y_R)[0, 1])


def explained_variance(predictions_S: Floats, targets_S: Floats) -> float | None:
    """Return 1 - Var(target - prediction) / Var(target); 0 for any constant, negative for worse than that."""
    variance = float(np.var(targets_S)) if len(targets_S) else 0.0
    return 1 - float(np.var(targets_S - predictions_S)) / variance if variance else None


def problem_pairs(correct_R: Bools, problems_R: Problems) -> Iterator[tuple[str | int, list[tuple[int, int]]]]:
    """Yield each problem with all its (correct, incorrect) pairs of response numbers, unless it has none."""
    members: dict[str | int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for response, problem in enumerate(problems_R):
        members[problem][0 if correct_R[response] else 1].append(response)
    for problem, (correct, incorrect) in members.items():
        if correct and incorrect:
            yield problem, [(right, wrong) for right in correct for wrong in incorrect]


def pair_accuracy(
    scores_R: Floats,
    correct_R: Bools,
    problems_R: Problems,
    *,
    lengths_R: Floats | None = None,
    length_tolerance_frac: float = 0.0,
) -> float | None:
    """Return how often the correct one of two responses to one problem scores higher; every problem counts once.

    With `lengths_R`, only pairs whose lengths differ by at most `length_tolerance_frac` of the longer one count.
    """
    per_problem = []
    for _, pairs in problem_pairs(correct_R, problems_R):
        matched = [pair for pair in pairs if lengths_R is None or _close(lengths_R, pair, length_tolerance_frac)]
        if matched:
            per_problem.append(np.mean([wins(scores_R[right], scores_R[wrong]) for right, wrong in matched]))
    return float(np.mean(per_problem)) if per_problem else None


def wins(higher: float, lower: float) -> float:
    """Return 1 where the first is larger, one half for a tie, else 0."""
    return 1.0 if higher > lower else 0.5 if higher == lower else 0.0


def between_problem_share(scores_R: Floats, problems_R: Problems) -> float | None:
    """Return the share of the scores' variance that lies between problems, not within: 1 = only the problem matters."""
    return explained_variance(problem_means(scores_R, problems_R), scores_R)


def problem_means(scores_R: Floats, problems_R: Problems) -> Floats:
    """Give every response the mean score of its problem."""
    names = {problem: code for code, problem in enumerate(dict.fromkeys(problems_R))}
    codes_R = np.array([names[problem] for problem in problems_R], dtype=np.int64)
    sums = np.bincount(codes_R, weights=scores_R)
    return np.asarray((sums / np.bincount(codes_R))[codes_R], dtype=np.float64)


def _close(lengths_R: Floats, pair: tuple[int, int], tolerance_frac: float) -> bool:
    shorter, longer = sorted(float(lengths_R[response]) for response in pair)
    return longer - shorter <= tolerance_frac * longer
