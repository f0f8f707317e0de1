import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wmtp_ray.artifacts.meta_checkpoint import save_policy, save_transformer
from wmtp_ray.training.optim import build_optimizer, clip_gradients, learning_rate_at, set_learning_rate
from wmtp_ray.training.stages import critic_stage, policy_stage

STEPS = st.integers(1, 400)
FRACS = st.floats(0.0, 1.0)


class TestLearningRate:
    def test_the_worked_example_of_the_docstring(self):
        rates = [learning_rate_at(step, 10, peak=1.0, warmup_frac=0.2, min_frac=0.1) for step in range(10)]
        cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(1, 9)]
        assert rates == pytest.approx([0.5, 1.0, *cosine])
        assert (rates[1], rates[9]) == pytest.approx((1.0, 0.1))

    @given(STEPS, FRACS, FRACS)
    def test_it_rises_to_the_peak_and_falls_to_the_floor(self, num_steps, warmup_frac, min_frac):
        rates = [
            learning_rate_at(step, num_steps, peak=2.0, warmup_frac=warmup_frac, min_frac=min_frac)
            for step in range(num_steps)
        ]
        top = rates.index(max(rates))
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert all(rate <= 2.0 for rate in rates)
        assert all(rate >= 2.0 * min_frac * (1 - 1e-12) for rate in rates[top:])

    def test_warm_up_takes_the_share_as_written(self):
        """0.07 * 100 is 7.000000000000001 in floats; the warm-up has 7 steps."""
        rates = [learning_rate_at(step, 100, peak=1.0, warmup_frac=0.07, min_frac=0.0) for step in range(7)]
        assert rates == pytest.approx([(step + 1) / 7 for step in range(7)])

    def test_a_run_of_one_step_uses_the_peak(self):
        assert learning_rate_at(0, 1, peak=3e-5, warmup_frac=0.03, min_frac=0.1) == 3e-5

    def test_every_group_gets_the_rate(self, nano):
        config = nano.load()
        optimizer = build_optimizer(nano.policy(config), config.train, 1e-3)
        set_learning_rate(optimizer, 7e-4)
        assert [group["lr"] for group in optimizer.param_groups] == [7e-4, 7e-4]


class TestParameterGroups:
    def test_weight_decay_acts_on_matrices_only(self, nano):
        config = nano.load("train.weight_decay=0.25")
        policy = nano.policy(config)
        optimizer = build_optimizer(policy, config.train, 1e-3)
        decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in policy.named_parameters():
            is_vector = name.endswith(("norm.weight", "bias"))
            assert decayed[id(parameter)] == (0.0 if is_vector else 0.25), name
        assert len(decayed) == len(list(policy.parameters()))

    def test_decay_shrinks_a_matrix_without_gradient_signal_and_leaves_a_norm(self, nano):
        config = nano.load("train.weight_decay=0.5")
        policy = nano.policy(config)
        optimizer = build_optimizer(policy, config.train, 0.1)
        before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, parameter in policy.named_parameters():
            factor = 1.0 if parameter.ndim < 2 else 1.0 - 0.1 * 0.5
            torch.testing.assert_close(parameter.detach(), factor * before[name])

    def test_frozen_parameters_are_left_out(self, nano):
        config = nano.load()
        policy = nano.policy(config)
        trained = policy.train_value_path_only(train_trunk=False)
        optimizer = build_optimizer(policy, config.train, 1e-3)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in trained}

    def test_the_betas_are_the_configurations(self, nano):
        config = nano.load("train.adam_betas=[0.8,0.9]")
        assert build_optimizer(nano.policy(config), config.train, 1e-3).defaults["betas"] == (0.8, 0.9)


class TestFreezing:
    """Rule: a parameter that no loss reaches is frozen, because DDP waits for every other one."""

    @pytest.fixture
    def model_dir(self, nano, tmp_path):
        save_transformer(tmp_path / "model", nano.policy(nano.load()).transformer)
        return tmp_path / "model"

    @pytest.mark.parametrize(
        ("words", "learns"),
        [
            (("train.value_coef=0",), False),
            (("recipe=baseline",), False),
            (("train.value_coef=0.5",), True),
            (("train.value_coef=0", "critic.anchor_coef=0.1"), True),
        ],
    )
    def test_the_value_head_learns_in_stage_2_only_with_a_loss_of_its_own(self, nano, model_dir, words, learns):
        config = nano.load(*words, f"model.path={model_dir}", f"storage_root={model_dir.parent}")
        policy = policy_stage(config).build_policy(config)
        assert {p.requires_grad for p in policy.value_head.parameters()} == {learns}
        assert {p.requires_grad for p in policy.transformer.parameters()} == {True}
        training = nano.training(config, policy, build_optimizer(policy, config.train, 1e-3))
        gradients = set()
        training.optimizer.register_step_pre_hook(
            lambda *_: gradients.update(n for n, p in policy.named_parameters() if p.grad is not None)
        )
        training.run([nano.micro_batch(nano.rows(4))], 1e-3)
        assert gradients == {n for n, p in policy.named_parameters() if p.requires_grad}

    @pytest.mark.parametrize(("objective", "biases"), [("value", {"value_head.output.bias"}), ("pairwise", set())])
    def test_stage_1_trains_the_head_alone_and_for_pairs_not_its_level(self, nano, model_dir, objective, biases):
        """Pairs do not see a shift of V: the bias would get rounding errors, which AdamW turns into whole steps."""
        words = (f"model.path={model_dir}", f"storage_root={model_dir.parent}", f"critic.objective={objective}")
        config = nano.load(*words)
        policy = critic_stage(config).build_policy(config)
        learning = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert learning == {"value_head.output.weight"} | biases

    def test_stage_2_takes_over_the_head_that_stage_1_left(self, nano, model_dir):
        config = nano.load(f"model.path={model_dir}", f"storage_root={model_dir.parent}")
        trained = nano.policy(config, seed=9)
        save_policy(config.run_dir / "critic" / "final", trained)
        policy = policy_stage(config).build_policy(config)
        assert torch.equal(policy.value_head.output.weight, trained.value_head.output.weight)
        start = nano.policy(config).transformer.tok_embeddings.weight
        assert torch.equal(policy.transformer.tok_embeddings.weight, start)


class TestClip:
    def layer(self, gradient):
        layer = nn.Linear(2, 1, bias=True)
        layer.weight.grad = torch.tensor([gradient])
        return layer

    def test_a_long_gradient_is_scaled_and_its_norm_returned(self):
        layer = self.layer([3.0, 4.0])
        assert clip_gradients(layer.parameters(), 1.0) == pytest.approx(5.0)
        torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.6, 0.8]]), rtol=1e-5, atol=0)

    def test_a_short_gradient_stays_as_it_is(self):
        layer = self.layer([0.3, 0.4])
        assert clip_gradients(layer.parameters(), 1.0) == pytest.approx(0.5)
        assert layer.weight.grad.tolist() == torch.tensor([[0.3, 0.4]]).tolist()
