import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective import health_measures as measures

from .document_layouts import few_examples

judged = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=15)
Judged = list[tuple[int, bool, str]]


def columns(rows: Judged) -> tuple[np.ndarray, np.ndarray, list[str]]:
    scores, correct, problems = zip(*rows, strict=True)
    return np.array(scores, dtype=np.float64), np.array(correct), list(problems)


def win(higher: float, lower: float) -> float:
    return float(higher > lower) + 0.5 * float(higher == lower)


@few_examples
@given(judged)
def test_auc_equals_counting_all_pairs_with_ties_as_halves(rows: Judged) -> None:
    scores, correct, _ = columns(rows)
    pairs = [win(a, b) for a, right in zip(scores, correct, strict=True) if right for b in scores[~correct]]
    assert measures.auc(scores, correct) == (pytest.approx(np.mean(pairs)) if pairs else None)


@few_examples
@given(judged)
def test_pair_accuracy_counts_every_problem_once(rows: Judged) -> None:
    scores, correct, problems = columns(rows)
    per_problem = []
    for problem in set(problems):
        own = [row for row in rows if row[2] == problem]
        pairs = [win(a, b) for a, right, _ in own if right for b, wrong, _ in own if not wrong]
        per_problem += [np.mean(pairs)] if pairs else []
    expected = pytest.approx(np.mean(per_problem)) if per_problem else None
    assert measures.pair_accuracy(scores, correct, problems) == expected


def test_length_matching_leaves_out_pairs_of_unlike_length() -> None:
    scores = np.array([1.0, 0.0, 2.0])
    correct = np.array([True, False, False])
    lengths = np.array([100.0, 91.0, 50.0])
    matched = {"lengths_R": lengths, "length_tolerance_frac": 0.1}
    assert measures.pair_accuracy(scores, correct, ["p"] * 3) == 0.5
    assert measures.pair_accuracy(scores, correct, ["p"] * 3, **matched) == 1.0
    assert measures.pair_accuracy(scores[[0, 2]], correct[[0, 2]], ["p"] * 2, lengths_R=lengths[[0, 2]]) is None


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant() -> None:
    targets = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert measures.explained_variance(targets, targets) == 1.0
    assert measures.explained_variance(np.full(5, 0.3), targets) == pytest.approx(0.0)
    assert measures.explained_variance(1 - targets, targets) == pytest.approx(-3.0)
    assert measures.explained_variance(targets, np.ones(5)) is None


def test_correlation_and_brier_equal_their_definitions() -> None:
    x, y = np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, 0.0])
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    assert measures.correlation(x, y) == pytest.approx(covariance / (x.std() * y.std()))
    assert measures.correlation(x, np.ones(3)) is None
    assert measures.brier(np.array([0.25, 1.5]), np.array([True, False])) == pytest.approx((0.5625 + 2.25) / 2)


def test_between_problem_share_tells_knowing_the_problem_from_knowing_the_response() -> None:
    problems = ["a", "a", "b", "b"]
    assert measures.between_problem_share(np.array([0.2, 0.2, 0.9, 0.9]), problems) == 1.0
    assert measures.between_problem_share(np.array([0.2, 0.9, 0.9, 0.2]), problems) == pytest.approx(0.0)
