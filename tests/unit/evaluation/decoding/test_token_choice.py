import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.evaluation.decoding.token_choice import Nucleus, chooser, greedy, request_seed, uniforms


def naive_draw(logits: list[float], number: float, temperature: float, top_p: float) -> int:
    """Rank all tokens, keep those up to the one that crosses `top_p`, walk until the number is passed."""
    weights = np.exp((np.array(logits) - max(logits)) / temperature)
    shares = weights / weights.sum()
    kept, mass = [], 0.0
    for token in sorted(range(len(logits)), key=lambda token: (-shares[token], token)):
        kept.append(token)
        mass += shares[token]
        if mass >= top_p:
            break
    passed = 0.0
    for token in kept:
        passed += shares[token]
        if number * mass < passed:
            return token
    return kept[-1]


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.integers(-4, 4), min_size=1, max_size=90),
    number=st.floats(0.001, 0.999),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_p=st.sampled_from([0.123, 0.777, 0.951, 1.0]),
)
def test_a_draw_is_that_of_a_walk_over_the_ranked_tokens(
    logits: list[int], number: float, temperature: float, top_p: float
) -> None:
    """Few distinct logits, so most tokens tie; up to 90 of them, so that some draws need more than the top ones."""
    logits_RV = torch.tensor([logits], dtype=torch.float32)
    found = Nucleus(temperature, top_p)(logits_RV, torch.tensor([number], dtype=torch.float64))
    assert int(found) == naive_draw([float(logit) for logit in logits], number, temperature, top_p)


def test_draws_far_down_a_flat_vocabulary_are_exact() -> None:
    """Only some rows of a batch need the whole ranking; each of 500 equal tokens has its own interval."""
    numbers_R = torch.tensor([0.0, 0.1001, 0.5001, 0.9999], dtype=torch.float64)
    assert Nucleus(1.0, 1.0)(torch.zeros(4, 500), numbers_R).tolist() == [0, 50, 250, 499]
    peaked_RV = torch.zeros(4, 500)
    peaked_RV[2, 7] = 20.0
    assert Nucleus(1.0, 0.5)(peaked_RV, numbers_R).tolist() == [0, 25, 7, 249]


def test_the_token_that_crosses_top_p_belongs_to_the_nucleus() -> None:
    logits_RV = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log().expand(3, -1)
    numbers_R = torch.tensor([0.0, 0.57, 0.58], dtype=torch.float64)
    assert Nucleus(1.0, 0.6)(logits_RV, numbers_R).tolist() == [1, 1, 3]
    assert Nucleus(1.0, 0.39)(logits_RV, numbers_R).tolist() == [1, 1, 1]


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_the_extreme_numbers_stay_in_the_nucleus(number: float, top_p: float) -> None:
    logits_RV = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    tokens_R = Nucleus(0.7, top_p)(logits_RV, torch.full((50,), number, dtype=torch.float64))
    ranks = logits_RV.argsort(dim=-1, descending=True).argsort(dim=-1).gather(-1, tokens_R[:, None])
    if number == 0.0:
        assert ranks.eq(0).all()
    else:
        assert ranks.eq(299).all() == (top_p == 1.0)
        assert ranks.gt(0).all()


def test_greedy_takes_the_lowest_index_of_equals() -> None:
    logits_RV = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert greedy(logits_RV, torch.zeros(2)).tolist() == [1, 0]
    assert chooser(0.0, 0.5) is greedy


def test_the_number_of_a_position_depends_on_no_other_position() -> None:
    many = uniforms(11, 100)
    assert np.array_equal(uniforms(11, 7), many[:7])
    assert not np.array_equal(uniforms(12, 100), many)
    assert ((many >= 0) & (many < 1)).all()
    assert abs(uniforms(11, 20_000).mean() - 0.5) < 0.01


def test_seeds_are_the_same_everywhere_and_differ_between_requests() -> None:
    assert request_seed(1, "HumanEval/0", 2) == 6911981104178558880
    names = [(seed, problem, sample) for seed in range(3) for problem in ("a", "a1", "b") for sample in range(12)]
    seeds = {request_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
