"""Rule: drift is measured on fixed rows from the start of stage 2, wherever a run was cut; training never notices."""

import copy

import numpy as np
import pytest
import torch

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.data.collate import collate
from wmtp_ray.ranks import OneRank
from wmtp_ray.training.drift_watch import CriticDrift, _kept_positions, build_critic_drift
from wmtp_ray.training.loop import StageLoop
from wmtp_ray.training.stage_start import build_training
from wmtp_ray.training.stages import policy_stage

from .plain_ports import ReportList, plain_ports

CPU = torch.device("cpu")
NUM_STEPS, LEARNING_RATE = 6, 1e-2
MLP = ("critic.head=mlp", "critic.value_layer=0.5", "critic.features=surprisal")


def trained(nano, config, policy, *, start=None, first_step=0, steps=NUM_STEPS, watch=True):
    """Train from `first_step` as a rank does: the watch is built over the start, then the restored state is loaded."""
    training = build_training(policy_stage(config), policy, config, OneRank(), CPU)
    batch = collate([row.example for row in nano.rows(6, seed=9)], step=0, micro_step=0)
    drift = CriticDrift(training.loss, config, [batch]) if watch else None
    if start is not None:
        policy.load_state_dict(start[0])
        training.optimizer.load_state_dict(start[1])
    batches = [[nano.scored_batch(nano.rows(4, seed=step), step=step)] for step in range(NUM_STEPS)]
    reports = ReportList()
    ports = plain_ports(batches, reports, drift=drift, stop_after=steps - first_step)
    StageLoop(
        training, config, ports, OneRank(), steps=range(first_step, NUM_STEPS), peak_learning_rate=LEARNING_RATE
    ).run()
    state = copy.deepcopy((policy.state_dict(), training.optimizer.state_dict()))
    return reports.metrics_of("critic/drift"), state


ATTENTION = ("critic.head=attention", "critic.value_layer=0.5")


@pytest.mark.parametrize("words", [(), MLP, ATTENTION], ids=["linear", "mlp with surprisal below", "attention"])
def test_a_resumed_run_measures_from_the_same_start_to_the_bit(nano, words):
    config = nano.load("critic.drift_every=2", *words)
    whole, _ = trained(nano, config, nano.policy(config))
    _, middle = trained(nano, config, nano.policy(config), steps=3)
    rest, _ = trained(nano, config, nano.policy(config), start=middle, first_step=3)
    assert rest == whole[3:]
    assert [bool(each) for each in whole] == [False, True, False, True, False, True]
    names = {"critic/drift_kl", "critic/drift_value", "critic/drift_cosine", "critic/drift_correlation"}
    assert whole[-1].keys() == names
    assert whole[-1]["critic/drift_value"] > 0.0
    assert whole[-1] != whole[1]


def test_the_policy_has_the_same_bits_whether_it_is_watched_or_not(nano):
    config = nano.load("critic.drift_every=1")
    hashes = {tensors_sha256(trained(nano, config, nano.policy(config), watch=watch)[1][0]) for watch in (True, False)}
    assert len(hashes) == 1


def test_only_a_value_path_that_scores_and_moves_is_watched(nano):
    for words in (
        ("critic.drift_every=0",),
        ("critic.source=frozen", "critic.path=elsewhere"),
        ("recipe=baseline",),
        ("recipe=rho1_weighted",),
    ):
        config = nano.load(*words)
        training = nano.training(config, nano.policy(config), None)
        assert build_critic_drift(training.loss, config) is None, words


def test_values_and_states_are_those_that_training_sees(nano):
    config = nano.load(*MLP)
    policy, micro = nano.policy(config), nano.micro_batch(nano.rows(5))
    with torch.no_grad():
        values_BT, states_BTD = policy.value_states(micro.tensors)
        assert torch.equal(values_BT, policy.states(micro.tensors).values_BT)
        assert torch.allclose(states_BTD.square().mean(dim=-1), torch.ones(()), atol=1e-2), "normed"


def test_hidden_states_are_kept_along_each_response(nano):
    rows = nano.rows(5)
    batch = collate([row.example for row in rows], step=0, micro_step=0)
    expected, start = [], 0
    for row in rows:
        states = [start + target - 1 for target in row.targets]
        expected += [states[max(0, -(-part * len(states) // 4) - 1)] for part in (1, 2, 3, 4)]
        start += len(row.example.tokens_T)
    assert np.array_equal(_kept_positions(batch), expected)
