"""What is handed over of a policy, and the model elsewhere that becomes it: the same tensors, bit by bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wmtp_ray.artifacts.meta_checkpoint import TRANSFORMER, save_transformer, without_prefix
from wmtp_ray.config.schema import LoraConfig, ModelConfig
from wmtp_ray.model.policy import Policy
from wmtp_ray.training.evaluated_policy import EvaluatedPolicy, evaluated_state

CPU = torch.device("cpu")


def model_config(path: Path, lora: LoraConfig | None = None) -> ModelConfig:
    return ModelConfig.model_construct(path=path, activation_checkpointing=False, lora=lora)


def handed_over(policy: Policy, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in evaluated_state(policy).items()}, path)
    return path


def check_equal(evaluated: EvaluatedPolicy, policy: Policy) -> None:
    expected = without_prefix(policy.merged(policy.state_dict()), TRANSFORMER)
    found = evaluated.transformer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_becomes_one_policy_after_the_other(nano, tmp_path):
    config = nano.load()
    save_transformer(tmp_path, nano.policy(config).transformer)
    evaluated = EvaluatedPolicy(model_config(tmp_path), CPU)
    for seed in (1, 2, 1):
        policy = nano.policy(config, seed=seed)
        evaluated.load(handed_over(policy, tmp_path / f"{seed}.safetensors"))
        check_equal(evaluated, policy)
    assert not any(parameter.requires_grad for parameter in evaluated.transformer.parameters())


def test_of_adapters_it_gets_these_alone_and_has_the_base(nano, tmp_path):
    pytest.importorskip("peft")
    config, lora = nano.load(), LoraConfig(rank=2, alpha=6, dropout=0.0, targets=("wq", "w2"))
    base = nano.policy(config)
    save_transformer(tmp_path, base.transformer)
    evaluated = EvaluatedPolicy(model_config(tmp_path, lora), CPU)
    for seed in (1, 2):
        policy = nano.policy(config)
        policy.add_adapters(lora, base_sha256="ab", seed=seed)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(seed))
        state = evaluated_state(policy)
        assert state
        assert all("lora_" in name for name in state)
        evaluated.load(handed_over(policy, tmp_path / f"{seed}.safetensors"))
        check_equal(evaluated, policy)
