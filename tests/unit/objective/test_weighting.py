import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective import weighting
from wmtp_ray.objective.horizon import at_horizons, supervised_pairs
from wmtp_ray.objective.td import horizon_td_errors, td_errors

from .document_layouts import LAYOUTS, Document, documents_lists, few_examples, lay_out


def seeds_of(documents: list[Document]) -> torch.Tensor:
    return torch.tensor([-(2**62) + 977 * number for number in range(len(documents))])


@few_examples
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), st.floats(0.05, 2))
def test_weights_equal_the_formula(errors: list[float], beta: float) -> None:
    errors_BT = torch.tensor([errors], dtype=torch.float64)
    mask_BT = torch.arange(len(errors)).unsqueeze(0) % 2 == 0
    weights_BT = weighting.td_token_weights(errors_BT, mask_BT, beta=beta, clip_min=0.2, clip_max=3.0)
    for token, error in enumerate(errors):
        expected = min(max(math.exp(error / beta), 0.2), 3.0) if token % 2 == 0 else 0.0
        assert float(weights_BT[0, token]) == pytest.approx(expected)


def test_defaults_are_those_of_the_design() -> None:
    errors_BT = torch.tensor([[0.45, 1000.0, -1000.0]])
    weights_BT = weighting.td_token_weights(errors_BT, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(weights_BT, torch.tensor([[math.exp(0.5), 5.0, 0.1]]))


def test_no_gradient_reaches_the_values_through_a_weight() -> None:
    values_BT = torch.rand(1, 5, requires_grad=True)
    mask_BT = torch.tensor([[False, True, True, True, True]])
    errors_BT = td_errors(values_BT, torch.tensor([1.0]), mask_BT)
    assert errors_BT.requires_grad
    assert not weighting.td_token_weights(errors_BT, mask_BT).requires_grad
    assert not weighting.sequence_reward_advantages(values_BT, torch.tensor([1.0]), mask_BT).requires_grad


def test_a_sequence_weight_does_not_depend_on_the_horizon_it_is_predicted_from() -> None:
    values_BT = torch.rand(1, 7)
    mask_BT = torch.arange(7).unsqueeze(0) >= 2
    weights_BT = weighting.td_token_weights(td_errors(values_BT, torch.tensor([0.0]), mask_BT), mask_BT)
    weights_BTH, _ = at_horizons(weights_BT, 3)
    for token in range(3, 7):
        assert {float(weights_BTH[0, token - k, k - 1]) for k in (1, 2, 3)} == {float(weights_BT[0, token])}


def test_pair_weights_of_the_horizon_reading_are_zero_exactly_off_the_supervised_pairs() -> None:
    mask_BT = torch.arange(7).unsqueeze(0) >= 2
    errors_BTH = horizon_td_errors(torch.rand(1, 7), torch.tensor([0.0]), mask_BT, 3)
    pairs_BTH = supervised_pairs(mask_BT, 3)
    weights_BTH = weighting.td_token_weights(errors_BTH, pairs_BTH)
    assert torch.equal(weights_BTH > 0, pairs_BTH)


def test_terminal_tokens_can_be_left_unweighted() -> None:
    last_BT = torch.tensor([[False, False, True]])
    assert weighting.without_terminal(torch.tensor([[0.0, 2.0, 3.0]]), last_BT).tolist() == [[0.0, 2.0, 1.0]]


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS))
def test_sequence_reward_gives_every_supervised_token_reward_minus_prompt_value(
    documents: list[Document], kind: str
) -> None:
    layout = lay_out(documents, kind)
    advantages_BT = weighting.sequence_reward_advantages(
        layout.values_BT, layout.rewards_M, layout.supervised_mask_BT, document_ids_BT=layout.document_ids_BT
    )
    for document, advantages in zip(documents, layout.per_document(advantages_BT), strict=True):
        advantage = document.reward - document.values[document.prompt - 1]
        assert advantages.tolist() == [advantage if supervised else 0.0 for supervised in document.supervised]


@few_examples
@given(documents_lists())
def test_shuffle_stays_within_the_response_and_is_the_same_in_every_layout(documents: list[Document]) -> None:
    results = []
    for kind in LAYOUTS:
        layout = lay_out(documents, kind)
        weights_BT = torch.where(layout.supervised_mask_BT, layout.values_BT, 0.0)
        shuffled_BT = weighting.shuffled_within_documents(
            weights_BT, layout.supervised_mask_BT, layout.document_ids_BT, seeds_of(documents)
        )
        assert not shuffled_BT[~layout.supervised_mask_BT].any()
        pieces = [piece.tolist() for piece in layout.per_document(shuffled_BT)]
        for document, piece in zip(documents, pieces, strict=True):
            assert sorted(piece[document.prompt :]) == sorted(document.values[document.prompt :])
        results.append(pieces)
    assert all(result == results[0] for result in results)


def test_shuffle_moves_weights_and_another_seed_moves_them_otherwise() -> None:
    weights_BT = torch.arange(1.0, 33.0).repeat(2, 1)
    mask_BT = torch.ones(2, 32, dtype=torch.bool)
    shuffled_BT = weighting.shuffled_within_documents(weights_BT, mask_BT, None, torch.tensor([3, 4]))
    assert not torch.equal(shuffled_BT[0], weights_BT[0])
    assert not torch.equal(shuffled_BT[0], shuffled_BT[1])
    assert torch.equal(weights_BT[0], torch.arange(1.0, 33.0))


@few_examples
@given(documents_lists())
def test_random_weights_are_the_same_in_every_layout(documents: list[Document]) -> None:
    results = []
    for kind in LAYOUTS:
        layout = lay_out(documents, kind)
        drawn_BT = weighting.matched_random(
            1.1, 0.3, layout.supervised_mask_BT, layout.document_ids_BT, seeds_of(documents)
        )
        assert torch.equal(drawn_BT > 0, layout.supervised_mask_BT)
        results.append([piece.tolist() for piece in layout.per_document(drawn_BT)])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(("mean", "std"), [(1.02, 0.05), (1.27, 0.8), (0.5, 1.0)])
def test_random_weights_have_the_wanted_mean_and_std(mean: float, std: float) -> None:
    mask_BT = torch.ones(20, 5000, dtype=torch.bool)
    drawn = weighting.matched_random(mean, std, mask_BT, None, torch.arange(20)).double()
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.03)
    assert float(drawn.std()) == pytest.approx(std, rel=0.03)
    assert float(drawn.min()) > 0


def test_random_weights_without_spread_are_the_mean() -> None:
    mask_BT = torch.tensor([[False, True, True]])
    drawn_BT = weighting.matched_random(1.5, 0.0, mask_BT, None, torch.tensor([1]))
    assert drawn_BT.tolist() == [[0.0, 1.5, 1.5]]


@few_examples
@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_moments_add_over_shards(shards: list[list[float]]) -> None:
    everything = torch.tensor([x for shard in shards for x in shard], dtype=torch.float64)
    total = torch.zeros(3, dtype=torch.float64)
    added = weighting.Moments(0.0, 0.0, 0.0)
    for shard in shards:
        padded = torch.tensor([*shard, 99.0], dtype=torch.float64)
        mask = torch.tensor([True] * len(shard) + [False])
        moments = weighting.Moments.from_masked(padded, mask)
        total += moments.to_tensor()
        added = added + moments
    assert weighting.Moments.from_tensor(total) == added
    assert added.mean == pytest.approx(float(everything.mean()))
    assert added.std == pytest.approx(float(everything.std(correction=0)), abs=1e-7)


def test_whitened_tokens_have_mean_zero_and_std_one() -> None:
    x_BT = torch.randn(3, 40, dtype=torch.float64) * 7 + 5
    mask_BT = torch.rand(3, 40) < 0.6
    white_BT = weighting.whiten(x_BT, mask_BT, weighting.Moments.from_masked(x_BT, mask_BT), eps=1e-8)
    assert float(white_BT[mask_BT].mean()) == pytest.approx(0, abs=1e-9)
    assert float(white_BT[mask_BT].std(correction=0)) == pytest.approx(1)
    assert not white_BT[~mask_BT].any()


def test_running_moments_start_unbiased_and_follow_the_recurrence() -> None:
    ema = weighting.EmaMoments(decay=0.9)
    first = ema.update(weighting.Moments(4.0, 8.0, 20.0))
    assert (first.mean, first.std) == (pytest.approx(2.0), pytest.approx(1.0))
    second = ema.update(weighting.Moments(2.0, 2.0, 10.0))
    weights = (0.1 * 0.9, 0.1)
    assert second.mean == pytest.approx((weights[0] * 2 + weights[1] * 1) / sum(weights))
    mean_square = (weights[0] * 5 + weights[1] * 5) / sum(weights)
    assert second.std == pytest.approx(math.sqrt(mean_square - second.mean**2))


def test_running_moments_continue_from_their_state() -> None:
    one, other = weighting.EmaMoments(0.8), weighting.EmaMoments(0.8)
    one.update(weighting.Moments(3.0, 1.0, 2.0))
    other.load_state_dict(one.state_dict())
    following = weighting.Moments(5.0, -2.0, 9.0)
    assert other.update(following) == one.update(following)


def naive_statistics(weights: list[float], terminal: list[bool]) -> dict[str, float]:
    def mean_std(prefix: str, values: list[float]) -> dict[str, float]:
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        return {f"weight/{prefix}mean": mean, f"weight/{prefix}std": math.sqrt(variance)}

    of_terminal = [weight for weight, last in zip(weights, terminal, strict=True) if last]
    others = [weight for weight, last in zip(weights, terminal, strict=True) if not last]
    return {
        **mean_std("", weights),
        **mean_std("terminal_", of_terminal),
        **mean_std("other_", others),
        "weight/ess_frac": sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights)),
        "weight/clip_min_frac": sum(weight <= 0.1001 for weight in weights) / len(weights),
        "weight/clip_max_frac": sum(weight >= 4.9999 for weight in weights) / len(weights),
        "weight/dropped_frac": sum(weight == 0 for weight in weights) / len(weights),
        "weight/terminal_share": sum(abs(w - 1) for w in of_terminal) / sum(abs(w - 1) for w in weights),
        **naive_distribution(weights),
    }


def naive_distribution(weights: list[float]) -> dict[str, float]:
    edges = (0.25, 0.5, 0.8, 0.95, 1.05, 1.25, 2.0, 4.0)
    return {f"weight/below_{edge:g}_frac": sum(weight < edge for weight in weights) / len(weights) for edge in edges}


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 2)])
def test_weight_statistics_of_summed_shards_equal_a_naive_loop(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    errors = torch.randn(shape, generator=generator) * 2
    mask = torch.rand(shape, generator=generator) < 0.8
    terminal = torch.rand(shape, generator=generator) < 0.3
    weights = torch.where(errors < -3.0, 0.0, weighting.td_token_weights(errors, mask))
    shards = [
        weighting.weight_sums(weights[rows], mask[rows], terminal[rows], clip_min=0.1, clip_max=5.0)
        for rows in (slice(0, 1), slice(1, None))
    ]
    expected = naive_statistics(weights[mask].tolist(), terminal[mask].tolist())
    assert expected["weight/clip_min_frac"] > 0
    assert expected["weight/clip_max_frac"] > 0
    assert expected["weight/dropped_frac"] > 0
    assert weighting.weight_statistics(shards[0] + shards[1]) == pytest.approx(expected, rel=1e-6)


def test_uniform_weights_are_fully_effective_and_name_no_terminal_share() -> None:
    mask = torch.tensor([[True, True, True, False]])
    sums = weighting.weight_sums(mask.float(), mask, torch.zeros_like(mask), clip_min=0.1, clip_max=5.0)
    metrics = weighting.weight_statistics(sums)
    assert metrics["weight/ess_frac"] == 1.0
    assert metrics["weight/std"] == 0.0
    assert (metrics["weight/below_0.95_frac"], metrics["weight/below_1.05_frac"]) == (0.0, 1.0)
    assert "weight/terminal_share" not in metrics
    assert "weight/terminal_mean" not in metrics
