import copy

import pytest
import torch
from torch.nn import functional as F

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.model.value_model import ValueModel, reference_losses
from wmtp_ray.model.value_spec import ValueSpec

ARGS = ModelArgs(dim=32, n_layers=7, n_heads=4, n_kv_heads=2, vocab_size=29, n_future_tokens=4, multiple_of=8)
LENGTHS = (5, 1, 7, 3)
SPECS = [
    ValueSpec(head, value_layer, features)
    for head in ("linear", "mlp", "attention")
    for value_layer in (1.0, 0.67, 0.01)
    for features in ("none", "surprisal")
]


def _batch(seed: int = 0) -> BatchTensors:
    num_tokens = sum(LENGTHS)
    return BatchTensors(
        tokens_BT=torch.randint(ARGS.vocab_size, (1, num_tokens), generator=torch.Generator().manual_seed(seed)),
        positions_BT=torch.cat([torch.arange(length) for length in LENGTHS])[None],
        document_ids_BT=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None],
        supervised_mask_BT=torch.ones(1, num_tokens, dtype=torch.bool),
        rewards_M=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        document_lengths=LENGTHS,
    )


def _policy(spec: ValueSpec) -> Policy:
    policy = Policy(Transformer(ARGS), spec)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return policy


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_critic_loaded_from_the_policy_gives_the_policys_values(spec: ValueSpec) -> None:
    policy, batch = _policy(spec), _batch()
    critic = ValueModel(ARGS, spec)
    critic.load_state_dict(value_path_state(policy), strict=True)
    with torch.no_grad():
        values_BT = policy.states(batch).values_BT
        assert values_BT.std() > 0
        assert torch.equal(critic.values(batch), values_BT)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_value_depends_on_its_own_documents_past_only(spec: ValueSpec) -> None:
    policy, batch = _policy(spec), _batch()
    changed_BT = batch.tokens_BT.clone()
    changed_BT[0, 9] = (changed_BT[0, 9] + 1) % ARGS.vocab_size  # in the third document, which spans 6..12
    changed = BatchTensors(**{**batch.__dict__, "tokens_BT": changed_BT})
    with torch.no_grad():
        moved = ~torch.isclose(policy.states(changed).values_BT, policy.states(batch).values_BT, atol=1e-6)
    assert moved[0, 9]
    assert not moved[0, :9].any()
    assert not moved[0, 13:].any()


def test_linear_value_reads_the_normed_trunk_output() -> None:
    policy, batch = _policy(ValueSpec("linear", 1.0, "none")), _batch()
    with torch.no_grad():
        states = policy(batch)
        trunk_BTD = policy.transformer.trunk(batch.tokens_BT, document_lengths=LENGTHS)
        expected_BT = policy.transformer.norm(trunk_BTD) @ policy.value_head.output.weight[0]
    torch.testing.assert_close(states.h_trunk_BTD, trunk_BTD)
    torch.testing.assert_close(states.values_BT, expected_BT + policy.value_head.output.bias)


def test_one_pass_over_the_trunk_serves_values_and_all_heads() -> None:
    policy, batch = _policy(ValueSpec("linear", 0.67, "none")), _batch()
    runs = dict.fromkeys(("0", "1", "2", "3"), 0)

    def count(name: str) -> None:
        runs[name] += 1

    for name in runs:
        policy.transformer.layers[int(name)].register_forward_hook(lambda *_, name=name: count(name))
    with torch.no_grad():
        states = policy.states(batch)
        logits = [policy.transformer.output(policy.head_hidden(states, k, batch)) for k in (1, 2, 3, 4)]
    assert runs == {"0": 1, "1": 1, "2": 1, "3": 1}
    first = batch.tokens_BT[:, : LENGTHS[0]]
    with torch.no_grad():
        expected_BTHV = policy.transformer(first, return_all_heads=True)
    for horizon in range(4):
        torch.testing.assert_close(logits[horizon][:, : LENGTHS[0]], expected_BTHV[:, :, horizon], rtol=1e-4, atol=1e-4)


def test_values_send_gradient_into_the_trunk_below_them_and_nowhere_else() -> None:
    policy, batch = _policy(ValueSpec("linear", 0.67, "surprisal")), _batch()
    policy.states(batch).values_BT.square().sum().backward()
    touched = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    below = ("transformer.tok_embeddings", "transformer.layers.0", "transformer.layers.1", "transformer.norm")
    expected = {name for name, _ in policy.named_parameters() if name.startswith((*below, "value_head"))}
    assert touched == expected


def test_surprisal_feature_is_the_policys_own_next_token_loss() -> None:
    policy, batch = _policy(ValueSpec("linear", 1.0, "surprisal")), _batch()
    with torch.no_grad():
        policy.value_head.output.weight.zero_()
        policy.value_head.output.weight[0, -1] = 1.0
        policy.value_head.output.bias.zero_()
        values_BT = policy.states(batch).values_BT
    torch.testing.assert_close(values_BT, reference_losses(policy.transformer, batch))


@pytest.mark.parametrize("train_trunk", [False, True])
def test_stage_one_moves_the_value_path_only(train_trunk: bool) -> None:
    policy, batch = _policy(ValueSpec("mlp", 0.67, "none")), _batch()
    before = copy.deepcopy(policy.state_dict())
    trained = policy.train_value_path_only(train_trunk=train_trunk)
    optimizer = torch.optim.SGD(trained, lr=0.1)
    F.mse_loss(policy.states(batch).values_BT, torch.ones(1, sum(LENGTHS))).backward()
    optimizer.step()
    moved = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in before if name.startswith("value_head")} <= moved
    blocks = {name.split(".")[2] for name in moved if name.startswith("transformer.layers")}
    assert blocks == ({"0", "1"} if train_trunk else set())
    assert ("transformer.tok_embeddings.weight" in moved) == train_trunk
    assert not any("output.weight" in name or "extra_heads" in name for name in moved if name.startswith("transformer"))
