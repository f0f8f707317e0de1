"""The predictors a critic must beat: length, position, problem base rate, unordered tokens, the policy's likelihood.

Each gives one score per response and is measured like the critic. What must be fitted is fitted on one half of the
problems and measured on the other, both ways round, and the two results are averaged. `length` and
`problem_base_rate` are the two shortcut probes: a critic that does no better has learned a shortcut or memorised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wmtp_ray.objective.health_measures import Bools, Floats, Problems, auc, brier, pair_accuracy, problem_means

Tokens = list[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class BaselineHealth:
    """One baseline's numbers; None where the data cannot give them or the score is no probability (brier)."""

    name: str
    auc: float | None
    pair_accuracy: float | None
    brier: float | None


def length_baseline(lengths_R: Floats, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only the response's length: a least-squares line through its logarithm."""
    log_lengths_R1 = np.log(np.maximum(lengths_R, 1.0))[:, None]
    return _cross_fitted("length", log_lengths_R1, correct_R, problems_R)


def position_baseline(lengths_R: Floats, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only how far each state is into its response: AUC over all states, weighted by nothing else.

    A line through the position; the pair accuracy is that of its mean over a response. There is no Brier score.
    """
    lengths = lengths_R.astype(np.int64)
    response_S = np.repeat(np.arange(len(lengths)), lengths)
    position_S = np.concatenate([np.arange(length) for length in lengths]).astype(np.float64)
    areas, accuracies = [], []
    for fit_R, test_R in _halves(problems_R):
        predict = _ridge(position_S[fit_R[response_S], None], correct_R[response_S][fit_R[response_S]])
        scores_S = predict(position_S[:, None])
        test_S = test_R[response_S]
        areas.append(auc(scores_S[test_S], correct_R[response_S][test_S]))
        means_R = np.bincount(response_S, scores_S, len(lengths)) / np.maximum(lengths, 1)
        accuracies.append(pair_accuracy(means_R[test_R], correct_R[test_R], _chosen(problems_R, test_R)))
    return BaselineHealth("position", _average(areas), _average(accuracies), None)


def problem_base_rate_baseline(correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only the problem: its share of correct responses among those judged.

    The rate is taken from the judged responses themselves, so this is what PERFECT knowledge of every problem's base
    rate could reach, an upper bound for memorising; within a problem it is always a tie.
    """
    rates_R = problem_means(correct_R.astype(np.float64), problems_R)
    accuracy = pair_accuracy(rates_R, correct_R, problems_R)
    return BaselineHealth("problem_base_rate", auc(rates_R, correct_R), accuracy, brier(rates_R, correct_R))


def token_identity_baseline(tokens: Tokens, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only which tokens occur: a ridge regression on the bag of tokens, without order or count."""
    vocabulary = np.unique(np.concatenate(tokens))
    occurs_RV = np.zeros((len(tokens), len(vocabulary)))
    for response, response_tokens in enumerate(tokens):
        occurs_RV[response, np.searchsorted(vocabulary, response_tokens)] = 1.0
    return _cross_fitted("token_identity", occurs_RV, correct_R, problems_R)


def bag_of_tokens_baseline(tokens: Tokens, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only how often each token occurs: a logistic regression on log(1 + count), without order."""
    from scipy.sparse import csr_array  # with scikit-learn a second and a half, at the end of a stage
    from sklearn.linear_model import LogisticRegression

    vocabulary, column_T = np.unique(np.concatenate(tokens), return_inverse=True)
    row_T = np.repeat(np.arange(len(tokens)), [len(each) for each in tokens])
    counts_RV = csr_array((np.ones(len(row_T)), (row_T, column_T)), shape=(len(tokens), len(vocabulary)))
    features_RV = counts_RV.log1p()

    def fit(fit_R: Bools) -> Floats:
        if len(set(correct_R[fit_R].tolist())) < 2:
            return np.full(len(tokens), float(correct_R[fit_R].mean()))
        model = LogisticRegression(max_iter=500).fit(features_RV[fit_R], correct_R[fit_R])
        return np.asarray(model.predict_proba(features_RV)[:, 1], dtype=np.float64)

    return _cross_measured("bag_of_tokens", fit, correct_R, problems_R)


def log_likelihood_baseline(mean_log_likelihood_R: Floats, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    """See only the policy's own mean token log-likelihood of the response."""
    accuracy = pair_accuracy(mean_log_likelihood_R, correct_R, problems_R)
    return BaselineHealth("log_likelihood", auc(mean_log_likelihood_R, correct_R), accuracy, None)


def _cross_fitted(name: str, features_RV: Floats, correct_R: Bools, problems_R: Problems) -> BaselineHealth:
    def fit(fit_R: Bools) -> Floats:
        return _ridge(features_RV[fit_R], correct_R[fit_R])(features_RV)

    return _cross_measured(name, fit, correct_R, problems_R)


def _cross_measured(
    name: str, scores_fitted_on: Callable[[Bools], Floats], correct_R: Bools, problems_R: Problems
) -> BaselineHealth:
    """Measure the scores that a fit on one half of the problems gives to the other half."""
    areas, accuracies, briers = [], [], []
    for fit_R, test_R in _halves(problems_R):
        scores = scores_fitted_on(fit_R)[test_R]
        areas.append(auc(scores, correct_R[test_R]))
        accuracies.append(pair_accuracy(scores, correct_R[test_R], _chosen(problems_R, test_R)))
        briers.append(brier(np.clip(scores, 0.0, 1.0), correct_R[test_R]))
    return BaselineHealth(name, _average(areas), _average(accuracies), _average(briers))


def _halves(problems_R: Problems) -> list[tuple[Bools, Bools]]:
    """Split by problem, every other one in order of name: (fit, test) and the reverse; nothing for one problem."""
    ordered = sorted(set(problems_R), key=str)
    if len(ordered) < 2:
        return []
    first = set(ordered[::2])
    in_first_R = np.array([problem in first for problem in problems_R], dtype=np.bool_)
    return [(in_first_R, ~in_first_R), (~in_first_R, in_first_R)]


def _ridge(features_RV: Floats, correct_R: Bools) -> Callable[[Floats], Floats]:
    """Fit correctness by ridge regression, in whichever of its two forms has the smaller system.

    The penalty is the mean squared norm of the centred features, the weight of one response: it only has to make the
    solution unique and tame rare tokens, so it is not searched for.
    """
    centre_V, base_rate = features_RV.mean(axis=0), float(correct_R.mean())
    centred_RV, residual_R = features_RV - centre_V, correct_R - base_rate
    penalty = float(np.mean(np.sum(centred_RV**2, axis=1))) + 1e-12
    num_responses, num_features = centred_RV.shape
    if num_features <= num_responses:
        gram_VV = centred_RV.T @ centred_RV + penalty * np.eye(num_features)
        weights_V = np.linalg.solve(gram_VV, centred_RV.T @ residual_R)
    else:
        kernel_RR = centred_RV @ centred_RV.T + penalty * np.eye(num_responses)
        weights_V = centred_RV.T @ np.linalg.solve(kernel_RR, residual_R)
    return lambda new_RV: np.asarray((new_RV - centre_V) @ weights_V + base_rate)


def _chosen(problems_R: Problems, mask_R: Bools) -> list[str | int]:
    return [problem for problem, chosen in zip(problems_R, mask_R, strict=True) if chosen]


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
