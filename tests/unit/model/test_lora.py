import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_policy, load_value_model, save_policy
from wmtp_ray.config.schema import LoraConfig
from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.lora import attach_adapters, base_tensors, merge_adapters
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.ranks import OneRank
from wmtp_ray.training.checkpoint import RunState, restore, save_checkpoint
from wmtp_ray.training.stored_tensors import whole_policy_tensors

ARGS = ModelArgs(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=24, n_future_tokens=3, multiple_of=8)
ALL = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
LORA = LoraConfig.model_construct(rank=2, alpha=6, dropout=0.0, targets=ALL)
SPEC = ValueSpec("mlp", 0.5, "surprisal")


def test_without_peft_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'wmtp_ray\[lora\]'"):
        attach_adapters(Transformer(ARGS), LORA, seed=0)
    with pytest.raises(ValueError, match=r"pip install 'wmtp_ray\[lora\]'"):
        LoraConfig(rank=2, alpha=6, dropout=0.0, targets=ALL)


def test_merging_adds_the_scaled_product_and_changes_nothing_in_place():
    base = {"a.weight": torch.ones(3, 2), "b.weight": torch.zeros(1)}
    adapters = {
        "a.lora_A.default.weight": torch.tensor([[1.0, 2.0]]),
        "a.lora_B.default.weight": torch.tensor([[1.0], [0.0], [-1.0]]),
    }
    merged = merge_adapters(base, adapters, 0.5)
    assert merged["a.weight"].tolist() == [[1.5, 2.0], [1.0, 1.0], [0.5, 0.0]]
    assert merged["b.weight"] is base["b.weight"]
    assert base["a.weight"].tolist() == [[1.0, 1.0]] * 3


class TestWithPeft:
    @pytest.fixture(autouse=True)
    def _peft(self):
        pytest.importorskip("peft")

    def test_fresh_adapters_change_no_bit_and_come_from_the_seed_alone(self):
        plain, tokens_BT = new_policy().transformer, torch.arange(12)[None]
        expected = plain(tokens_BT, return_all_heads=True)
        state = torch.get_rng_state()
        adapted = [adapted_policy(seed=seed) for seed in (5, 5, 6)]
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(adapted[0].transformer(tokens_BT, return_all_heads=True), expected)
        hashes = [tensors_sha256(policy.learned_state()) for policy in adapted]
        assert hashes[0] == hashes[1] != hashes[2]

    def test_adapters_and_value_head_alone_learn_in_every_block(self):
        policy = adapted_policy()
        learning = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert learning == set(policy.learned_state())
        blocks = [*(f"layers.{i}" for i in range(3)), "extra_heads.0", "extra_heads.1"]
        for block in blocks:
            found = {name.split(".")[4] for name in learning if name.startswith(f"transformer.{block}.")}
            assert found == set(ALL)
        assert not any("tok_embeddings" in name or "norm" in name or ".output.w" in name for name in learning - HEAD)

    def test_training_leaves_the_base_untouched(self):
        before, policy = new_policy().transformer.state_dict(), trained_policy()
        assert tensors_sha256(base_tensors(policy.transformer.state_dict())) == tensors_sha256(before)

    def test_merged_weights_compute_what_adapters_do(self, tmp_path):
        policy, tokens_BT = trained_policy(), torch.arange(12)[None]
        save_policy(tmp_path, policy)
        merged = load_policy(tmp_path)
        assert list(merged.state_dict()) == list(new_policy().state_dict())
        found, expected = (p.transformer(tokens_BT, return_all_heads=True) for p in (merged, policy))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (expected - new_policy().transformer(tokens_BT, return_all_heads=True)).abs().max() > 1e-2
        stored = load_file(tmp_path / "model.safetensors")
        block, start = policy.transformer.extra_heads[1], new_policy().transformer.extra_heads[1]
        product = block.attention.wo.lora_B["default"].weight @ block.attention.wo.lora_A["default"].weight
        difference = stored["extra_heads.1.attention.wo.weight"] - (start.attention.wo.weight + 3.0 * product)
        assert difference.abs().max() <= 1e-6

    @pytest.mark.parametrize(
        "changes",
        [
            {"qkv_bias": True, "attention_output_bias": True, "mlp_bias": True, "blocks_without_rope": (1, 4)},
            {"qkv_bias": True, "query_key_norm": "head", "attention_head_dim": 12, "attention_window": 5},
            {"query_key_norm": "width", "norm_after": True, "rope_scaling_factor": 2.0},
        ],
    )
    def test_adapters_merge_into_models_of_every_family_beside_biases_and_norms(self, tmp_path, changes):
        args, tokens_BT = replace(ARGS, **changes), torch.arange(12)[None]
        policy, start = (new_policy(args) for _ in range(2))
        policy.add_adapters(LORA, base_sha256="ab12", seed=5)
        train(policy, optimizer_of(policy))
        save_policy(tmp_path, policy)
        merged = load_policy(tmp_path)
        assert merged.transformer.args == ModelSpec.of(args)
        found, expected, before = (p.transformer(tokens_BT, return_all_heads=True) for p in (merged, policy, start))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (expected - before).abs().max() > 1e-2
        kept = {name for name in start.state_dict() if name.endswith(".bias") or "norm" in name}
        assert all(torch.equal(merged.state_dict()[name], start.state_dict()[name]) for name in kept - HEAD)
        save_policy(tmp_path / "base", start)
        critic = load_value_model(tmp_path / "base", SPEC).eval()
        critic.add_adapters(LORA)
        critic.load_learned(value_path_state(policy))
        batch = BatchTensors.from_batch(
            collate([Example(0, np.arange(12, dtype=np.int32), 3, True)], step=0, micro_step=0), "cpu"
        )
        torch.testing.assert_close(critic.values(batch), policy.states(batch).values_BT)

    def test_a_critic_with_the_base_needs_adapters_and_value_head_alone(self, tmp_path, nano):
        save_policy(tmp_path, new_policy())
        policy = trained_policy()
        version = {name: tensor.clone() for name, tensor in value_path_state(policy).items()}
        assert all(".lora_" in name or name.startswith("value_head.") for name in version)
        # Half of two trunk blocks lies below the head, the surprisal needs the rest and the first head.
        assert {name.split(".")[1] for name in version if name.startswith("layers")} == {"0", "1", "2"}
        critic = load_value_model(tmp_path, SPEC).eval()
        critic.add_adapters(LORA)
        batch = BatchTensors.from_batch(collate([row.example for row in nano.rows(3)], step=0, micro_step=0), "cpu")
        for _ in range(2):
            critic.load_learned(version)
            torch.testing.assert_close(critic.values(batch), policy.states(batch).values_BT)
        missing = dict(list(version.items())[1:])
        with pytest.raises(RuntimeError, match=next(iter(version))):
            critic.load_learned(missing)

    def test_a_checkpoint_holds_adapters_alone_and_fits_one_base(self, tmp_path):
        save_policy(tmp_path / "base", new_policy())
        base_sha256 = file_sha256(tmp_path / "base" / "model.safetensors")
        policy = trained_policy(base_sha256)
        optimizer = optimizer_of(policy)
        train(policy, optimizer)
        state = RunState(2, 1, "ab12", scorer={}, mlflow_run_id=None, world_size=1, mean_loss=1.0)
        saved = save_checkpoint(tmp_path / "run", state, policy, optimizer, [], OneRank(), keep=1, keep_best=0)
        assert not (saved / "policy" / "model.safetensors").exists()
        again = adapted_policy(base_sha256=base_sha256, seed=9)
        restore(saved, again, optimizer_of(again))
        assert tensors_sha256(again.state_dict()) == tensors_sha256(policy.state_dict())
        whole = whole_policy_tensors(saved, tmp_path / "base")
        assert tensors_sha256(whole) == tensors_sha256(policy.merged(policy.state_dict()))
        other = adapted_policy(base_sha256="cd34")
        with pytest.raises(ArtifactError, match=r"have cd34.*another base.*model\.path"):
            restore(saved, other, optimizer_of(other))
        wider = new_policy()
        wider.add_adapters(LORA.model_copy(update={"rank": 3}), base_sha256=base_sha256, seed=0)
        with pytest.raises(ArtifactError, match=r"rank 2.*rank 3.*model\.lora"):
            restore(saved, wider, optimizer_of(wider))
        save_policy(tmp_path / "base", trained_policy())
        with pytest.raises(ArtifactError, match=r"mean nothing on another base"):
            whole_policy_tensors(saved, tmp_path / "base")


def new_policy(args: ModelArgs = ARGS) -> Policy:
    torch.manual_seed(1)
    policy = Policy(Transformer(args), SPEC)
    with torch.no_grad():
        for parameter in policy.transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


HEAD = {name for name in new_policy().state_dict() if name.startswith("value_head.")}


def adapted_policy(base_sha256: str = "ab12", seed: int = 5) -> Policy:
    policy = new_policy()
    policy.add_adapters(LORA, base_sha256=base_sha256, seed=seed)
    return policy


def optimizer_of(policy: Policy) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)


def train(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Steps whose loss reads every prediction head and every weight of the value head."""
    for _ in range(3):
        logits = policy.transformer(torch.arange(12)[None], return_all_heads=True)
        head = sum((parameter - 0.3).square().sum() for parameter in policy.value_head.parameters())
        (logits.square().mean() + head).backward()
        optimizer.step()
        optimizer.zero_grad()


def trained_policy(base_sha256: str = "ab12") -> Policy:
    policy = adapted_policy(base_sha256)
    train(policy, optimizer_of(policy))
    return policy
