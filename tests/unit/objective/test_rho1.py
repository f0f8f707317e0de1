from fractions import Fraction
from math import ceil, exp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective.rho1 import excess_losses, excess_weights, keep_top, num_kept

from .document_layouts import few_examples


@pytest.mark.parametrize(
    ("num_pairs", "ratio", "expected"),
    [(5, 0.6, 3), (100, 0.07, 7), (10, 0.7, 7), (7, 0.6, 5), (1, 0.01, 1), (9, 1.0, 9), (0, 0.6, 0)],
)
def test_kept_count_is_the_exact_ceiling(num_pairs: int, ratio: float, expected: int) -> None:
    assert num_kept(num_pairs, ratio) == expected
    assert int(keep_top(torch.zeros(num_pairs), ratio, torch.arange(num_pairs)).sum()) == expected


@few_examples
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(1, 20), st.randoms(use_true_random=False))
def test_kept_pairs_equal_a_naive_sort_whatever_their_order(excess: list[int], twentieths: int, random: object) -> None:
    count = ceil(Fraction(twentieths, 20) * len(excess))
    order = list(range(len(excess)))
    chosen = set(sorted(order, key=lambda pair: (-excess[pair], pair))[:count])
    random.shuffle(order)  # type: ignore[attr-defined]
    kept = keep_top(torch.tensor([float(excess[pair]) for pair in order]), twentieths / 20, torch.tensor(order))
    assert {pair for pair, keep in zip(order, kept.tolist(), strict=True) if keep} == chosen


@few_examples
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=10), st.floats(0.2, 3))
def test_excess_weights_have_mean_one_and_follow_the_formula(excess: list[float], temperature: float) -> None:
    weights_P = excess_weights(torch.tensor(excess, dtype=torch.float64), temperature, clip_min=0.1, clip_max=5.0)
    raw = [min(max(exp(x / temperature), 0.1), 5.0) for x in excess]
    mean = sum(raw) / len(raw)
    assert weights_P.tolist() == pytest.approx([weight / mean for weight in raw])
    assert float(weights_P.mean()) == pytest.approx(1.0)


def test_excess_is_the_signed_difference_at_the_predicted_token() -> None:
    generator = torch.Generator().manual_seed(0)
    policy_BTH = torch.randn(1, 5, 2, generator=generator).requires_grad_()
    reference_BT = torch.randn(1, 5, generator=generator).requires_grad_()
    ids_BT = torch.tensor([[0, 0, 0, 1, 1]])
    excess_BTH = excess_losses(policy_BTH, reference_BT, ids_BT)
    assert not excess_BTH.requires_grad
    for token in range(5):
        for horizon in (1, 2):
            target = token + horizon
            exists = target < 5 and ids_BT[0, target] == ids_BT[0, token]
            expected = policy_BTH[0, token, horizon - 1] - reference_BT[0, target] if exists else torch.zeros(())
            assert excess_BTH[0, token, horizon - 1].item() == pytest.approx(expected.item())
    assert (excess_BTH < 0).any()
