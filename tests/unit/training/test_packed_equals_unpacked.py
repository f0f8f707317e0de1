"""Training on packed sequences: the loss and gradients of every row by itself, and no document sees another.

Rows are packed by `plan/best_fit.py` into sequences of 24 tokens; alone means a micro-batch for every row, in the same
step, so that the denominators are the same.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wmtp_ray.plan.best_fit import pack_best_fit
from wmtp_ray.training.optim import build_optimizer

UNCLIPPED = "train.max_grad_norm=1e9"
EXACT_ARMS = {
    "uniform": ("weighting.type=uniform",),
    "td": ("weighting.type=td", "weighting.beta=0.3"),
    "td_horizon": ("weighting.type=td", "weighting.beta=0.3", "weighting.terminal=horizon"),
}


@pytest.fixture(scope="module")
def rows(nano):
    """Rows among which are responses of one token and documents of fewer tokens than there are horizons."""
    rows = nano.rows(12, seed=1, prompt=(1, 4))
    assert min(len(row.targets) for row in rows) == 1
    assert min(len(row) for row in rows) < nano.num_horizons
    return rows


@pytest.fixture(scope="module")
def packed(rows):
    """The rows of each sequence; several hold several rows."""
    sequences = pack_best_fit(np.array([len(row) for row in rows], dtype=np.int32), 24, window_rows=8)
    split = [[rows[place] for place in sequences.positions(q)] for q in range(sequences.num_sequences)]
    assert 1 < len(split) <= len(rows) / 2
    return split


def gradients_in_float64(nano, config, split):
    """The transformer's gradients of one step in double precision, taken where the optimizer would read them."""
    policy = nano.policy(config)
    policy.transformer.double()
    training = nano.training(config, policy, build_optimizer(policy, config.train, 1e-3))
    taken = {}

    def take(*_):
        taken.update({name: p.grad.clone() for name, p in policy.transformer.named_parameters()})

    training.optimizer.register_step_pre_hook(take)
    metrics = training.run([nano.micro_batch(part) for part in split], 1e-3)
    return taken, metrics


def largest_difference(found, expected):
    """Largest distance of a parameter's gradients, relative to that parameter's own gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def test_a_step_on_packed_rows_is_the_step_on_each_row_alone(nano, arm, rows, packed):
    config = nano.load(*arm, UNCLIPPED)
    alone = nano.step(config, [[row] for row in rows])
    for split in ([rows], packed):
        outcome = nano.step(config, split)
        # Rounding of float32, which the order of sums decides; the test below asks in double precision.
        assert largest_difference(outcome.gradients, alone.gradients) <= 3e-6
        assert outcome.metrics == pytest.approx(alone.metrics, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("words", EXACT_ARMS.values(), ids=EXACT_ARMS.keys())
def test_in_double_precision_nothing_but_rounding_is_left(nano, words, rows, packed):
    config = nano.load(*words, UNCLIPPED, "train.value_coef=0")
    alone, alone_metrics = gradients_in_float64(nano, config, [[row] for row in rows])
    for split in ([rows], packed):
        gradients, metrics = gradients_in_float64(nano, config, split)
        assert largest_difference(gradients, alone) <= 1e-14
        assert metrics["loss/policy"] == pytest.approx(alone_metrics["loss/policy"], rel=1e-14)


def outputs_of(nano, policy, tensors):
    """Logits of all horizons and the value of every token, side by side: [T, H * V + 1]."""
    with torch.no_grad():
        states = policy.states(tensors)
        horizons = range(1, nano.num_horizons + 1)
        logits = [policy.transformer.output(policy.head_hidden(states, k, tensors)) for k in horizons]
        return torch.cat([*logits, states.values_BT[..., None]], dim=-1)[0]


def test_no_document_of_a_sequence_sees_another(nano, packed):
    """Other tokens in one document leave every logit and value of the others as they were, to the last bit."""
    policy = nano.policy(nano.load())
    tensors = nano.micro_batch(max(packed, key=len)).tensors
    before = outputs_of(nano, policy, tensors)
    assert len(tensors.document_lengths) > 2
    for document in range(len(tensors.document_lengths)):
        own_BT = tensors.document_ids_BT == document
        tokens_BT = torch.where(own_BT, (tensors.tokens_BT + 1) % nano.args.vocab_size, tensors.tokens_BT)
        after = outputs_of(nano, policy, replace(tensors, tokens_BT=tokens_BT))
        assert torch.equal((after != before).any(dim=-1), own_BT[0])
