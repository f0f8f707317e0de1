"""From the outputs of heads to V, of one head and of an ensemble, with examples computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.model.value_outputs import scores_of, states_of_mean, states_of_members, values_of
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.value_losses import bce_value_loss, categorical_value_loss


def spec_of(output: str, members: int, num_bins: int = 0) -> ValueSpec:
    return ValueSpec("linear", 1.0, "none", output, num_bins, members)  # type: ignore[arg-type]


def logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


EXAMPLES = {  # outputs of a state, V of each member, V, standard deviation
    "values": (spec_of("value", 2), [0.2, 0.8], [0.2, 0.8], 0.5, 0.3),
    "three values": (spec_of("value", 3), [0.0, 0.3, 0.9], [0.0, 0.3, 0.9], 0.4, math.sqrt(0.14)),
    "logits": (spec_of("logit", 2), [logit(0.2), logit(0.9)], [0.2, 0.9], 0.55, 0.35),
    "bins": (
        spec_of("bins", 2, 3),
        [math.log(x) for x in (0.5, 0.25, 0.25, 0.1, 0.2, 0.7)],
        [0.375, 0.8],
        0.5875,
        0.2125,
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_ensemble_has_the_mean_of_its_members_v_and_disagrees_by_their_standard_deviation(name):
    spec, outputs, members, value, deviation = EXAMPLES[name]
    outputs_BTO = torch.tensor([[outputs]])
    found = scores_of(outputs_BTO, spec)
    assert [float(each.values_BT) for each in states_of_members(outputs_BTO, spec)] == pytest.approx(members)
    assert float(found.values_BT) == float(values_of(outputs_BTO, spec)) == pytest.approx(value)
    assert float(found.disagreements_BT) == pytest.approx(deviation)


def test_one_critic_has_no_disagreement():
    spec = spec_of("logit", 1)
    found = scores_of(torch.tensor([[[logit(0.3)]]]), spec)
    assert found.disagreements_BT is None
    assert float(found.values_BT) == pytest.approx(0.3)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_head_of_the_mean_has_the_ensembles_v(name):
    spec, outputs, _, value, _ = EXAMPLES[name]
    states = states_of_mean(torch.tensor([[outputs]]), spec)
    assert float(states.values_BT) == pytest.approx(value)
    assert float(values_of(states.value_outputs_BTO, spec.member)) == pytest.approx(value)


def test_the_loss_of_the_mean_is_that_of_the_mean_chance_and_of_the_mean_distribution():
    """V = .55 against G = 1: -log .55. Bins (.5 .25 .25) and (.1 .2 .7): the last one's mean is .475."""
    rest = (torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    spec, outputs, *_ = EXAMPLES["logits"]
    logits_BT = states_of_mean(torch.tensor([[outputs]]), spec).value_outputs_BTO[..., 0]
    assert float(bce_value_loss(logits_BT, *rest, value_clip=9.0, denominator=1)) == pytest.approx(-math.log(0.55))
    spec, outputs, *_ = EXAMPLES["bins"]
    bins_BTK = states_of_mean(torch.tensor([[outputs]]), spec).value_outputs_BTO
    loss = categorical_value_loss(bins_BTK, *rest, target="two_hot", value_clip=9.0, denominator=1)
    assert float(loss) == pytest.approx(-math.log(0.475))


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=5))
def test_the_logit_of_the_mean_is_finite_however_sure_the_members_are(logits):
    spec = spec_of("logit", len(logits))
    assert states_of_mean(torch.tensor([[logits]]), spec).value_outputs_BTO.isfinite().all()
