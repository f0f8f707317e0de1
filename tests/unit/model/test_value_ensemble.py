"""Ensembles of critics: heads over one trunk, or members with trunks of their own."""

import numpy as np
import pytest
import torch

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.model.value_ensemble import ValueEnsemble, build_critic
from wmtp_ray.model.value_model import HeadEnsemble, ValueModel
from wmtp_ray.model.value_spec import ValueSpec

ARGS = ModelArgs(dim=16, n_layers=5, n_heads=2, vocab_size=11, n_future_tokens=2, multiple_of=8)
SHARED = ValueSpec("mlp", 0.67, "surprisal", "logit", members=3)
OWN = ValueSpec("mlp", 0.67, "surprisal", "logit", members=3, trunks="own")
BOTH = pytest.mark.parametrize("spec", [SHARED, OWN], ids=["shared", "own"])


def policy_of(spec: ValueSpec) -> Policy:
    torch.manual_seed(0)
    policy = Policy(Transformer(ARGS), spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return policy


def batch_of(*lengths: int) -> BatchTensors:
    random = np.random.default_rng(3)
    tokens = [random.integers(0, ARGS.vocab_size, length).astype(np.int32) for length in lengths]
    examples = [Example(number, each, 1, number % 2 == 0) for number, each in enumerate(tokens)]
    return BatchTensors.from_batch(collate(examples, step=0, micro_step=0), "cpu")


@BOTH
def test_a_critic_loaded_from_the_policy_gives_the_policys_values(spec):
    policy, batch = policy_of(spec), batch_of(4, 3, 6)
    critic = build_critic(ARGS, spec)
    critic.load_learned(value_path_state(policy))
    torch.testing.assert_close(critic.values(batch), policy.states(batch).values_BT)
    torch.testing.assert_close(critic.values(batch), critic(batch))


def test_the_ensembles_v_is_the_mean_of_its_members_alone():
    policy, batch = policy_of(OWN), batch_of(4, 3, 6)
    values = []
    for number in range(3):
        alone = ValueModel(ARGS, OWN.member)
        prefix = f"members.{number}."
        state = policy.value_head.state_dict()
        alone.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        values.append(alone.values(batch))
    torch.testing.assert_close(policy.states(batch).values_BT, torch.stack(values).mean(dim=0))


def test_a_member_reads_its_documents_alone_and_says_the_same_of_them():
    policy, batch = policy_of(OWN), batch_of(4, 3, 6)
    learns_NM = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    whole = policy.value_outputs(batch)
    found = policy.value_outputs(batch, learns_NM)
    for member, learns_M in enumerate(learns_NM):
        is_read_T = learns_M[batch.document_ids_BT[0]]
        torch.testing.assert_close(found[0, is_read_T, member], whole[0, is_read_T, member])
    assert (found[0, 4:7, 0] == 0).all(), "the first member does not read the second document"
    assert (found[0, 4:, 2] == 0).all(), "a member without a document reads the first one"


@BOTH
def test_members_begin_with_heads_of_their_own_and_the_same_seed_draws_them_again(spec):
    def start(seed: int) -> Policy:
        torch.manual_seed(seed)
        transformer = Transformer(ARGS)
        torch.manual_seed(seed)
        return Policy(transformer, spec)

    first, again = start(5), start(5)
    hidden = [head.hidden.weight for head in first.value_heads]
    assert len({tensor.sum().item() for tensor in hidden}) == 3
    for one, two in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert (first.states(batch_of(4)).values_BT == 0.5).all(), "nothing is known yet"


def test_members_with_trunks_of_their_own_begin_with_copies_of_the_models():
    transformer = Transformer(ARGS)
    ensemble = Policy(transformer, OWN).value_head
    assert isinstance(ensemble, ValueEnsemble)
    for member in ensemble.models:
        assert torch.equal(member.layers[1].attention.wq.weight, transformer.layers[1].attention.wq.weight)
        assert member.layers[1].attention.wq.weight.data_ptr() != transformer.layers[1].attention.wq.weight.data_ptr()


@pytest.mark.parametrize("train_trunk", [False, True])
def test_stage_one_trains_the_members_and_never_the_model_they_came_from(train_trunk):
    policy = policy_of(OWN)
    policy.train_value_path_only(train_trunk=train_trunk)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    heads = {f"value_head.members.{n}.value_head.{part}" for n in range(3) for part in HEAD}
    trunks = {name for name in trained if any(part in name for part in (".layers.", ".tok_embeddings.", ".norm."))}
    assert not any(name.startswith("transformer.") for name in trained)
    assert trained == heads | (trunks if train_trunk else set())
    blocks = {name.split(".")[4] for name in trained if ".layers." in name}
    assert blocks == ({"0", "1"} if train_trunk else set()), "value_layer 0.67 of 3 blocks"


HEAD = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")


def test_heads_over_one_trunk_are_taken_over_by_members_with_trunks():
    heads, policy = policy_of(SHARED), policy_of(OWN)
    assert isinstance(heads.value_head, HeadEnsemble)
    assert isinstance(policy.value_head, ValueEnsemble)
    policy.value_head.load_heads(heads.value_head.state_dict())
    for member, head in zip(policy.value_head.models, heads.value_heads, strict=True):
        assert torch.equal(member.value_head.output.weight, head.output.weight)


def test_part_of_a_batch_is_the_batch_of_those_documents():
    part, places_K = batch_of(4, 3, 6).part(torch.tensor([True, False, True]))
    assert places_K.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11, 12]
    assert part.document_lengths == (4, 6)
    assert part.document_ids_BT.tolist() == [[0] * 4 + [1] * 6]
    assert part.positions_BT.tolist() == [[*range(4), *range(6)]]
    assert part.rewards_M.tolist() == [1.0, 1.0]
    assert torch.equal(part.tokens_BT, batch_of(4, 3, 6).tokens_BT[:, places_K])
