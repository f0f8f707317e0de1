"""Weights of single rows: the loss that a plain loop makes of them is the loss that the fused one makes of pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate
from wmtp_ray.ranks import OneRank
from wmtp_ray.scoring.scorers import build_scorer
from wmtp_ray.scoring.weighed_rows import NO_TARGET, WeighedRow, weighed_rows
from wmtp_ray.training.step import loss_denominators

SPLITS = ((0, 1, 2, 3), (4, 5, 6))  # rows of two micro-batches


def test_labels_stand_one_ahead_and_weights_with_their_labels() -> None:
    row = Example(5, np.array([1, 7, 4, 9, 2], np.int32), prompt_tokens=2, is_correct=True)
    other = Example(6, np.array([1, 3], np.int32), prompt_tokens=1, is_correct=False)
    batch = collate([other, row], step=0, micro_step=0)
    pairs_TH = torch.tensor([[0.3, 0], [0, 0], [0, 0.1], [0.2, 0.4], [0.5, 0.6], [0.7, 0], [0, 0]])
    first, second = weighed_rows(batch, pairs_TH[None])
    assert (first.row_id, first.is_correct) == (6, False)
    assert (first.input_ids_N.tolist(), first.labels_N.tolist()) == ([1], [3])
    assert first.weights_HN == pytest.approx(np.array([[0.3], [0.0]]))
    assert (second.row_id, second.is_correct) == (5, True)
    assert second.input_ids_N.tolist() == [1, 7, 4, 9]
    assert second.labels_N.tolist() == [NO_TARGET, 4, 9, 2]
    assert second.target_tokens_N.tolist() == [7, 4, 9, 2]
    assert second.weights_HN == pytest.approx(np.array([[0, 0.2, 0.5, 0.7], [0, 0.1, 0.4, 0.6]]))


def weighed(nano, words):
    """The rows of a step, their denominators, and the policy whose losses they may have been weighed with."""
    config = nano.load(*words)
    policy, rows = nano.policy(config), nano.rows(7)
    training = nano.training(config, policy, torch.optim.SGD(policy.parameters(), lr=0.0))
    scorer = build_scorer(config, nano.num_horizons)
    batches = [nano.scored_batch([rows[place] for place in split]).batch for split in SPLITS]
    by_ensemble = config.critic.ensemble > 1
    micros = [nano.micro_batch([rows[place] for place in split], by_ensemble=by_ensemble) for split in SPLITS]
    if scorer.needs_policy_losses:
        losses = [training.loss.pair_losses(micro.tensors, nano.num_horizons) for micro in micros]
        micros = [replace(micro, policy_losses_BTH=each) for micro, each in zip(micros, losses, strict=True)]
    weights = scorer.weigh(micros, OneRank())
    found = [row for batch, w in zip(batches, weights.pair_weights_BTH, strict=True) for row in weighed_rows(batch, w)]
    return config, found, loss_denominators(weights, config.loss, OneRank()), policy


def plain_loss(row: WeighedRow, policy, k: int) -> float:
    """Horizon k predicts label j from input j - k + 1; a push -|w| p counts as |w| p, with the same gradient."""
    with torch.no_grad():
        logits_NV = policy.transformer(torch.tensor(row.input_ids_N[None]).long(), return_all_heads=True)[0, :, k - 1]
    total = 0.0
    for j in range(k - 1, len(row.labels_N)):
        if row.labels_N[j] != NO_TARGET:
            ce = -float(torch.log_softmax(logits_NV[j - k + 1].double(), dim=-1)[row.labels_N[j]])
            weight = float(row.weights_HN[k - 1, j])
            total += weight * ce if weight >= 0 else -weight
    return total


def test_a_plain_loop_over_rows_makes_the_loss_of_every_arm(nano, arm):
    config, rows, denominators_H, policy = weighed(nano, arm)
    by_horizon = [
        sum(plain_loss(row, policy, k) for row in rows) / float(denominators_H[k - 1])
        for k in range(1, nano.num_horizons + 1)
    ]
    own = nano.rows(7)
    reported = nano.step(config, [[own[place] for place in split] for split in SPLITS]).metrics
    assert np.mean(by_horizon) == pytest.approx(reported["loss/policy"], abs=1e-5)


def test_the_table_of_arms_says_whether_a_weight_differs_by_horizon(nano, arm):
    config, rows, _, _ = weighed(nano, arm)
    differs = any(
        not np.allclose(row.weights_HN[k, k:], row.weights_HN[0, k:]) for row in rows for k in range(nano.num_horizons)
    )
    assert differs == config.weighting.differs_by_horizon
