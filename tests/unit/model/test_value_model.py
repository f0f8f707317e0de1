import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import ValueHead, ValueModel, next_token_losses, reference_losses
from wmtp_ray.model.value_outputs import values_of
from wmtp_ray.model.value_spec import ValueSpec

ARGS = ModelArgs(dim=32, n_layers=7, n_heads=4, vocab_size=29, n_future_tokens=4, multiple_of=8)
LENGTHS = (5, 1, 7, 3)


def flat_batch(seed: int = 0) -> BatchTensors:
    num_tokens = sum(LENGTHS)
    return BatchTensors(
        tokens_BT=torch.randint(ARGS.vocab_size, (1, num_tokens), generator=torch.Generator().manual_seed(seed)),
        positions_BT=torch.cat([torch.arange(length) for length in LENGTHS])[None],
        document_ids_BT=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None],
        supervised_mask_BT=torch.ones(1, num_tokens, dtype=torch.bool),
        rewards_M=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        document_lengths=LENGTHS,
    )


@pytest.mark.parametrize("kind", ["linear", "mlp", "attention"])
def test_untrained_head_values_every_state_at_zero_and_can_learn(kind: str) -> None:
    spec = ValueSpec(kind, 1.0, "surprisal")  # type: ignore[arg-type]
    head = ValueHead(8, spec)
    values_BT = values_of(head(torch.randn(2, 3, 8), torch.randn(2, 3, 1)), spec)
    assert values_BT.shape == (2, 3)
    assert values_BT.eq(0).all()
    values_BT.sum().backward()
    assert head.output.weight.grad is not None
    assert head.output.weight.grad.abs().max() > 0


def test_linear_head_is_the_dot_product_of_state_and_features() -> None:
    head = ValueHead(2, ValueSpec("linear", 1.0, "surprisal"))
    with torch.no_grad():
        head.output.weight.copy_(torch.tensor([[2.0, -1.0, 0.5]]))
        head.output.bias.fill_(0.25)
    value = head(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[10.0]]]))
    assert value.tolist() == [[[2.0 * 3 - 4 + 0.5 * 10 + 0.25]]]


@pytest.mark.parametrize(("output", "num_bins"), [("logit", 0), ("bins", 5)])
def test_a_value_that_is_a_probability_starts_at_one_half_and_stays_inside(output: str, num_bins: int) -> None:
    spec = ValueSpec("mlp", 1.0, "none", output, num_bins)  # type: ignore[arg-type]
    head = ValueHead(8, spec)
    assert values_of(head(torch.randn(1, 3, 8)), spec).tolist() == [pytest.approx([0.5] * 3)]
    with torch.no_grad():
        head.output.weight.normal_(std=9.0, generator=torch.Generator().manual_seed(0))
    values_BT = values_of(head(torch.randn(4, 50, 8)), spec)
    assert ((values_BT >= 0) & (values_BT <= 1)).all()
    assert values_BT.std() > 0.1


def test_the_value_of_bins_is_their_mean() -> None:
    spec = ValueSpec("linear", 1.0, "none", "bins", 3)
    value_BT = values_of(torch.tensor([[[0.0, math.log(2), math.log(5)]]]), spec)
    assert value_BT.tolist() == [[pytest.approx((0.5 * 2 + 1.0 * 5) / 8)]]


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_values_are_float32_under_autocast_and_for_half_precision_states(kind: str) -> None:
    head = ValueHead(8, ValueSpec(kind, 1.0, "none"))  # type: ignore[arg-type]
    with torch.no_grad():
        head.output.weight.normal_(generator=torch.Generator().manual_seed(0))
    state_BTD = torch.randn(1, 4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values_BT = head(state_BTD)
    assert values_BT.dtype == torch.float32
    assert torch.equal(values_BT, head(state_BTD.float()))


def test_a_critic_holds_only_what_its_values_need() -> None:
    def parts(value_layer: float, features: str) -> set[str]:
        names = ValueModel(ARGS, ValueSpec("linear", value_layer, features)).state_dict()  # type: ignore[arg-type]
        return {".".join(name.split(".")[:2]) if name.startswith("layers") else name.split(".")[0] for name in names}

    ends = {"tok_embeddings", "norm", "value_head"}
    assert parts(1.0, "none") == ends | {"layers.0", "layers.1", "layers.2"}
    assert parts(0.67, "none") == ends | {"layers.0", "layers.1"}
    assert parts(0.01, "none") == ends | {"layers.0"}
    assert parts(0.67, "surprisal") == ends | {"layers.0", "layers.1", "layers.2", "layers.3", "output"}


def _naive_losses(transformer: Transformer, tokens_T: Tensor) -> list[float]:
    """Cross-entropy of each token of one document given those before it, by one forward for each prefix."""
    losses = [0.0]
    for t in range(1, len(tokens_T)):
        logits_V = transformer(tokens_T[None, :t])[0, -1, 0].detach()
        losses.append(float(-logits_V.log_softmax(-1)[tokens_T[t]]))
    return losses


def test_reference_loss_of_a_token_reads_its_own_document_only() -> None:
    transformer = Transformer(ARGS)
    batch = flat_batch()
    losses_BT = reference_losses(transformer, batch)
    assert not losses_BT.requires_grad
    assert losses_BT.dtype == torch.float32
    expected = [loss for tokens in batch.tokens_BT[0].split(LENGTHS) for loss in _naive_losses(transformer, tokens)]
    torch.testing.assert_close(losses_BT[0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_next_token_losses_stand_at_the_predicted_token() -> None:
    batch, output_VD = flat_batch(), torch.randn(ARGS.vocab_size, 32)
    hidden_BTD = torch.randn(1, sum(LENGTHS), 32)
    losses_T = next_token_losses(hidden_BTD, output_VD, batch)[0]
    ends = torch.tensor((0, *LENGTHS)).cumsum(0).tolist()
    for first, end in pairwise(ends):
        assert losses_T[first] == 0
        for t in range(first + 1, end):
            expected = F.cross_entropy(output_VD @ hidden_BTD[0, t - 1], batch.tokens_BT[0, t])
            torch.testing.assert_close(losses_T[t], expected, rtol=1e-4, atol=1e-4)


def attending(num_features: int = 0, seed: int = 0) -> ValueHead:
    """An attention head whose output is not zero."""
    generator = torch.Generator().manual_seed(seed)
    head = ValueHead(8, ValueSpec("attention", 1.0, "surprisal" if num_features else "none"))
    head.init_weights(generator)
    with torch.no_grad():
        head.output.weight.normal_(generator=generator)
    return head


def naive_outputs(head: ValueHead, states_TD: Tensor) -> Tensor:
    """The outputs of one document by a loop: softmax over the states up to each one, then the mlp of both."""
    outputs = []
    for t in range(len(states_TD)):
        query_C = head.pool.queries.weight @ states_TD[t]
        scores = torch.stack([query_C @ (head.pool.keys.weight @ states_TD[s]) for s in range(t + 1)])
        shares = (scores / math.sqrt(len(query_C))).softmax(0)
        mix_C = sum(shares[s] * (head.pool.values.weight @ states_TD[s]) for s in range(t + 1))
        hidden = F.gelu(head.hidden(torch.cat((states_TD[t], mix_C))))
        outputs.append(head.output(hidden))
    return torch.stack(outputs)


def test_an_attention_head_reads_the_states_of_its_document_up_to_its_own() -> None:
    head, states_BTD = attending(), torch.randn(1, sum(LENGTHS), 8, generator=torch.Generator().manual_seed(1))
    found = head(states_BTD, None, LENGTHS)[0]
    expected = torch.cat([naive_outputs(head, document) for document in states_BTD[0].split(LENGTHS)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_output_of_an_attention_head_sees_a_later_token_or_another_document(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    head, num_tokens = attending(num_features=1, seed=seed), sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    states_BTD = torch.randn(1, num_tokens, 8, generator=generator)
    features_BTF = torch.rand(1, num_tokens, 1, generator=generator)
    place = data.draw(st.integers(0, num_tokens - 1))
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    before = head(states_BTD, features_BTF, lengths)[0, :, 0]
    states_BTD[0, place] += 1.0
    features_BTF[0, place] += 1.0
    changed = head(states_BTD, features_BTF, lengths)[0, :, 0] != before
    may_see = (documents == documents[place]) & (torch.arange(num_tokens) >= place)
    assert not changed[~may_see].any()
    assert changed[place]


def test_packed_padded_and_lone_documents_have_the_same_outputs() -> None:
    head, states_BTD = attending(), torch.randn(1, sum(LENGTHS), 8, generator=torch.Generator().manual_seed(2))
    packed = head(states_BTD, None, LENGTHS)[0].split(LENGTHS)
    documents = states_BTD[0].split(LENGTHS)
    padded = head(torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=7.0))
    for row, (outputs, document) in enumerate(zip(packed, documents, strict=True)):
        torch.testing.assert_close(head(document[None])[0], outputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(padded[row, : len(document)], outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_activation_checkpointing_leaves_a_critics_gradients_alone(kind: str) -> None:
    model = ValueModel(ARGS, ValueSpec(kind, 0.67, "surprisal"))  # type: ignore[arg-type]
    with torch.no_grad():
        model.value_head.output.weight.fill_(0.1)
    gradients = []
    for model.activation_checkpointing in (False, True):
        model.zero_grad()
        model(flat_batch()).square().sum().backward()
        gradients.append(model.tok_embeddings.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])
