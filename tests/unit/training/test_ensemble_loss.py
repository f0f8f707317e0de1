"""Stage 1 of an ensemble: each member learns from its half of the problems and from nothing else."""

import numpy as np
import pytest
import torch

from wmtp_ray.model.value_outputs import states_of_members
from wmtp_ray.objective.documents import at_tokens
from wmtp_ray.plan.problem_halves import ProblemHalves, learned_problems
from wmtp_ray.training.ensemble_loss import EnsembleLoss
from wmtp_ray.training.losses import Denominators
from wmtp_ray.training.stages import critic_stage, freeze_for_critic

FROZEN = ("critic.source=frozen", "critic.head=mlp")
OWN = (*FROZEN, "critic.train_trunk=true")
BOTH = pytest.mark.parametrize("words", [FROZEN, OWN], ids=["shared", "own"])


@pytest.fixture(scope="module")
def data(nano, tmp_path_factory):
    return nano.indexed(tmp_path_factory.mktemp("rows"))


def halves_by_row(nano, learns_N):
    """Halves in which a member learns the rows of these numbers; each row is a problem."""
    ids = 100 + 7 * 60
    learns_NP = np.array([[number in own for number in range(60)] for own in learns_N])
    return ProblemHalves((np.maximum(np.arange(ids) - 100, 0) // 7).astype(np.int32), learns_NP)


def loss_of(nano, words, rows, learns_N):
    """Policy and loss of one micro-batch whose rows are shared out as `learns_N` says."""
    config = nano.load(*words, f"critic.ensemble={len(learns_N)}")
    policy = nano.policy(config)
    freeze_for_critic(policy, config)
    loss = EnsembleLoss(policy, config, halves_by_row(nano, learns_N))
    micro = nano.micro_batch(rows)
    micro = type(micro)(**{**micro.__dict__, "values_BT": None})
    counts_N2 = loss.counts_of_members(micro).clamp(min=1)
    ones_H = torch.ones(3, dtype=torch.float64)
    denominators = Denominators(ones_H, ones_H, 1.0, 1.0, of_members_N2=counts_N2)
    return policy, loss(micro, torch.ones(1), denominators)


def of_member(policy, member):
    return [p for name, p in policy.named_parameters() if name.startswith(f"value_head.members.{member}.")]


@BOTH
def test_the_loss_is_the_mean_over_members_of_their_error_on_their_own_rows(nano, words):
    rows, learns_N = nano.rows(6), [{0, 2, 5}, {1, 3, 4}]
    policy, loss = loss_of(nano, words, rows, learns_N)
    expected = []
    for member, own in enumerate(learns_N):
        errors = []
        for number in own:
            with torch.no_grad():
                outputs = policy.value_outputs(nano.micro_batch([rows[number]]).tensors)
            values_T = states_of_members(outputs, policy.spec)[member].values_BT[0].tolist()
            errors += [(values_T[j - 1] - rows[number].reward) ** 2 for j in rows[number].targets]
        expected.append(sum(errors) / len(errors))
    assert loss.total.item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert loss.parts["loss/value"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert loss.parts["sum/critic/states"].item() == sum(len(row.targets) for row in rows)


@BOTH
def test_a_member_gets_the_gradient_of_its_rows_and_none_of_others(nano, words):
    """What the other half holds changes nothing for a member, and where its own is empty its gradient is 0."""
    rows = nano.rows(6)
    policy, loss = loss_of(nano, words, rows, [{0, 2, 5}, {1, 3, 4}])
    loss.total.backward()
    alone, other = loss_of(nano, words, [rows[0], rows[2], rows[5]], [{0, 2, 5}, {1, 3, 4}])
    other.total.backward()
    for found, expected in zip(of_member(policy, 0), of_member(alone, 0), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)
    assert sum(p.grad.norm() for p in of_member(policy, 0) if p.requires_grad) > 0
    assert sum(p.grad.norm() for p in of_member(policy, 1) if p.requires_grad) > 0
    learned = [p for p in of_member(alone, 1) if p.requires_grad]
    assert learned
    assert all(p.grad.eq(0).all() for p in learned), "no row of its half: a gradient, and it is 0"
    assert other.total.isfinite()
    assert all(p.grad is None for name, p in policy.named_parameters() if name.startswith("transformer."))


ERRORS = {
    "squared": (),
    "huber": ("critic.value_error=huber",),
    "bce": ("critic.value_error=bce",),
    "categorical": ("critic.value_error=categorical", "critic.value_bins=5"),
    "lambda": ("critic.value_target=lambda",),
    "attention": ("critic.head=attention", "critic.features=surprisal"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
@BOTH
def test_a_member_learns_as_a_critic_alone_would_from_its_half(nano, words, error):
    """Up to the mean over members: half the gradient of a critic of one member with the same start."""
    rows, has_trunks = nano.rows(6), words == OWN
    words = (*words, *error)
    policy, loss = loss_of(nano, words, rows, [{0, 2, 5}, {1, 3, 4}])
    loss.total.backward()
    config = nano.load(*words)
    single = nano.policy(config)
    freeze_for_critic(single, config)
    if has_trunks:
        state = policy.value_head.models[0].state_dict()
        single.load_state_dict(
            {n: state.get(n.removeprefix("transformer."), t) for n, t in single.state_dict().items()}
        )
    else:
        single.transformer.load_state_dict(policy.transformer.state_dict())
        single.value_head.load_state_dict(policy.value_heads[0].state_dict())
    own = nano.micro_batch([rows[0], rows[2], rows[5]])
    own = type(own)(**{**own.__dict__, "values_BT": None})
    num_states = float(sum(len(rows[n].targets) for n in (0, 2, 5)))
    ones_H = torch.ones(3, dtype=torch.float64)
    alone = critic_stage(config).build_loss(single, config)(
        own, torch.ones(1), Denominators(ones_H, ones_H, num_states, 3.0)
    )
    alone.total.backward()
    gradients = [p.grad for p in single.parameters() if p.grad is not None]
    found = [p.grad for p in of_member(policy, 0) if p.grad is not None]
    assert len(gradients) == len(found)
    for gradient, expected in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient, expected / 2, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("objective", ["value", "pairwise"])
@BOTH
def test_a_step_does_not_depend_on_ranks_or_micro_batches(nano, data, words, objective):
    unclipped = "train.max_grad_norm=1e9"
    config = nano.load(*words, *data, unclipped, "critic.ensemble=3", f"critic.objective={objective}")
    rows = nano.rows(20)
    classes = ([row for row in rows if row.example.is_correct is wanted] for wanted in (True, False))
    rows = [row for pair in zip(*classes, strict=False) for row in pair][:10]
    rows = [_renumbered(row, 100 + 7 * (4 * (place // 2) + place % 2)) for place, row in enumerate(rows)]
    whole = nano.step(config, [rows], stage=1)
    assert len({name for name, g in whole.gradients.items() if g.norm() > 0}) >= 3 * 3
    for outcome in (
        nano.step(config, [rows[:2], rows[2:8], rows[8:]], stage=1),
        nano.step_on_ranks(config, [[rows[:2], rows[2:6]], [rows[6:]]], stage=1)[1],
    ):
        for name in ("loss/total", "loss/value", "critic/explained_variance"):
            assert outcome.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-5)
        for name, gradient in whole.gradients.items():
            torch.testing.assert_close(outcome.gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def _renumbered(row, row_id):
    example = type(row.example)(**{**row.example.__dict__, "row_id": row_id})
    return type(row)(**{**row.__dict__, "example": example})


def test_the_stage_draws_the_halves_by_the_runs_seed(nano, data):
    config = nano.load(*FROZEN, *data, "critic.ensemble=2", "seed=5")
    loss = critic_stage(config).build_loss(nano.policy(config), config)
    assert isinstance(loss, EnsembleLoss)
    micro = nano.micro_batch(nano.rows(12))
    names = [f"problem {number // 4}" for number in range(12)]
    learns_NM = torch.from_numpy(learned_problems(names, 2, 5))
    within = [at_tokens(own_M, micro.tensors.tokens_BT, micro.tensors.document_ids_BT) for own_M in learns_NM]
    assert loss.counts_of_members(micro)[:, 1].tolist() == learns_NM.sum(dim=1).tolist()
    assert loss.counts_of_members(micro)[:, 0].tolist() == [
        float((micro.tensors.supervised_mask_BT & own_BT).sum()) for own_BT in within
    ]
