"""The losses of both stages against loops over full logits and single rows."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from wmtp_ray.training.losses import CriticLoss, Denominators, PolicyLoss, policy_pair_losses, value_terms
from wmtp_ray.training.stages import freeze_for_critic

POLICY_ONLY = ("train.value_coef=0", "weighting.type=uniform")


def pair_losses(nano, policy, row):
    """{(t, k): cross-entropy} of one row by itself, from materialised logits."""
    tokens_T = torch.from_numpy(row.example.tokens_T).long()
    with torch.no_grad():
        logits_THV = policy.transformer(tokens_T[None], return_all_heads=True)[0]
    return {
        (t, k): float(F.cross_entropy(logits_THV[t, k - 1], tokens_T[t + k])) for t, k in row.pairs(nano.num_horizons)
    }


def own_values(nano, policy, row):
    with torch.no_grad():
        return policy.states(nano.micro_batch([row]).tensors).values_BT[0].tolist()


def own_outputs(nano, policy, row):
    with torch.no_grad():
        return policy.states(nano.micro_batch([row]).tensors).value_outputs_BTO[0].tolist()


def logit_loss(outputs, reward):
    """-log of sigmoid(u) where the program is correct, of 1 - sigmoid(u) where it is not."""
    (logit,) = outputs
    return math.log(1 + math.exp(-logit if reward else logit))


def bin_loss(outputs, reward):
    """-log of the last bin's probability where the program is correct, of the first one's where it is not."""
    return math.log(sum(map(math.exp, outputs))) - outputs[-1 if reward else 0]


def counts(nano, rows, *, pairs_H=None):
    unweighted_H = [sum(k == h for row in rows for _, k in row.pairs(nano.num_horizons)) for h in (1, 2, 3)]
    return Denominators(
        pairs_H=torch.tensor(pairs_H or unweighted_H, dtype=torch.float64),
        unweighted_pairs_H=torch.tensor(unweighted_H, dtype=torch.float64),
        num_states=float(sum(len(row.targets) for row in rows)),
        num_documents=float(len(rows)),
    )


def ones(nano, micro):
    return torch.ones(*micro.tensors.tokens_BT.shape, nano.num_horizons)


def uniform_weights(nano, rows):
    """1 on every supervised pair, 0 elsewhere."""
    return torch.cat([_weights_of_row(nano, row, lambda t, k: 1.0) for row in rows])[None]


def _weights_of_row(nano, row, weight_of):
    weights_TH = torch.zeros(len(row), nano.num_horizons)
    for t, k in row.pairs(nano.num_horizons):
        weights_TH[t, k - 1] = weight_of(t, k)
    return weights_TH


def lambda_return(row, values, t, gamma, td_lambda):
    """objective.md: G[t] = values[t] + A[t + 1], A[j] = td_error[j] + gamma * lambda * A[j + 1]."""
    advantage, last = 0.0, row.targets[-1]
    for j in range(last, t, -1):
        after = row.reward if j == last else gamma * values[j]
        advantage = after - values[j - 1] + gamma * td_lambda * advantage
    return values[t] + advantage


def naive_value_loss(rows, values_of, old_of, config, targets_of=None):
    """Mean over states of max(e(v, G), e(v_clipped, G)), and mean of (v - old)^2."""
    critic = config.critic
    losses, distances = [], []
    for row in rows:
        values, old = values_of(row), old_of(row)
        for j in row.targets:
            t = j - 1
            target = row.reward if targets_of is None else targets_of(row, old, t)
            clipped = old[t] + min(max(values[t] - old[t], -critic.value_clip), critic.value_clip)
            losses.append(max(_error(values[t] - target, critic), _error(clipped - target, critic)))
            distances.append((values[t] - old[t]) ** 2)
    return sum(losses) / len(losses), sum(distances) / len(distances)


def _error(difference, critic):
    if critic.value_error == "squared":
        return difference**2
    far = abs(difference) > critic.huber_delta
    return critic.huber_delta * (abs(difference) - critic.huber_delta / 2) if far else difference**2 / 2


class TestPolicyLoss:
    def test_the_loss_is_the_weighted_mean_over_horizons_of_a_loop_over_pairs(self, nano):
        config = nano.load(*POLICY_ONLY, "loss.horizon_coefs=[1.0,0.5,0.0]")
        policy, rows = nano.policy(config), nano.rows(6)
        weights = {(n, t, k): 0.2 + (7 * n + 3 * t + k) % 5 for n, row in enumerate(rows) for t, k in row.pairs(3)}
        tensor = torch.cat(
            [_weights_of_row(nano, row, lambda t, k, n=n: weights[n, t, k]) for n, row in enumerate(rows)]
        )
        denominators = counts(nano, rows, pairs_H=[11.0, 7.0, 5.0])
        loss = PolicyLoss(policy, config, nano.num_horizons)(nano.micro_batch(rows), tensor[None], denominators)

        sums = dict.fromkeys((1, 2, 3), 0.0)
        for n, row in enumerate(rows):
            for (t, k), ce in pair_losses(nano, policy, row).items():
                sums[k] += weights[n, t, k] * ce
        expected = (1.0 * sums[1] / 11.0 + 0.5 * sums[2] / 7.0 + 0.0 * sums[3] / 5.0) / 3
        assert loss.total.item() == pytest.approx(expected, rel=1e-5)
        assert loss.parts["loss/policy"] == loss.parts["loss/total"] == loss.total

    def test_horizons_that_have_not_come_in_count_for_nothing(self, nano):
        config = nano.load(*POLICY_ONLY, "loss.horizon_coefs=[0.5,2,1]")
        rows = nano.rows(2)
        policy = nano.policy(config)
        micro = nano.micro_batch(rows)
        loss = PolicyLoss(policy, config, nano.num_horizons)
        full = counts(nano, rows)
        found = loss(micro, uniform_weights(nano, rows), replace(full, num_horizons=2))
        every = loss(micro, uniform_weights(nano, rows), full).parts
        expected = (0.5 * every["loss/ce_h1"] + 2 * every["loss/ce_h2"]) / 2
        assert found.total.item() == pytest.approx(float(expected), rel=1e-5)
        found.total.backward()
        gradients = {name: each.grad for name, each in policy.transformer.named_parameters()}
        assert all(float(gradients[name].abs().max()) == 0.0 for name in gradients if "extra_heads.1." in name)
        assert all(float(gradients[name].abs().max()) > 0.0 for name in gradients if "extra_heads.0." in name)

    def test_the_unweighted_cross_entropy_counts_all_pairs_alike(self, nano):
        config = nano.load(*POLICY_ONLY)
        policy, rows = nano.policy(config), nano.rows(6)
        weights = 3.5 * uniform_weights(nano, rows)
        denominators = counts(nano, rows, pairs_H=[11.0, 7.0, 5.0])
        parts = PolicyLoss(policy, config, nano.num_horizons)(nano.micro_batch(rows), weights, denominators).parts
        per_horizon = {k: [] for k in (1, 2, 3)}
        for row in rows:
            for (_, k), ce in pair_losses(nano, policy, row).items():
                per_horizon[k].append(ce)
        means = [sum(ces) / len(ces) for ces in per_horizon.values()]
        assert [float(parts[f"loss/ce_h{k}"]) for k in (1, 2, 3)] == pytest.approx(means, rel=1e-5)
        assert float(parts["loss/policy_unweighted"]) == pytest.approx(sum(means) / 3, rel=1e-5)

    def test_total_adds_value_loss_and_anchor_by_their_coefficients(self, nano):
        config = nano.load("train.value_coef=0.3", "critic.anchor_coef=0.7")
        policy, rows = nano.policy(config), nano.rows(6)
        loss = PolicyLoss(policy, config, nano.num_horizons)(
            nano.micro_batch(rows), uniform_weights(nano, rows), counts(nano, rows)
        )
        parts = {name: float(part) for name, part in loss.parts.items()}
        assert parts["loss/anchor"] > 0.0
        assert loss.total.item() == pytest.approx(
            parts["loss/policy"] + 0.3 * parts["loss/value"] + 0.7 * parts["loss/anchor"], rel=1e-6
        )

    def test_without_coefficients_no_value_is_reported(self, nano):
        config = nano.load(*POLICY_ONLY)
        rows = nano.rows(3)
        parts = PolicyLoss(nano.policy(config), config, nano.num_horizons)(
            nano.micro_batch(rows), uniform_weights(nano, rows), counts(nano, rows)
        ).parts
        assert not any(name.startswith(("loss/value", "loss/anchor", "sum/")) for name in parts)

    def test_a_coefficient_for_every_horizon_is_required(self, nano):
        config = nano.load("loss.horizon_coefs=[1.0,0.5]")
        with pytest.raises(AssertionError, match="horizon_coefs"):
            PolicyLoss(nano.policy(config), config, nano.num_horizons)


class TestPairLosses:
    def test_pair_losses_equal_the_full_logits_and_carry_no_gradient(self, nano):
        policy, rows = nano.policy(nano.load()), nano.rows(6)
        losses_BTH = policy_pair_losses(policy, nano.micro_batch(rows).tensors, nano.num_horizons, 0.001)
        assert not losses_BTH.requires_grad
        start, num_pairs = 0, 0
        for row in rows:
            for (t, k), ce in pair_losses(nano, policy, row).items():
                assert float(losses_BTH[0, start + t, k - 1]) == pytest.approx(ce, rel=1e-5)
                num_pairs += 1
            start += len(row)
        assert int((losses_BTH != 0).sum()) == num_pairs


class TestValueTerms:
    @pytest.mark.parametrize("error", ["squared", "huber"])
    @pytest.mark.parametrize("target", ["mc", "lambda"])
    def test_value_loss_and_anchor_equal_a_loop_over_states(self, nano, error, target):
        config = nano.load(
            f"critic.value_error={error}",
            f"critic.value_target={target}",
            "critic.huber_delta=0.3",
            "critic.value_lambda=0.8",
            "weighting.gamma=0.95",
        )
        policy, rows = nano.policy(config), nano.rows(8)
        micro = nano.micro_batch(rows)
        terms = value_terms(policy.states(micro.tensors), micro, config.critic, 0.95, counts(nano, rows).num_states)
        expected = naive_value_loss(
            rows,
            lambda row: own_values(nano, policy, row),
            lambda row: row.values_T.tolist(),
            config,
            targets_of=(lambda row, old, t: lambda_return(row, old, t, 0.95, 0.8)) if target == "lambda" else None,
        )
        assert (terms.loss.item(), terms.anchor.item()) == pytest.approx(expected, rel=1e-5)
        assert float(terms.parts["sum/critic/value_clipped"]) > 0

    def test_without_a_scoring_critic_clip_and_anchor_vanish(self, nano):
        config = nano.load()
        policy, rows = nano.policy(config), nano.rows(8)
        micro = nano.micro_batch(rows)
        unscored = type(micro)(**{**micro.__dict__, "values_BT": None})
        terms = value_terms(policy.states(micro.tensors), unscored, config.critic, 1.0, counts(nano, rows).num_states)
        errors = [(own_values(nano, policy, row)[j - 1] - row.reward) ** 2 for row in rows for j in row.targets]
        assert terms.loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
        assert terms.anchor.item() == float(terms.parts["sum/critic/value_clipped"]) == 0.0

    @pytest.mark.parametrize("error", ["bce", "categorical"])
    def test_a_value_that_is_a_probability_learns_by_a_cross_entropy(self, nano, error):
        config = nano.load(f"critic.value_error={error}", "critic.value_bins=5", "critic.value_clip=9")
        policy, rows = nano.policy(config), nano.rows(8)
        micro = nano.micro_batch(rows)
        terms = value_terms(policy.states(micro.tensors), micro, config.critic, 1.0, counts(nano, rows).num_states)
        losses = [
            logit_loss(outputs, row.reward) if error == "bce" else bin_loss(outputs, row.reward)
            for row in rows
            for outputs in [own_outputs(nano, policy, row)[j - 1] for j in row.targets]
        ]
        assert terms.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert float(terms.parts["sum/critic/value_outside"]) == 0


class TestCriticLoss:
    def loss(self, nano, rows, *words):
        config = nano.load(*words)
        policy = nano.policy(config)
        freeze_for_critic(policy, config)
        micro = nano.micro_batch(rows)
        unscored = type(micro)(**{**micro.__dict__, "values_BT": None})
        loss = CriticLoss(policy, config)(unscored, ones(nano, micro), counts(nano, rows))
        return policy, loss

    @pytest.mark.parametrize(("objective", "biases"), [("value", {"value_head.output.bias"}), ("pairwise", set())])
    def test_only_the_value_head_gets_gradient(self, nano, objective, biases):
        policy, loss = self.loss(nano, pairs_of(nano), f"critic.objective={objective}")
        loss.total.backward()
        moved = {name for name, p in policy.named_parameters() if p.grad is not None}
        assert moved == {"value_head.output.weight"} | biases
        assert policy.value_head.output.weight.grad.norm() > 0

    def test_a_trained_trunk_gets_gradient_and_the_prediction_heads_none(self, nano):
        words = ("critic.train_trunk=true", "critic.source=frozen")
        policy, loss = self.loss(nano, pairs_of(nano), *words)
        loss.total.backward()
        moved = {name for name, p in policy.named_parameters() if p.grad is not None}
        trunk = ("tok_embeddings", "layers.0.", "layers.1.", "norm.")
        below = tuple(f"transformer.{part}" for part in trunk)
        assert moved == {n for n, _ in policy.named_parameters() if n.startswith((*below, "value_head."))}

    @pytest.mark.parametrize("error", ["squared", "huber"])
    @pytest.mark.parametrize("target", ["mc", "lambda"])
    def test_the_value_objective_equals_a_loop_over_states(self, nano, error, target):
        rows = nano.rows(8)
        words = (f"critic.value_error={error}", f"critic.value_target={target}", "critic.value_lambda=0.8")
        policy, loss = self.loss(nano, rows, *words)
        values = {row.example.row_id: own_values(nano, policy, row) for row in rows}
        expected, _ = naive_value_loss(
            rows,
            lambda row: values[row.example.row_id],
            lambda row: values[row.example.row_id],
            nano.load(*words),
            targets_of=(lambda row, old, t: lambda_return(row, old, t, 1.0, 0.8)) if target == "lambda" else None,
        )
        assert loss.total.item() == pytest.approx(expected, rel=1e-5)

    def test_the_gradient_of_a_bootstrapped_target_stops_at_the_target(self, nano):
        """With V = w . h, d loss / d bias = 2 * mean(V - G): nothing comes through G."""
        rows = nano.rows(8)
        words = ("critic.value_target=lambda", "critic.value_lambda=0.8")
        policy, loss = self.loss(nano, rows, *words)
        loss.total.backward()
        errors = []
        for row in rows:
            values = own_values(nano, policy, row)
            errors += [values[j - 1] - lambda_return(row, values, j - 1, 1.0, 0.8) for j in row.targets]
        expected = 2 * sum(errors) / len(errors)
        assert policy.value_head.output.bias.grad.item() == pytest.approx(expected, rel=1e-4)

    def test_the_pairwise_objective_equals_a_loop_over_pairs(self, nano):
        rows = pairs_of(nano)
        policy, loss = self.loss(nano, rows, "critic.objective=pairwise")
        expected = 0.0
        for first, second in zip(rows[0::2], rows[1::2], strict=True):
            correct, incorrect = (first, second) if first.reward else (second, first)
            means = []
            for row in (correct, incorrect):
                values = own_values(nano, policy, row)
                means.append(sum(values[j - 1] for j in row.targets) / len(row.targets))
            expected += math.log1p(math.exp(-(means[0] - means[1])))
        assert loss.total.item() == pytest.approx(expected / (len(rows) / 2), rel=1e-5)


def pairs_of(nano):
    """Three pairs of one correct and one incorrect row each, in either order."""
    rows = nano.rows(20)
    correct, incorrect = ([row for row in rows if row.example.is_correct is wanted][:3] for wanted in (True, False))
    (a, b, c), (d, e, f) = correct, incorrect
    return [a, d, e, b, c, f]
