"""What stage 1 of an ensemble goes on from, and what stage 2 holds beside it."""

from pathlib import Path

import pytest
import torch

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.meta_checkpoint import save_policy, save_transformer
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_ensemble import ValueEnsemble
from wmtp_ray.model.value_model import HeadEnsemble
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.stages import critic_stage, policy_stage

WORDS = ("critic.source=frozen", "critic.head=mlp", "critic.ensemble=3")
TRAINED = (*WORDS, "critic.train_trunk=true")


def stored(nano, directory: Path, words) -> Policy:
    """A bundle whose weights are all far from any start."""
    policy = nano.policy(nano.load(*words))
    save_policy(directory, policy)
    return policy


def start(nano, directory: Path, words) -> Policy:
    torch.manual_seed(1)
    config = nano.load(*words, f"critic.path={directory}")
    return critic_stage(config).build_policy(config)


@pytest.mark.parametrize("words", [WORDS, TRAINED], ids=["shared", "own"])
def test_it_goes_on_with_the_members_that_are_stored(nano, tmp_path, words):
    bundle = stored(nano, tmp_path, words)
    found = start(nano, tmp_path, words)
    assert found.spec == bundle.spec
    for name, tensor in bundle.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_members_with_trunks_of_their_own_keep_them_where_stage_1_trains_heads_alone(nano, tmp_path):
    bundle = stored(nano, tmp_path, TRAINED)
    found = start(nano, tmp_path, WORDS)
    assert found.spec == bundle.spec
    learned = {name for name, parameter in found.named_parameters() if parameter.requires_grad}
    assert learned == {name for name in found.state_dict() if ".value_head." in name}
    assert len(learned) == 3 * 4


def test_heads_over_one_trunk_go_on_with_a_copy_of_it_each(nano, tmp_path):
    bundle = stored(nano, tmp_path, WORDS)
    found = start(nano, tmp_path, TRAINED)
    assert isinstance(bundle.value_head, HeadEnsemble)
    assert isinstance(found.value_head, ValueEnsemble)
    for member, head in zip(found.value_head.models, bundle.value_heads, strict=True):
        assert torch.equal(member.value_head.hidden.weight, head.hidden.weight)
        assert torch.equal(member.tok_embeddings.weight, bundle.transformer.tok_embeddings.weight)


def test_a_model_without_value_head_gives_its_trunk_alone_and_recomputes_as_asked(nano, tmp_path):
    transformer = Transformer(nano.args)
    save_transformer(tmp_path, transformer)
    found = start(nano, tmp_path, (*TRAINED, "model.activation_checkpointing=true"))
    assert isinstance(found.value_head, ValueEnsemble)
    assert all(member.activation_checkpointing for member in found.value_head.models)
    assert torch.equal(
        found.value_head.models[2].layers[0].attention.wq.weight, transformer.layers[0].attention.wq.weight
    )
    again = start(nano, tmp_path, TRAINED)
    for one, two in zip(found.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_policy_of_stage_2_carries_one_head_that_learns_nothing(nano, tmp_path):
    save_transformer(tmp_path / "model", Transformer(nano.args))
    config = nano.load(*TRAINED, f"model.path={tmp_path / 'model'}", f"critic.path={tmp_path / 'critic'}")
    policy = policy_stage(config).build_policy(config)
    assert policy.spec == ValueSpec.of(config).member
    assert not any(parameter.requires_grad for parameter in policy.value_head.parameters())
