from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wmtp_ray.objective.fused import fused_mtp_loss, fused_signed_loss, token_cross_entropies

from .document_layouts import few_examples

TINY_BUFFER = 3 * 11 * 4  # three rows of a vocabulary of 11


def make_batch(
    num_horizons: int = 3, num_rows: int = 7, width: int = 5, vocabulary: int = 11, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden_HND = torch.randn(num_horizons, num_rows, width, generator=generator, dtype=torch.float64)
    weight_VD = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    targets_HN = torch.randint(vocabulary, (num_horizons, num_rows), generator=generator)
    weights_HN = torch.rand(num_horizons, num_rows, generator=generator) * 3
    weights_HN[torch.rand(num_horizons, num_rows, generator=generator) < 0.3] = 0.0
    return hidden_HND, weight_VD, targets_HN, weights_HN, torch.rand(num_horizons, generator=generator) * 5 + 2


def naive_loss(
    hidden_HND: Tensor,
    weight_VD: Tensor,
    targets_HN: Tensor,
    weights_HN: Tensor,
    denominators_H: Tensor,
    coefs_H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All logits at once, in plain float64 operations."""
    loss, unweighted = hidden_HND.new_zeros(()), []
    for horizon in range(len(hidden_HND)):
        losses_N = F.cross_entropy(hidden_HND[horizon] @ weight_VD.T, targets_HN[horizon], reduction="none")
        coef = 1.0 if coefs_H is None else coefs_H[horizon]
        loss = loss + coef * (weights_HN[horizon] * losses_N).sum() / denominators_H[horizon] / len(hidden_HND)
        unweighted.append((losses_N * (weights_HN[horizon] != 0)).sum() / denominators_H[horizon])
    return loss, torch.stack(unweighted).detach()


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@few_examples
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(2, 20), st.integers(0, 10**6), st.sampled_from([1, 200, 10**6])
)
def test_loss_and_gradients_equal_naive_float64(
    num_horizons: int, num_rows: int, vocabulary: int, seed: int, max_logits_bytes: int
) -> None:
    hidden_HND, weight_VD, *rest = make_batch(num_horizons, num_rows, 5, vocabulary, seed)
    coefs_H = torch.linspace(0.5, 2.0, num_horizons, dtype=torch.float64)
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    loss, losses_H = fused_mtp_loss(*inputs, *rest, horizon_coefs_H=coefs_H, max_logits_bytes=max_logits_bytes)
    expected, expected_H = naive_loss(*inputs, *rest, coefs_H)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses_H, expected_H)
    assert not losses_H.requires_grad
    for found, wanted in zip(gradients(loss * 3, *inputs), gradients(expected * 3, *inputs), strict=True):
        torch.testing.assert_close(found, wanted)


@few_examples
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([1, 200, 10**6]))
def test_weights_of_either_sign_equal_naive_float64(
    num_horizons: int, num_rows: int, seed: int, max_logits_bytes: int
) -> None:
    hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H = make_batch(num_horizons, num_rows, seed=seed)
    weights_HN = weights_HN - 1.0
    rest = (targets_HN, weights_HN, denominators_H)
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    loss, losses_H = fused_mtp_loss(*inputs, *rest, max_logits_bytes=max_logits_bytes)
    expected, expected_H = naive_loss(*inputs, *rest)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses_H, expected_H)
    for found, wanted in zip(gradients(loss, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(found, wanted)


def naive_signed_loss(
    hidden_HND: Tensor, weight_VD: Tensor, targets_HN: Tensor, sizes_HN: Tensor, is_pushed_HN: Tensor, *rest: Tensor
) -> Tensor:
    """The mean over horizons of sum(|w| p where pushed, else |w| CE) / denominator, by autograd."""
    (denominators_H, coefs_H), loss = rest, hidden_HND.new_zeros(())
    for horizon in range(len(hidden_HND)):
        losses_N = F.cross_entropy(hidden_HND[horizon] @ weight_VD.T, targets_HN[horizon], reduction="none")
        terms_N = sizes_HN[horizon] * torch.where(is_pushed_HN[horizon], torch.exp(-losses_N), losses_N)
        loss = loss + coefs_H[horizon] * terms_N.sum() / denominators_H[horizon] / len(hidden_HND)
    return loss


@few_examples
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([1, 10**6]))
def test_a_pushed_row_has_value_and_gradient_of_its_bounded_objective(
    num_horizons: int, num_rows: int, seed: int, max_logits_bytes: int
) -> None:
    """|w| p is minimised: its gradient by autograd is the fused gradient of the weight -|w| p."""
    hidden_HND, weight_VD, targets_HN, sizes_HN, denominators_H = make_batch(num_horizons, num_rows, seed=seed)
    coefs_H = torch.linspace(0.5, 2.0, num_horizons, dtype=torch.float64)
    is_pushed_HN = torch.rand(sizes_HN.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    expected = naive_signed_loss(*inputs, targets_HN, sizes_HN, is_pushed_HN, denominators_H, coefs_H)
    with torch.no_grad():
        logits_HNV = hidden_HND @ weight_VD.T
        p_HN = logits_HNV.softmax(dim=-1).gather(-1, targets_HN.unsqueeze(-1)).squeeze(-1)
    weights_HN = torch.where(is_pushed_HN, -sizes_HN * p_HN, sizes_HN.double())
    loss, losses_H = fused_signed_loss(
        *inputs,
        targets_HN,
        weights_HN,
        denominators_H,
        horizon_coefs_H=coefs_H,
        max_logits_bytes=max_logits_bytes,
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses_H, naive_loss(*inputs, targets_HN, weights_HN, denominators_H)[1])
    for found, wanted in zip(gradients(loss * 3, *inputs), gradients(expected * 3, *inputs), strict=True):
        torch.testing.assert_close(found, wanted)


def test_without_a_negative_weight_the_signed_loss_is_the_plain_one_bit_by_bit() -> None:
    hidden_HND, weight_VD, *rest = make_batch()
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    plain, signed = (each(*inputs, *rest) for each in (fused_mtp_loss, fused_signed_loss))
    assert torch.equal(plain[0], signed[0])
    assert torch.equal(plain[1], signed[1])
    for found, wanted in zip(gradients(signed[0], *inputs), gradients(plain[0], *inputs), strict=True):
        assert torch.equal(found, wanted)


def test_the_push_of_an_improbable_target_fades_and_stays_finite() -> None:
    """p is 0 in float32 and CE 200: a push of weight -0 is no push, one of a p of e^-80 has a value of e^-80."""
    weight_VD = torch.tensor([[1.0], [-1.0]])
    for half_gap, p in ((100.0, 0.0), (40.0, 1.8048514e-35)):
        hidden_HND = torch.tensor([[[half_gap]]], requires_grad=True)
        loss, _ = fused_signed_loss(hidden_HND, weight_VD, torch.tensor([[1]]), torch.tensor([[-p]]), torch.ones(1))
        assert loss.item() == pytest.approx(p, rel=1e-4, abs=0.0)
        assert float(gradients(loss, hidden_HND)[0]) == pytest.approx(-2 * p, rel=1e-4, abs=0.0)


def test_gradient_equals_finite_differences() -> None:
    hidden_HND, weight_VD, *rest = make_batch(2, 3)
    (gradient_HND,) = gradients(fused_mtp_loss(hidden_HND.requires_grad_(), weight_VD, *rest)[0], hidden_HND)
    for index in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        step = torch.zeros_like(hidden_HND)
        step[index] = 1e-6
        with torch.no_grad():
            above, below = (fused_mtp_loss(hidden_HND + sign * step, weight_VD, *rest)[0] for sign in (1, -1))
        assert float(gradient_HND[index]) == pytest.approx(float((above - below) / 2e-6), abs=1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    hidden_HND, weight_VD, *rest = make_batch(3, 40, 16, 33)
    low = [x.to(dtype).requires_grad_() for x in (hidden_HND, weight_VD)]
    exact = [x.detach().double().requires_grad_() for x in low]
    loss, losses_H = fused_mtp_loss(*low, *rest, max_logits_bytes=33 * 4 * 7)
    expected, _ = naive_loss(*exact, *rest)
    assert loss.dtype == losses_H.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    for found, wanted in zip(gradients(loss, *low), gradients(expected, *exact), strict=True):
        assert found.dtype == dtype
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * scale)


def test_global_denominators_make_loss_and_gradient_independent_of_the_split() -> None:
    hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H = make_batch(3, 12)
    results = []
    for bounds in ([0, 12], [0, 5, 12], [0, 1, 2, 7, 12]):
        leaves = [hidden_HND.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
        totals = []
        for start, stop in pairwise(bounds):
            rows = slice(start, stop)
            loss, losses_H = fused_mtp_loss(
                leaves[0][:, rows],
                leaves[1],
                targets_HN[:, rows],
                weights_HN[:, rows],
                denominators_H,
                max_logits_bytes=TINY_BUFFER,
            )
            loss.backward()
            totals.append(torch.cat([loss.detach().view(1), losses_H]))
        results.append((sum(totals), leaves[0].grad, leaves[1].grad))
    for result in results[1:]:
        for found, wanted in zip(result, results[0], strict=True):
            torch.testing.assert_close(found, wanted)


def test_dropped_rows_are_never_read() -> None:
    hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H = make_batch()
    dropped_HN = weights_HN == 0
    assert dropped_HN.any()
    clean, _ = fused_mtp_loss(hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H)
    hidden_HND = torch.where(dropped_HN.unsqueeze(-1), torch.nan, hidden_HND).requires_grad_()
    targets_HN = torch.where(dropped_HN, -100, targets_HN)
    loss, losses_H = fused_mtp_loss(hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H)
    torch.testing.assert_close(loss, clean)
    assert losses_H.isfinite().all()
    (gradient_HND,) = gradients(loss, hidden_HND)
    assert not gradient_HND[dropped_HN].any()
    assert gradient_HND[~dropped_HN].all()


def test_without_kept_rows_the_loss_and_gradients_are_zero() -> None:
    hidden_HND, weight_VD, targets_HN, weights_HN, _ = make_batch()
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    loss, losses_H = fused_mtp_loss(*inputs, targets_HN, torch.zeros_like(weights_HN), torch.zeros(3))
    assert loss.item() == 0.0
    assert losses_H.tolist() == [0.0, 0.0, 0.0]
    for gradient in gradients(loss, *inputs):
        assert not gradient.any()


def test_a_horizon_without_pairs_anywhere_adds_nothing() -> None:
    hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H = make_batch()
    weights_HN[2], denominators_H[2] = 0.0, 0.0
    loss, losses_H = fused_mtp_loss(hidden_HND, weight_VD, targets_HN, weights_HN, denominators_H)
    first_two, _ = naive_loss(hidden_HND[:2], weight_VD, targets_HN[:2], weights_HN[:2], denominators_H[:2])
    torch.testing.assert_close(loss, first_two * 2 / 3)
    assert float(losses_H[2]) == 0.0


@pytest.mark.parametrize("wanted", ["hidden", "weight"])
def test_either_gradient_can_be_wanted_alone(wanted: str) -> None:
    hidden_HND, weight_VD, *rest = make_batch()
    leaf = (hidden_HND if wanted == "hidden" else weight_VD).requires_grad_()
    (found,) = gradients(fused_mtp_loss(hidden_HND, weight_VD, *rest)[0], leaf)
    (expected,) = gradients(naive_loss(hidden_HND, weight_VD, *rest)[0], leaf)
    torch.testing.assert_close(found, expected)


def test_under_no_grad_the_numbers_are_the_same_and_nothing_is_kept() -> None:
    hidden_HND, weight_VD, *rest = make_batch()
    inputs = (hidden_HND.requires_grad_(), weight_VD.requires_grad_())
    with torch.no_grad():
        loss, losses_H = fused_mtp_loss(*inputs, *rest)
    expected, expected_H = naive_loss(*inputs, *rest)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(losses_H, expected_H)


def test_gradients_reach_earlier_layers_and_leave_no_copy() -> None:
    hidden_HND, weight_VD, *rest = make_batch()
    layer = torch.nn.Linear(5, 5, dtype=torch.float64)
    fused_mtp_loss(layer(hidden_HND), weight_VD, *rest)[0].backward()
    found = layer.weight.grad
    layer.weight.grad = None
    naive_loss(layer(hidden_HND), weight_VD, *rest)[0].backward()
    assert found is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(found, layer.weight.grad)


def test_a_second_backward_is_refused() -> None:
    hidden_HND, weight_VD, *rest = make_batch()
    loss, _ = fused_mtp_loss(hidden_HND.requires_grad_(), weight_VD, *rest)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="compute it again"):
        loss.backward()


def test_improbable_targets_have_a_finite_exact_loss() -> None:
    """The target's probability underflows to 0 in float32; its cross-entropy, 200, must not become infinite."""
    hidden_HND = torch.tensor([[[100.0]]], requires_grad=True)
    weight_VD = torch.tensor([[1.0], [-1.0]])
    loss, _ = fused_mtp_loss(hidden_HND, weight_VD, torch.tensor([[1]]), torch.ones(1, 1), torch.ones(1))
    assert loss.item() == 200.0
    (gradient,) = gradients(loss, hidden_HND)
    assert float(gradient) == 2.0


@pytest.mark.parametrize("vocabulary", [2, 7, 16, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_token_cross_entropies_equal_the_unchunked_ones(vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    hidden_ND = torch.randn(10, 6, generator=generator, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(vocabulary, 6, generator=generator, dtype=dtype)
    targets_N = torch.randint(vocabulary, (10,), generator=generator)
    found_N = token_cross_entropies(hidden_ND, weight_VD, targets_N, max_logits_bytes=vocabulary * dtype.itemsize * 3)
    torch.testing.assert_close(found_N, F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="none").detach())
    assert not found_N.requires_grad
    assert token_cross_entropies(hidden_ND[:0], weight_VD, targets_N[:0]).shape == (0,)
