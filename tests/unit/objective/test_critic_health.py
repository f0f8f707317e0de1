from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wmtp_ray.objective.critic_health import (
    CriticHealth,
    GateThresholds,
    JudgedResponse,
    critic_health,
    gate_failures,
)

THRESHOLDS = GateThresholds(
    min_auc_end=0.53,
    min_pair_accuracy=0.6,
    min_std_within_response=0.005,
    max_auc_early=0.56,
    min_first_difference=0.65,
)
BUG = 77


def make_responses(
    values_of: Callable[[np.random.Generator, np.ndarray, bool], np.ndarray], num_problems: int = 40
) -> list[JudgedResponse]:
    """Minimal pairs of 20 tokens: the incorrect one has the token BUG at a place past the middle."""
    rng = np.random.default_rng(0)
    responses = []
    for problem in range(num_problems):
        tokens = rng.integers(0, 50, 20)
        wrong = tokens.copy()
        wrong[rng.integers(10, 18)] = BUG
        for response_tokens, is_correct in ((tokens, True), (wrong, False)):
            values = values_of(rng, response_tokens, is_correct)
            responses.append(JudgedResponse(f"problem {problem}", is_correct, values, response_tokens))
    return responses


def seeing_values(rng: np.random.Generator, tokens: np.ndarray, is_correct: bool) -> np.ndarray:
    """0.5 with a little noise, and 0.3 lower from the bug on."""
    seen = np.concatenate([[False], np.cumsum(tokens == BUG) > 0])
    return 0.5 + rng.normal(0, 0.01, len(seen)) - 0.3 * seen


def blind_values(rng: np.random.Generator, tokens: np.ndarray, is_correct: bool) -> np.ndarray:
    return np.full(len(tokens) + 1, 0.5)


def leaking_values(rng: np.random.Generator, tokens: np.ndarray, is_correct: bool) -> np.ndarray:
    return np.linspace(0.4, 0.6, len(tokens) + 1) + (0.3 if is_correct else 0.0)


@pytest.fixture(scope="module")
def seeing() -> CriticHealth:
    return critic_health(make_responses(seeing_values), value_clip=0.2)


def test_a_seeing_critic_passes_the_gate_and_is_located(seeing: CriticHealth) -> None:
    metrics = seeing.metrics()
    assert gate_failures(seeing, THRESHOLDS) == []
    assert metrics["critic/auc_100"] == 1.0
    assert 0.3 < metrics["critic/auc_25"] < 0.56
    assert metrics["critic/pair_accuracy"] == metrics["critic/pair_accuracy_length_matched"] == 1.0
    assert metrics["critic/minimal_first_difference_drops"] == 1.0
    assert metrics["critic/minimal_largest_drop_in_edit"] == 1.0
    assert metrics["critic/minimal_largest_drop_in_edit_chance"] == pytest.approx(1 / 19)
    assert metrics["critic/minimal_num_pairs"] == 40
    assert metrics["critic/outside_unit_frac"] == 0.0
    assert 0 < metrics["critic/explained_variance"] <= metrics["critic/explained_variance_ceiling"] < 1


def test_explained_variance_ceiling_is_the_share_of_states_after_the_programs_diverge() -> None:
    """Two responses of 4 tokens that differ from token 1 on: states 0 and 1 know nothing, 2 and 3 everything."""
    values = np.full(5, 0.5)
    responses = [
        JudgedResponse("p", True, values, np.array([1, 2, 3, 9])),
        JudgedResponse("p", False, values, np.array([1, 7, 3, 9])),
    ]
    assert critic_health(responses, value_clip=0.2).explained_variance_ceiling == pytest.approx(0.5)


def test_a_collapsed_critic_fails_by_auc_pairs_and_spread_and_baselines() -> None:
    failures = gate_failures(critic_health(make_responses(blind_values), value_clip=0.2), THRESHOLDS)
    text = "\n".join(failures)
    assert "AUC at the end of the response is 0.500, below 0.530" in text
    assert "within-problem pair accuracy is 0.500, below 0.600" in text
    assert "std of V within a response is 0.000, below 0.005" in text
    assert "not above the length baseline's 0.500" in text
    assert "leakage" not in text


def test_knowing_the_outcome_early_is_leakage() -> None:
    health = critic_health(make_responses(leaking_values), value_clip=0.2)
    assert "AUC at 25 % of the response is 1.000, above 0.560: leakage" in gate_failures(health, THRESHOLDS)


def test_a_critic_that_knows_the_program_and_does_not_see_the_edit_is_blind() -> None:
    """V falls along wrong programs, from the first token on and no faster at the bug."""

    def sinking(rng: np.random.Generator, tokens: np.ndarray, is_correct: bool) -> np.ndarray:
        slope = -0.002 if BUG in tokens else 0.0
        return 0.5 + slope * np.arange(len(tokens) + 1) + rng.normal(0, 0.01, len(tokens) + 1)

    health = critic_health(make_responses(sinking, num_problems=400), value_clip=0.2)
    failures = gate_failures(health, replace(THRESHOLDS, max_auc_early=1.0))
    assert len(failures) == 1
    assert "of 400 minimal pairs where V drops more at the wrong program's first difference is 0." in failures[0]
    assert failures[0].endswith("below 0.650")


def test_too_few_minimal_pairs_are_no_criterion() -> None:
    health = critic_health(make_responses(blind_values, num_problems=29), value_clip=0.2)
    assert health.minimal_pairs.num_pairs == 29
    assert not any("minimal pairs" in failure for failure in gate_failures(health, THRESHOLDS))


def test_a_critic_that_only_reads_the_length_does_not_beat_the_length_baseline() -> None:
    rng = np.random.default_rng(1)
    responses = []
    for problem in range(30):
        for is_correct in (True, False):
            length = int(rng.integers(10, 20)) + (0 if is_correct else 12)
            values = 0.9 - 0.02 * np.arange(length + 1)
            responses.append(JudgedResponse(problem, is_correct, values, rng.integers(0, 50, length)))
    health = critic_health(responses, value_clip=0.2)
    failures = gate_failures(health, THRESHOLDS)
    assert any("not above the length baseline's 1.000" in failure for failure in failures)
    assert health.correlation_length == pytest.approx(-1.0)
    assert health.correlation_position is not None
    assert health.correlation_position == pytest.approx(-1.0)
    assert "critic/pair_accuracy_length_matched" not in health.metrics()


def test_token_identity_baseline_finds_a_token_that_only_wrong_programs_have(seeing: CriticHealth) -> None:
    metrics = seeing.metrics()
    assert metrics["critic/baseline_token_identity_auc"] > 0.9
    assert metrics["critic/baseline_token_identity_pair_accuracy"] > 0.9
    assert metrics["critic/baseline_problem_base_rate_pair_accuracy"] == 0.5
    assert metrics["critic/baseline_length_auc"] == pytest.approx(0.5)
    assert "critic/baseline_position_auc" in metrics
    assert "critic/baseline_log_likelihood_auc" not in metrics


def test_bag_of_tokens_finds_what_only_counts_tell_and_token_identity_does_not() -> None:
    rng = np.random.default_rng(0)
    responses = []
    for problem in range(40):
        for is_correct in (True, False):
            tokens = np.concatenate([rng.integers(0, 20, 12), np.full(1 if is_correct else 4, 30), [99]])
            responses.append(
                JudgedResponse(problem, is_correct, np.full(len(tokens) + 1, 0.5), rng.permutation(tokens))
            )
    metrics = critic_health(responses, value_clip=0.2).metrics()
    assert metrics["critic/baseline_bag_of_tokens_auc"] > 0.9
    assert metrics["critic/baseline_bag_of_tokens_pair_accuracy"] > 0.9
    assert metrics["critic/baseline_token_identity_auc"] < 0.75


def test_a_baseline_that_cannot_be_fitted_is_absent() -> None:
    tokens = np.array([1, 2, 3])
    alike = [JudgedResponse(problem, True, np.full(4, 0.5), tokens) for problem in ("a", "b")]
    assert "critic/baseline_bag_of_tokens_auc" not in critic_health(alike, value_clip=0.2).metrics()


def test_log_likelihood_is_a_baseline_when_every_response_has_it() -> None:
    responses = [
        replace(response, log_likelihoods=np.where(response.tokens == BUG, -9.0, -1.0))
        for response in make_responses(blind_values)
    ]
    metrics = critic_health(responses, value_clip=0.2).metrics()
    assert metrics["critic/baseline_log_likelihood_auc"] == 1.0
    assert metrics["critic/baseline_log_likelihood_pair_accuracy"] == 1.0


def test_problem_base_rate_explains_what_lies_between_problems() -> None:
    values = np.array([0.5, 0.6, 0.7])
    responses = [
        JudgedResponse(problem, is_correct, values, np.array([1, 2]))
        for problem, outcomes in (("easy", (True, True, True, False)), ("hard", (True, False, False, False)))
        for is_correct in outcomes
    ]
    health = critic_health(responses, value_clip=0.2)
    assert health.explained_variance_problem == pytest.approx(0.25)
    base_rate = {baseline.name: baseline for baseline in health.baselines}["problem_base_rate"]
    assert base_rate.auc == pytest.approx(0.75)
    assert base_rate.brier == pytest.approx(0.1875)


def test_what_one_class_cannot_give_is_absent_and_fails_the_gate() -> None:
    responses = [response for response in make_responses(seeing_values) if response.is_correct]
    health = critic_health(responses, value_clip=0.2)
    metrics = health.metrics()
    assert not any(np.isnan(value) for value in metrics.values())
    for absent in ("auc_100", "pair_accuracy", "explained_variance", "minimal_first_difference_drops"):
        assert f"critic/{absent}" not in metrics
    assert metrics["critic/minimal_num_pairs"] == 0
    failures = gate_failures(health, THRESHOLDS)
    assert sum("could not be measured" in failure for failure in failures) == 2


def test_a_single_one_token_response_can_be_measured() -> None:
    health = critic_health([JudgedResponse(7, True, np.array([0.4, 9.0]), np.array([2]))], value_clip=0.2)
    assert health.metrics()["critic/brier_100"] == pytest.approx(0.36)
    assert health.outside_unit_frac == 0.0
    assert health.std_within_response is None


@pytest.mark.parametrize(("percent", "state"), [(25, 2), (50, 4), (75, 6), (100, 8)])
def test_percentages_read_the_states_that_are_trained(percent: int, state: int) -> None:
    """9 tokens make 9 trained states; only the named state tells the two responses apart."""
    tokens = np.arange(9)
    responses = []
    for is_correct in (True, False):
        values = np.full(10, 0.5)
        values[state] = 0.9 if is_correct else 0.1
        responses.append(JudgedResponse("p", is_correct, values, tokens))
    health = critic_health(responses, value_clip=0.2)
    assert {p: area for p, area in health.auc_at.items() if area == 1.0} == {percent: 1.0}
    assert health.brier_at[percent] == pytest.approx(0.01)
    assert health.auc_after_end == 0.5


def test_drift_from_the_anchor_ignores_the_untrained_end() -> None:
    anchor = np.array([0.5, 0.5, 0.5, 0.5])
    values = np.array([0.5, 0.6, 0.9, 50.0])
    response = JudgedResponse("p", True, values, np.arange(3), anchor_values=anchor)
    health = critic_health([response], value_clip=0.2)
    assert health.anchor_distance == pytest.approx(0.5 / 3)
    assert health.value_clip_frac == pytest.approx(1 / 3)


def test_the_disagreement_of_an_ensemble_is_its_mean_over_the_states_that_are_trained() -> None:
    """Two responses of one and two tokens: (.1) and (.2, .3); what stands after the last token does not count."""
    values = np.array([0.4, 0.5, 0.6])
    responses = [
        JudgedResponse("p", True, values[:2], np.array([1]), disagreements=np.array([0.1, 9.0])),
        JudgedResponse("p", False, values, np.array([1, 2]), disagreements=np.array([0.2, 0.3, 9.0])),
    ]
    health = critic_health(responses, value_clip=0.2)
    assert health.metrics()["critic/disagreement"] == pytest.approx(0.2)
    alone = critic_health([replace(each, disagreements=None) for each in responses], value_clip=0.2)
    assert "critic/disagreement" not in alone.metrics()


def test_values_that_do_not_match_the_tokens_are_refused() -> None:
    with pytest.raises(AssertionError, match="one per token"):
        JudgedResponse("p", True, np.zeros(3), np.zeros(3, dtype=np.int64))
