"""A value path: what may be asked for, and the parameters that it takes."""

from datetime import datetime

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.model.shapes import model_specs
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_ensemble import ValueEnsemble, build_critic
from wmtp_ray.model.value_model import build_value_head
from wmtp_ray.model.value_spec import ValueSpec


@pytest.mark.parametrize(
    "asked",
    [
        ("cubic", 1.0, "none"),
        ("mlp", 0.0, "none"),
        ("mlp", 1.1, "none"),
        ("mlp", 1, "x"),
        ("mlp", 1.0, "none", "odds"),
        ("mlp", 1.0, "none", "bins"),
        ("mlp", 1.0, "none", "bins", 1),
        ("mlp", 1.0, "none", "logit", 5),
        ("mlp", 1.0, "none", "logit", 0, 0),
        ("mlp", 1.0, "none", "logit", 0, 1, "own"),
        ("mlp", 1.0, "none", "logit", 0, 2, "none"),
    ],
)
def test_a_value_path_that_means_nothing_is_refused(asked):
    with pytest.raises(ValueError, match=f"no such value path: .*{asked[0]}"):
        ValueSpec(*asked)


def test_the_value_path_of_a_configuration_is_the_one_it_asks_for():
    words = ["recipe=verifiable", "critic.head=mlp", "critic.value_layer=0.67", "critic.features=surprisal"]
    config = load_config(parse_arguments(words), now=datetime(2025, 1, 2))
    assert ValueSpec.of(config) == ValueSpec("mlp", 0.67, "surprisal")
    bce = load_config(parse_arguments([*words, "critic.value_error=bce"]), now=datetime(2025, 1, 2))
    assert ValueSpec.of(bce) == ValueSpec("mlp", 0.67, "surprisal", "logit")
    bins = load_config(parse_arguments([*words, "critic.value_error=categorical"]), now=datetime(2025, 1, 2))
    assert ValueSpec.of(bins) == ValueSpec("mlp", 0.67, "surprisal", "bins", bins.critic.value_bins)


def test_an_ensemble_has_trunks_of_its_own_where_stage_1_trains_them():
    words = ["recipe=verifiable", "critic.source=frozen", "critic.ensemble=4"]
    config = load_config(parse_arguments(words), now=datetime(2025, 1, 2))
    assert ValueSpec.of(config) == ValueSpec("linear", 1.0, "none", members=4)
    config = load_config(parse_arguments([*words, "critic.train_trunk=true"]), now=datetime(2025, 1, 2))
    assert ValueSpec.of(config) == ValueSpec("linear", 1.0, "none", members=4, trunks="own")
    assert ValueSpec.of(config).member == ValueSpec("linear", 1.0, "none")


OUTPUTS = [("value", 0), ("logit", 0), ("bins", 7)]


@given(
    model_specs(),
    st.sampled_from(["linear", "mlp", "attention"]),
    st.floats(0.1, 1.0),
    st.sampled_from(["none", "surprisal"]),
    st.sampled_from(OUTPUTS),
    st.sampled_from([(1, "shared"), (3, "shared"), (2, "own")]),
)
@settings(max_examples=25, deadline=None)
def test_a_critic_has_the_parameters_of_its_value_path(model: ModelSpec, head, value_layer, features, output, members):
    value = ValueSpec(head, value_layer, features, *output, *members)
    with torch.device("meta"):
        critic = build_critic(model, value)
        value_head = build_value_head(model.dim, value)
    weights = [parameter for name, parameter in value_head.named_parameters() if not name.endswith("bias")]
    assert value.critic_parameters(model) == sum(parameter.numel() for parameter in critic.parameters())
    assert value.head_parameters(model.dim) == sum(parameter.numel() for parameter in value_head.parameters())
    assert value.head_weights(model.dim) == sum(weight.numel() for weight in weights)
    one = critic.models[0] if isinstance(critic, ValueEnsemble) else critic
    assert value.critic_blocks(model.num_trunk_blocks) == len(one.layers)
