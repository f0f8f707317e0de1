from functools import partial
from itertools import pairwise
from math import erf, exp, log, sqrt

import pytest
import torch

from wmtp_ray.objective import value_losses
from wmtp_ray.objective.td import value_state_mask
from wmtp_ray.objective.value_losses import ErrorFunction

from .document_layouts import LAYOUTS, Document, lay_out

ERRORS = {"squared": value_losses.squared_error, "huber": partial(value_losses.huber_error, delta=0.3)}


def naive_error(kind: str, value: float, target: float) -> float:
    distance = abs(value - target)
    if kind == "squared":
        return distance**2
    return distance**2 / 2 if distance <= 0.3 else 0.3 * (distance - 0.15)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    values_BT, old_BT = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64) * 0.5
    targets_BT = (torch.rand(4, 9, generator=generator) < 0.5).double()
    return values_BT, old_BT, targets_BT, torch.rand(4, 9, generator=generator) < 0.6


@pytest.mark.parametrize("kind", ERRORS)
def test_value_loss_equals_a_naive_loop(kind: str) -> None:
    values_BT, old_BT, targets_BT, mask_BT = batch()
    expected = 0.0
    for row, token in mask_BT.nonzero().tolist():
        value, old, target = (float(x[row, token]) for x in (values_BT, old_BT, targets_BT))
        clipped = old + min(max(value - old, -0.2), 0.2)
        expected += max(naive_error(kind, value, target), naive_error(kind, clipped, target))
    found = value_losses.value_loss(
        values_BT, old_BT, targets_BT, mask_BT, value_clip=0.2, error=ERRORS[kind], denominator=17.0
    )
    assert float(found) == pytest.approx(expected / 17.0)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_value_loss_and_gradient_are_the_same_for_any_split(error: ErrorFunction) -> None:
    values_BT, old_BT, targets_BT, mask_BT = batch()
    results = []
    for shards in ([slice(0, 4)], [slice(0, 1), slice(1, 4)], [slice(row, row + 1) for row in range(4)]):
        leaf_BT = values_BT.clone().requires_grad_()
        for rows in shards:
            value = value_losses.value_loss(
                leaf_BT[rows],
                old_BT[rows],
                targets_BT[rows],
                mask_BT[rows],
                value_clip=0.2,
                error=error,
                denominator=mask_BT.sum(),
            )
            anchor = value_losses.anchor_loss(leaf_BT[rows], old_BT[rows], mask_BT[rows], denominator=mask_BT.sum())
            (value + anchor).backward()
        results.append(leaf_BT.grad)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_value_clip_takes_away_the_gradient_beyond_it_only_towards_the_target() -> None:
    values_BT = torch.tensor([[0.8, 0.2]], requires_grad=True)
    value_losses.value_loss(
        values_BT,
        torch.tensor([[0.5, 0.5]]),
        torch.tensor([[1.0, 1.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        value_clip=0.2,
        error=value_losses.squared_error,
        denominator=1.0,
    ).backward()
    assert values_BT.grad is not None
    assert values_BT.grad[0].tolist() == [0.0, pytest.approx(-1.6)]


def test_old_values_and_targets_get_no_gradient_and_padding_may_hold_anything() -> None:
    old_BT = torch.tensor([[0.1, torch.nan]], requires_grad=True)
    targets_BT = torch.tensor([[1.0, torch.inf]], requires_grad=True)
    values_BT = torch.tensor([[0.3, torch.nan]], requires_grad=True)
    mask_BT = torch.tensor([[True, False]])
    loss = value_losses.value_loss(
        values_BT, old_BT, targets_BT, mask_BT, value_clip=0.5, error=value_losses.squared_error, denominator=1.0
    ) + value_losses.anchor_loss(values_BT, old_BT, mask_BT, denominator=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.49 + 0.04)
    assert old_BT.grad is None
    assert targets_BT.grad is None
    assert values_BT.grad is not None
    assert values_BT.grad[0].tolist() == [pytest.approx(-1.4 + 0.4), 0.0]


def test_anchor_loss_is_the_mean_squared_distance() -> None:
    values_BT, old_BT, _, mask_BT = batch()
    found = value_losses.anchor_loss(values_BT, old_BT, mask_BT, denominator=mask_BT.sum())
    expected = [float((values_BT - old_BT)[row, token]) ** 2 for row, token in mask_BT.nonzero().tolist()]
    assert float(found) == pytest.approx(sum(expected) / len(expected))


def test_pairwise_loss_is_the_log_sigmoid_of_the_margin() -> None:
    correct_P = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = value_losses.pairwise_loss(correct_P, torch.tensor([0.5, 1.0]), denominator=4.0)
    assert loss.item() == pytest.approx(sum(log(1 + exp(-margin)) for margin in (0.5, -3.0)) / 4)
    loss.backward()
    assert correct_P.grad is not None
    assert (correct_P.grad < 0).all()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_mean_response_value_is_the_same_in_every_layout(kind: str) -> None:
    documents = [
        Document(2, (0.1, 0.2, 0.4, 0.9), 1.0),
        Document(1, (0.5, 0.7), 0.0),
        Document(1, (0.3, 0.6, 0.9, 9.0), 1.0),
    ]
    layout = lay_out(documents, kind)
    values_BT = layout.values_BT.requires_grad_()
    state_BT = value_state_mask(layout.supervised_mask_BT, layout.document_ids_BT)
    means_M = value_losses.mean_response_value(values_BT, state_BT, document_ids_BT=layout.document_ids_BT)
    assert means_M.tolist() == pytest.approx([0.3, 0.5, 0.6])
    means_M.sum().backward()
    assert values_BT.grad is not None
    assert [piece.tolist() for piece in layout.per_document(values_BT.grad)] == [
        [0.0, 0.5, 0.5, 0.0],
        [1.0, 0.0],
        [pytest.approx(1 / 3)] * 3 + [0.0],
    ]


class TestBce:
    def loss(self, logits_T, old_T, targets_T, value_clip=0.2):
        mask_BT = torch.ones(1, len(logits_T), dtype=torch.bool)
        tensors = [torch.tensor([each], dtype=torch.float64) for each in (old_T, targets_T)]
        return value_losses.bce_value_loss(logits_T[None], *tensors, mask_BT, value_clip=value_clip, denominator=2.0)

    def test_it_is_the_cross_entropy_of_the_sigmoid(self):
        found = self.loss(torch.tensor([0.0, log(3)]), [0.5, 0.75], [1.0, 0.0])
        assert float(found) == pytest.approx((log(2) + log(4)) / 2)

    def test_a_lambda_return_between_the_rewards_is_a_target_too(self):
        found = self.loss(torch.tensor([log(3)]), [0.75], [0.4])
        assert float(found) == pytest.approx((-0.4 * log(0.75) - 0.6 * log(0.25)) / 2)

    def test_the_clip_speaks_of_v_not_of_the_logit(self):
        logits_T = torch.tensor([log(3), log(3)], requires_grad=True)  # V = 0.75, 0.25 above the old 0.5
        found = self.loss(logits_T, [0.5, 0.5], [1.0, 0.0])
        found.backward()
        assert float(found.detach()) == pytest.approx((-log(0.7) - log(0.25)) / 2)
        assert logits_T.grad.tolist() == pytest.approx([0.0, 0.75 / 2])

    @pytest.mark.parametrize("logit", [-200.0, -40.0, 40.0, 200.0])
    def test_a_critic_that_is_sure_and_wrong_still_learns(self, logit):
        logits_T = torch.tensor([logit], requires_grad=True)
        found = self.loss(logits_T, [float(logit > 0)], [float(logit < 0)])
        found.backward()
        assert float(found.detach()) == pytest.approx(abs(logit) / 2)
        assert logits_T.grad.tolist() == pytest.approx([0.5 if logit > 0 else -0.5])


class TestCategorical:
    def loss(self, logits_TK, old_T, targets_T, *, target="two_hot", value_clip=0.2):
        mask_BT = torch.ones(1, len(logits_TK), dtype=torch.bool)
        tensors = [torch.tensor([each], dtype=torch.float64) for each in (old_T, targets_T)]
        return value_losses.categorical_value_loss(
            logits_TK[None], *tensors, mask_BT, target=target, value_clip=value_clip, denominator=1.0
        )

    def test_targets_by_hand(self):
        two_hot = value_losses.bin_targets(torch.tensor([0.3, 0.0, 1.0, 0.5]), 5, "two_hot")
        expected = [[0, 0.8, 0.2, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
        assert two_hot.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
        gaussian = value_losses.bin_targets(torch.tensor([0.3]), 5, "gaussian")
        edges = [erf((edge - 1.2) / (0.75 * sqrt(2))) for edge in (-0.5, 0.5, 1.5, 2.5, 3.5, 4.5)]
        masses = [(b - a) / (edges[-1] - edges[0]) for a, b in pairwise(edges)]
        assert gaussian.tolist() == [pytest.approx(masses, abs=1e-6)]

    @pytest.mark.parametrize("kind", ["two_hot", "gaussian"])
    def test_targets_sum_to_one_and_outside_means_the_end(self, kind):
        rows = value_losses.bin_targets(torch.tensor([-0.4, 0.0, 0.37, 1.0, 1.8]), 7, kind)
        assert rows.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[3], rows[4])

    def test_the_mean_of_a_two_hot_target_is_the_target(self):
        targets_S = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        means_S = value_losses.bin_targets(targets_S, 11, "two_hot") @ torch.linspace(0, 1, 11, dtype=torch.float64)
        torch.testing.assert_close(means_S, targets_S)

    def test_it_is_the_cross_entropy_of_the_bins(self):
        logits_TK = torch.tensor([[0.0, 0.0, 0.0], [0.0, log(2), 0.0]])
        found = self.loss(logits_TK, [0.5, 0.5], [1.0, 0.5])
        assert float(found) == pytest.approx(log(3) + log(2))

    def test_beyond_the_clip_only_the_way_back_gives_a_gradient(self):
        logits_TK = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0]], requires_grad=True)  # V = 0.93, old 0.5
        self.loss(logits_TK, [0.5, 0.5], [1.0, 0.0]).backward()
        assert logits_TK.grad[0].tolist() == [0.0, 0.0, 0.0]
        assert logits_TK.grad[1].abs().max() > 0.1

    def test_no_rounding_of_the_old_value_takes_a_gradient_away(self):
        logits_TK = torch.randn(200, 51, generator=torch.Generator().manual_seed(1), requires_grad=True)
        values_T = (logits_TK.softmax(dim=1) @ torch.linspace(0, 1, 51)).detach() * (1 + 1e-7)
        self.loss(logits_TK, values_T.tolist(), [1.0] * 200).backward()
        assert (logits_TK.grad.abs().sum(dim=1) > 0).all()
