"""A gate that is passed says what the critic does not beat."""

import pytest

from wmtp_ray.objective.baseline_standing import baseline_standings, gate_words, standing_words

LABELS = {
    "length": "length",
    "position": "position",
    "problem_base_rate": "problem base rate",
    "token_identity": "token identity",
    "log_likelihood": "the policy's own log-likelihood",
}


def metrics_of(pairs: float, auc: float, **baselines: tuple[float, float]) -> dict[str, float]:
    metrics = {"critic/pair_accuracy": pairs, "critic/auc_mean": auc, "critic/auc_states": auc}
    for name, (their_pairs, their_auc) in baselines.items():
        metrics |= {
            f"critic/baseline_{name}_pair_accuracy": their_pairs,
            f"critic/baseline_{name}_auc": their_auc,
        }
    return metrics


@pytest.mark.parametrize("name", LABELS)
def test_each_mandatory_baseline_that_is_not_beaten_is_named_with_the_numbers_though_the_gate_is_passed(
    name: str,
) -> None:
    below = dict.fromkeys(LABELS, (0.5, 0.5)) | {name: (0.735, 0.657)}
    words = gate_words([], metrics_of(0.6, 0.552, **below))
    assert words.startswith("The critic passes the gate")
    lost, _, beaten = words.partition("It beats: ")
    numbers = "(pair accuracy 0.600 against 0.735, AUC 0.552 against 0.657)"
    assert f"It does not beat: {LABELS[name]} {numbers}." in lost
    assert all(label in beaten for other, label in LABELS.items() if other != name)


def test_a_tie_is_not_beaten() -> None:
    (length, *_) = baseline_standings(metrics_of(0.6, 0.6, length=(0.6, 0.5)))
    assert [each.name for each in length.lost] == ["pair accuracy"]


def test_what_nobody_measured_is_neither_beaten_nor_lost_but_named() -> None:
    words = standing_words(metrics_of(0.6, 0.6, length=(0.5, 0.5)))
    assert words[0].startswith("It beats: length (")
    assert words[1].startswith("Not measured: position, problem base rate, token identity, the policy's own")


def test_a_gate_that_is_failed_gives_the_reasons_and_the_standing() -> None:
    words = gate_words(["AUC is 0.4, below 0.5"], metrics_of(0.4, 0.4, length=(0.5, 0.5)))
    assert words.startswith("The critic fails the gate: AUC is 0.4, below 0.5. It does not beat: length (")


def test_the_position_stands_beside_the_critic_over_all_states() -> None:
    metrics = metrics_of(0.6, 0.9, position=(0.5, 0.55)) | {"critic/auc_states": 0.53}
    position = next(each for each in baseline_standings(metrics) if each.name == "position")
    assert [each.words for each in position.lost] == ["AUC 0.530 against 0.550"]
