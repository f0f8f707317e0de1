"""One optimizer step: the same for every split into ranks and micro-batches, and doing what it reports."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wmtp_ray.errors import TrainingError
from wmtp_ray.model.policy import Policy
from wmtp_ray.scoring.contract import MicroBatch
from wmtp_ray.training.optim import build_optimizer
from wmtp_ray.training.value_reports import derive_metrics

UNCLIPPED = "train.max_grad_norm=1e9"
RECIPES = {
    "baseline": ("recipe=baseline",),
    "verifiable": ("recipe=verifiable",),
    "rho1_topk": ("recipe=rho1_weighted", "rho1.mode=topk"),
    "rho1_weighted": ("recipe=rho1_weighted", "rho1.mode=weighted"),
}


def assert_same_gradients(found, expected):
    """Equal to 1e-6 relative to each parameter's own gradient."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def assert_same_metrics(found, expected, *, but=()):
    keep = [name for name in expected if name not in but]
    assert found.keys() == expected.keys()
    assert {n: found[n] for n in keep} == pytest.approx({n: expected[n] for n in keep}, rel=1e-6, abs=1e-7)


def moved_names(before: Policy, after: Policy) -> set[str]:
    start = before.state_dict()
    return {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, start[name])}


def pair_losses(nano, policy, row):
    """{(t, k): cross-entropy} of one row by itself, from materialised logits."""
    tokens_T = torch.from_numpy(row.example.tokens_T).long()
    with torch.no_grad():
        logits_THV = policy.transformer(tokens_T[None], return_all_heads=True)[0]
    return {
        (t, k): float(F.cross_entropy(logits_THV[t, k - 1], tokens_T[t + k])) for t, k in row.pairs(nano.num_horizons)
    }


class TestSplits:
    """Rule: loss, metrics and gradients do not depend on how the global batch is split."""

    def test_micro_batches_and_ranks_change_nothing(self, nano, arm):
        has_reference = nano.load(*arm).needs_reference
        anchor = () if has_reference else ("critic.anchor_coef=0.1",)
        self.assert_any_split_is_the_same(nano, nano.load(*arm, *anchor, UNCLIPPED))

    @pytest.mark.parametrize("words", [(), ("weighting.type=signed",), ("recipe=rho1_weighted", "rho1.mode=weighted")])
    def test_dividing_by_the_weights_changes_nothing_either(self, nano, words):
        self.assert_any_split_is_the_same(nano, nano.load(*words, UNCLIPPED, "loss.normalizer=weights"))

    def assert_any_split_is_the_same(self, nano, config):
        rows = nano.rows(6)
        whole = nano.step(config, [rows])
        pieces = nano.step(config, [rows[4:], [rows[3]], rows[:3][::-1]])
        assert_same_gradients(pieces.gradients, whole.gradients)
        assert_same_metrics(pieces.metrics, whole.metrics)
        for outcome in nano.step_on_ranks(config, [[rows[1::3], rows[2::3]], [rows[0::3]]]):
            assert_same_gradients(outcome.gradients, whole.gradients)
            assert_same_metrics(outcome.metrics, whole.metrics, but=["train/grad_norm"])

    @pytest.mark.parametrize("objective", ["value", "pairwise"])
    def test_stage_1_does_not_depend_on_the_split_either(self, nano, objective):
        config = nano.load(f"critic.objective={objective}", UNCLIPPED)
        rows = [row for pair in zip(*_by_class(nano.rows(20)), strict=False) for row in pair][:8]
        whole = nano.step(config, [rows], stage=1)
        pieces = nano.step(config, [rows[4:6], rows[:4], rows[6:]], stage=1)
        assert_same_gradients(pieces.gradients, whole.gradients)
        assert_same_metrics(pieces.metrics, whole.metrics)
        for outcome in nano.step_on_ranks(config, [[rows[:2]], [rows[2:]]], stage=1):
            assert_same_gradients(outcome.gradients, whole.gradients)
            assert_same_metrics(outcome.metrics, whole.metrics, but=["train/grad_norm"])
        bias = {"value_head.output.bias"} if objective == "value" else set()
        assert set(whole.gradients) == {"value_head.output.weight"} | bias

    def test_micro_batches_of_very_different_sizes_do_not_count_alike(self, nano):
        """The mistake this guards against, a mean of local means, would pass with equal sizes."""
        rows = sorted(nano.rows(8), key=lambda row: len(row.targets))
        config = nano.load("recipe=baseline", UNCLIPPED)
        whole, short, long = (nano.step(config, [part]) for part in (rows, rows[:6], rows[6:]))
        mean_of_means = (short.metrics["loss/policy"] + long.metrics["loss/policy"]) / 2
        assert abs(mean_of_means - whole.metrics["loss/policy"]) > 1e-3


class TestReports:
    @pytest.mark.parametrize("normalizer", ["tokens", "weights"])
    def test_the_policy_loss_equals_a_loop_over_weighted_pairs(self, nano, normalizer):
        config = nano.load(f"loss.normalizer={normalizer}", "weighting.beta=0.3")
        rows, policy = nano.rows(8), nano.policy(config)
        sums, totals = [0.0] * 3, [0.0] * 3
        for row in rows:
            for (t, k), ce in pair_losses(nano, policy, row).items():
                after = row.reward if t + k == row.targets[-1] else float(row.values_T[t + k])
                weight = min(max(math.exp((after - float(row.values_T[t + k - 1])) / 0.3), 0.1), 5.0)
                sums[k - 1] += weight * ce
                totals[k - 1] += 1.0 if normalizer == "tokens" else weight
        metrics = nano.step(config, [rows[:3], rows[3:]]).metrics
        expected = sum(total / count for total, count in zip(sums, totals, strict=True)) / 3
        assert metrics["loss/policy"] == pytest.approx(expected, rel=1e-5)

    def test_the_unweighted_cross_entropy_counts_every_pair_in_every_arm(self, nano, arm):
        config = nano.load(*arm)
        rows, policy = nano.rows(8), nano.policy(config)
        per_horizon = {k: [] for k in (1, 2, 3)}
        for row in rows:
            for (_, k), ce in pair_losses(nano, policy, row).items():
                per_horizon[k].append(ce)
        means = {f"loss/ce_h{k}": sum(ces) / len(ces) for k, ces in per_horizon.items()}
        metrics = nano.step(config, [rows[:3], rows[3:]]).metrics
        assert {name: metrics[name] for name in means} == pytest.approx(means, rel=1e-5)
        assert metrics["loss/policy_unweighted"] == pytest.approx(sum(means.values()) / 3, rel=1e-5)

    def test_dropped_pairs_are_left_out_of_the_loss_and_of_its_denominator(self, nano):
        config = nano.load("weighting.type=drop")
        rows, policy = nano.rows(8), nano.policy(config)
        kept = {k: [] for k in (1, 2, 3)}
        for row in rows:
            for (t, k), ce in pair_losses(nano, policy, row).items():
                after = row.reward if t + k == row.targets[-1] else float(row.values_T[t + k])
                if after - float(row.values_T[t + k - 1]) >= -0.1:
                    kept[k].append(ce)
        metrics = nano.step(config, [rows[:3], rows[3:]]).metrics
        assert metrics["loss/policy"] == pytest.approx(sum(sum(ces) / len(ces) for ces in kept.values()) / 3, rel=1e-5)
        assert metrics["loss/policy"] != pytest.approx(metrics["loss/policy_unweighted"], rel=1e-3)

    @pytest.mark.parametrize("normalizer", ["tokens", "weights"])
    def test_a_signed_step_reports_the_bounded_objective_and_has_its_gradient(self, nano, normalizer):
        """Sum of w CE, and of |w| p where an incorrect row's td is negative, by autograd over whole logits."""
        words = ("weighting.type=signed", "weighting.beta=0.3", f"loss.normalizer={normalizer}")
        config = nano.load(*words, "train.value_coef=0", UNCLIPPED)
        rows, policy = nano.rows(8), nano.policy(config)
        sums, totals, num_pushed = [torch.zeros(()) for _ in range(3)], [0.0] * 3, 0
        for row in rows:
            tokens_T = torch.from_numpy(row.example.tokens_T).long()
            logits_THV = policy.transformer(tokens_T[None], return_all_heads=True)[0]
            for t, k in row.pairs(3):
                after = row.reward if t + k == row.targets[-1] else float(row.values_T[t + k])
                error = after - float(row.values_T[t + k - 1])
                weight = min(max(math.exp(error / 0.3), 0.1), 5.0)
                ce = F.cross_entropy(logits_THV[t, k - 1], tokens_T[t + k])
                is_pushed = error < 0 and not row.reward
                num_pushed += is_pushed
                sums[k - 1] = sums[k - 1] + weight * (torch.exp(-ce) if is_pushed else ce)
                totals[k - 1] += 1.0 if normalizer == "tokens" else weight
        loss = sum(total / count for total, count in zip(sums, totals, strict=True)) / 3
        assert num_pushed > 10
        names = [name for name, _ in policy.named_parameters() if "value_head" not in name]
        parameters = dict(policy.named_parameters())
        wanted = torch.autograd.grad(loss, [parameters[name] for name in names])
        outcome = nano.step(config, [rows[:3], rows[3:]])
        assert outcome.metrics["loss/policy"] == pytest.approx(loss.item(), rel=1e-5)
        assert outcome.metrics["loss/total"] == outcome.metrics["loss/policy"]
        for name, gradient in zip(names, wanted, strict=True):
            torch.testing.assert_close(outcome.gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)

    def test_a_step_that_drops_every_pair_teaches_the_policy_nothing(self, nano):
        config = nano.load("weighting.type=drop", "train.value_coef=0")
        falling = [dataclasses.replace(row, values_T=9 - np.arange(len(row), dtype=np.float32)) for row in nano.rows(8)]
        rows = [row for row in falling if not row.example.is_correct and len(row) < 10]
        outcome = nano.step(config, [rows])
        assert outcome.metrics["weight/dropped_frac"] == 1.0
        assert outcome.metrics["loss/policy"] == outcome.metrics["train/grad_norm"] == 0.0
        assert outcome.metrics["loss/policy_unweighted"] > 1.0

    def test_topk_trains_on_the_kept_pairs_alone_and_divides_by_their_number(self, nano):
        config = nano.load(*RECIPES["rho1_topk"])
        rows, policy = nano.rows(8), nano.policy(config)
        expected = 0.0
        for k in (1, 2, 3):
            pairs = [
                (ce - float(row.reference_losses_T[t + k]), ce)
                for row in rows
                for (t, h), ce in pair_losses(nano, policy, row).items()
                if h == k
            ]
            kept = sorted(pairs, reverse=True)[: math.ceil(round(0.6 * len(pairs), 9))]
            expected += sum(ce for _, ce in kept) / len(kept) / 3
        assert nano.step(config, [rows[:3], rows[3:]]).metrics["loss/policy"] == pytest.approx(expected, rel=1e-5)

    def test_explained_variance_and_fractions_equal_a_loop_over_states(self, nano):
        config = nano.load("critic.value_clip=0.3")
        rows = nano.rows(8)
        v, o, g = _values_old_and_targets(nano, nano.policy(config), rows)
        metrics = nano.step(config, [rows[:3], rows[3:]]).metrics
        expected = {
            "critic/explained_variance": float(1 - (g - v).var(correction=0) / g.var(correction=0)),
            "critic/anchor_distance": float((v - o).abs().mean()),
            "critic/value_clip_frac": float(((v - o).abs() > 0.3).double().mean()),
            "critic/outside_unit_frac": float(((v < 0) | (v > 1)).double().mean()),
        }
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert not any(name.startswith("sum/") for name in metrics)

    def test_a_frozen_critic_and_the_policy_s_own_head_never_share_a_name(self, nano):
        """The critic's numbers are those of the scores, the head's those of the policy: a loop over states each."""
        words = ("critic.source=frozen", "critic.path=elsewhere")
        silent, asked = nano.load(*words), nano.load(*words, "train.value_coef=0.3", "critic.anchor_coef=0.1")
        rows = nano.rows(8)
        found = {
            name: nano.step(config, [rows[:3], rows[3:]]).metrics
            for name, config in {"no": silent, "yes": asked}.items()
        }
        v, o, g = _values_old_and_targets(nano, nano.policy(asked), rows)
        critic = {
            "critic/explained_variance": float(1 - (g - o).var(correction=0) / g.var(correction=0)),
            "critic/outside_unit_frac": float(((o < 0) | (o > 1)).double().mean()),
        }
        own = {
            "policy_head/explained_variance": float(1 - (g - v).var(correction=0) / g.var(correction=0)),
            "policy_head/outside_unit_frac": float(((v < 0) | (v > 1)).double().mean()),
            "policy_head/anchor_distance": float((v - o).abs().mean()),
            "policy_head/anchor_loss": float((v - o).square().mean()),
        }
        for metrics, expected in ((found["no"], critic), (found["yes"], critic | own)):
            assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
            of_values = {name for name in metrics if name.startswith(("critic/", "loss/value", "loss/anchor"))}
            assert of_values == set(critic)
        assert not any(name.startswith("policy_head/") for name in found["no"])
        assert found["yes"]["loss/total"] - found["yes"]["loss/policy"] == pytest.approx(
            0.3 * found["yes"]["policy_head/value_loss"] + 0.1 * own["policy_head/anchor_loss"], rel=1e-4
        )

    def test_the_disagreement_of_an_ensemble_is_its_mean_over_the_states_that_a_td_error_reads(self, nano):
        """On any split; one critic has none."""
        words = ("critic.source=frozen", "critic.path=elsewhere")
        rows, config = nano.rows(6), nano.load(*words, "critic.ensemble=2")
        expected = [float(row.disagreements_T[j - 1]) for row in rows for j in row.targets]
        for split in ([rows], [rows[:2], rows[2:]]):
            metrics = nano.step(config, split).metrics
            assert metrics["critic/disagreement"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        (_, second) = nano.step_on_ranks(config, [[rows[:1]], [rows[1:]]])
        assert second.metrics["critic/disagreement"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert "critic/disagreement" not in nano.step(nano.load(*words), [rows]).metrics

    def test_without_a_value_loss_the_critic_is_measured_by_the_values_that_scored(self, nano):
        config, rows = nano.load("train.value_coef=0"), nano.rows(8)
        _, o, g = _values_old_and_targets(nano, nano.policy(config), rows)
        metrics = nano.step(config, [rows]).metrics
        expected = float(1 - (g - o).var(correction=0) / g.var(correction=0))
        assert metrics["critic/explained_variance"] == pytest.approx(expected, rel=1e-5)
        assert not {"critic/anchor_distance", "loss/value"} & metrics.keys()

    def test_a_constant_target_has_no_explained_variance(self):
        sums = {"states": 4.0, "target": 4.0, "target_squared": 4.0, "residual": 1.0, "residual_squared": 1.0}
        rest = {"value_clipped": 0.0, "anchor_distance": 2.0, "value_outside": 1.0}
        metrics = derive_metrics({"loss/value": 0.5} | {f"sum/critic/{name}": s for name, s in (sums | rest).items()})
        assert metrics == {
            "loss/value": 0.5,
            "critic/anchor_distance": 0.5,
            "critic/value_clip_frac": 0.0,
            "critic/outside_unit_frac": 0.25,
        }


class TestUpdates:
    def test_the_gradient_norm_is_clipped_and_reported_before_clipping(self, nano):
        rows = nano.rows(8)
        free, clipped = (nano.step(nano.load(f"train.max_grad_norm={bound}"), [rows]) for bound in (1e9, 0.5))
        norm = math.sqrt(sum(float(g.square().sum()) for g in free.gradients.values()))
        assert norm > 1.0
        assert free.metrics["train/grad_norm"] == clipped.metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
        for name, gradient in free.gradients.items():
            torch.testing.assert_close(clipped.gradients[name], gradient * 0.5 / norm, rtol=1e-4, atol=1e-8)

    def test_the_rate_of_the_step_reaches_the_optimizer(self, nano):
        config = nano.load(UNCLIPPED)
        before, outcome = nano.policy(config), nano.step(config, [nano.rows(4)])
        assert outcome.metrics["train/learning_rate"] == 1e-3
        after = dict(outcome.policy.named_parameters())
        for name, parameter in before.named_parameters():
            torch.testing.assert_close(after[name], parameter - 1e-3 * outcome.gradients[name], rtol=0, atol=1e-7)

    def test_no_gradient_is_left_for_the_next_step(self, nano):
        outcome = nano.step(nano.load(), [nano.rows(4)])
        assert all(parameter.grad is None for parameter in outcome.policy.parameters())


class TestValueHead:
    """Rule: the value head learns from the value loss alone."""

    def test_the_value_loss_changes_the_value_head(self, nano):
        config = nano.load()
        before, outcome = nano.policy(config), nano.step(config, [nano.rows(8)])
        assert moved_names(before, outcome.policy) == set(before.state_dict())
        assert outcome.gradients["value_head.output.weight"].norm() > 1e-3

    def test_without_value_loss_the_value_head_stays(self, nano):
        config = nano.load("train.value_coef=0")
        before, outcome = nano.policy(config), nano.step(config, [nano.rows(8)])
        assert {n for n in before.state_dict() if "value_head" not in n} == moved_names(before, outcome.policy)

    def test_the_value_loss_teaches_the_head_on_a_frozen_trunk(self, nano):
        config = nano.load("weighting.type=uniform")
        policy, rows = nano.policy(config), nano.rows(8)
        policy.train_value_path_only(train_trunk=False)
        training = nano.training(config, policy, build_optimizer(policy, config.train, 0.05), stage=1)
        history = [training.run([nano.micro_batch(rows)], 0.05)["loss/value"] for _ in range(20)]
        assert history[-1] < 0.5 * history[0]

    @pytest.mark.parametrize("words", [(), ("weighting.terminal=horizon",), ("weighting.type=sequence_reward",)])
    def test_weights_made_of_the_policys_own_values_send_no_gradient_into_the_head(self, nano, words):
        """Values that hang on the policy's graph give the gradients of the same values as constants."""
        config = nano.load(*words, UNCLIPPED, "critic.value_target=lambda", "critic.anchor_coef=0.1")
        rows = nano.rows(8)
        gradients = []
        for attached in (True, False):
            policy = nano.policy(config)
            recorder = build_optimizer(policy, config.train, 1e-3)
            micro = nano.micro_batch(rows)
            own_BT = policy.states(micro.tensors).values_BT + 0.1
            assert own_BT.requires_grad
            values_BT = own_BT if attached else own_BT.detach()
            training = nano.training(config, policy, recorder)
            gradients.append(_backward_only(training, MicroBatch(**{**micro.__dict__, "values_BT": values_BT})))
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            assert torch.equal(gradient, gradients[1][name]), name

    def test_the_token_weights_change_the_policys_gradient(self, nano):
        rows = nano.rows(8)
        td, uniform = (
            nano.step(nano.load(f"weighting.type={arm}", "train.value_coef=0"), [rows]) for arm in ("td", "uniform")
        )
        difference = td.gradients["transformer.output.weight"] - uniform.gradients["transformer.output.weight"]
        assert difference.norm() > 0.01 * uniform.gradients["transformer.output.weight"].norm()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_each_recipe_overfits_32_rows(nano, recipe):
    config = nano.load(*recipe)
    policy, rows = nano.policy(config), nano.rows(32, prompt=(4, 5))
    micro_batches = [nano.micro_batch(rows)]
    training = nano.training(config, policy, build_optimizer(policy, config.train, 0.02))
    history = [training.run(micro_batches, 0.02)["loss/policy_unweighted"] for _ in range(18)]
    assert history[0] > 3.0
    assert history[-1] < 0.6


def test_a_step_is_the_same_when_repeated(nano):
    config = nano.load(UNCLIPPED)
    first, again = (nano.step(config, [nano.rows(6)]) for _ in range(2))
    assert first.metrics == again.metrics
    assert moved_names(first.policy, again.policy) == set()


def _by_class(rows):
    return ([row for row in rows if row.example.is_correct is wanted] for wanted in (True, False))


def _values_old_and_targets(nano, policy, rows):
    """What the policy says, what scored, and R, of every state before a target: three float64 vectors."""
    values, old, targets = [], [], []
    for row in rows:
        with torch.no_grad():
            own = policy.states(nano.micro_batch([row]).tensors).values_BT[0].double()
        for j in row.targets:
            targets.append(row.reward)
            values.append(float(own[j - 1]))
            old.append(float(row.values_T[j - 1]))
    return (torch.tensor(each, dtype=torch.float64) for each in (values, old, targets))


def _backward_only(training, micro_batch):
    """The gradients of one step, taken where the optimizer would read them."""
    taken = {}

    def take(optimizer, *_):
        taken.update({n: p.grad.clone() for n, p in training.policy.named_parameters() if p.grad is not None})

    training.optimizer.register_step_pre_hook(take)
    training.run([micro_batch], 0.0)
    return copy.copy(taken)


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(nano):
    config = nano.load()
    policy = nano.policy(config)
    start = copy.deepcopy(policy)
    training = nano.training(config, policy, build_optimizer(policy, config.train, 1e-3))
    micro_batch = nano.micro_batch(nano.rows(4))
    broken = dataclasses.replace(micro_batch, values_BT=torch.full_like(micro_batch.values_BT, float("nan")))
    with pytest.raises(TrainingError, match=r"the step was not taken.*Lower train\.learning_rate"):
        training.run([broken], 1e-3)
    assert moved_names(start, policy) == set()
