"""The export of a checkpoint that one rank wrote; `test_parallel.py` exports shards and adapters of real runs."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import torch

from tests.byte_level_tokenizer import write_byte_level
from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_policy, read_tensors
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.ranks import OneRank
from wmtp_ray.training.checkpoint import RunState, save_checkpoint
from wmtp_ray.training.export_policy import export_hf, export_policy

ARGS = ModelArgs(dim=16, n_layers=3, n_heads=2, vocab_size=350, n_future_tokens=2, multiple_of=8)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 1 and 2; every weight of step n is n."""
    directory = tmp_path / "run"
    directory.mkdir()
    config = load_config(parse_arguments(["recipe=verifiable"]), now=datetime(2026, 1, 1))
    (directory / "config.yaml").write_text(dump_config(config))
    for step in (1, 2):
        policy = policy_of(step)
        state = RunState(2, step, "ab12", scorer={}, mlflow_run_id=None, world_size=1, mean_loss=1.0)
        optimizer = torch.optim.AdamW(policy.parameters())
        save_checkpoint(directory / "checkpoints", state, policy, optimizer, [], OneRank(), keep=2, keep_best=0)
    return directory


def policy_of(step: int) -> Policy:
    policy = Policy(Transformer(ARGS), ValueSpec("mlp", 1.0, "none"))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(float(step))
    return policy


@pytest.mark.parametrize(("asked", "exported"), [(None, 2), (2, 2), (1, 1)])
def test_the_step_asked_for_or_the_newest_is_exported_whole(run_dir, tmp_path, asked, exported):
    expected = tensors_sha256(policy_of(exported).state_dict())
    assert export_policy(run_dir, asked, tmp_path / "out") == expected
    assert tensors_sha256(load_policy(tmp_path / "out").state_dict()) == expected
    names = {"params.json", "model.safetensors", "value_head.json", "value_head.safetensors", "training.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_model_is_not_overwritten(run_dir, tmp_path):
    export_policy(run_dir, 1, tmp_path / "out")
    with pytest.raises(ArtifactError, match="holds a model already"):
        export_policy(run_dir, 2, tmp_path / "out")
    assert float(load_policy(tmp_path / "out").transformer.norm.weight[0].detach()) == 1.0


def test_a_step_that_is_not_there_is_told_with_those_that_are(run_dir, tmp_path):
    with pytest.raises(ArtifactError, match=r"no checkpoint of step 7; there are those of the steps \[1, 2\]"):
        export_policy(run_dir, 7, tmp_path / "out")
    with pytest.raises(ArtifactError, match="no whole checkpoint"):
        export_policy(tmp_path / "elsewhere", None, tmp_path / "out")


def test_a_damaged_checkpoint_is_refused_when_named_and_passed_over_when_not(run_dir, tmp_path):
    (run_dir / "checkpoints" / "step_2" / "rng.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"step_2 is damaged .*rng\.pt"):
        export_policy(run_dir, 2, tmp_path / "out")
    with pytest.warns(UserWarning, match="is damaged"):
        assert export_policy(run_dir, None, tmp_path / "out") == tensors_sha256(policy_of(1).state_dict())


def test_horizon_1_of_a_step_goes_to_other_engines(run_dir, tmp_path):
    tokenizer = write_byte_level(tmp_path / "tokenizer")
    export_hf(run_dir, 1, tmp_path / "out", tokenizer=tokenizer, dtype=None)
    tensors = read_tensors(tmp_path / "out" / "model.safetensors")
    assert "model.layers.1.mlp.up_proj.weight" in tensors
    assert not any(name.startswith(("model.layers.2", "value_head")) for name in tensors)
    assert all(tensor.eq(1.0).all() for tensor in tensors.values())


def test_the_heads_of_a_step_go_along_on_request_and_come_back(run_dir, tmp_path):
    tokenizer = write_byte_level(tmp_path / "tokenizer")
    export_hf(run_dir, 1, tmp_path / "out", tokenizer=tokenizer, dtype=None, with_heads=True)
    import_model(tmp_path / "out", tmp_path / "back")
    found, trained = read_tensors(tmp_path / "back" / "model.safetensors"), policy_of(1).transformer.state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())


def test_a_model_directory_goes_there_with_its_own_tokenizer(run_dir, tmp_path):
    export_policy(run_dir, 2, tmp_path / "model")
    tokenizer = write_byte_level(tmp_path / "model")
    export_hf(tmp_path / "model", None, tmp_path / "out", tokenizer=None, dtype=torch.bfloat16)
    tensors = read_tensors(tmp_path / "out" / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and tensor.eq(2.0).all() for tensor in tensors.values())
    exported, own = (json.loads(path.read_bytes()) for path in (tmp_path / "out" / "tokenizer.json", tokenizer))
    assert exported.pop("post_processor")["type"] == "TemplateProcessing", "BOS in front, as training put it"
    assert own.pop("post_processor") is None
    assert exported == own


def test_an_export_that_lacks_something_says_what(run_dir, tmp_path):
    export_policy(run_dir, 2, tmp_path / "model")
    with pytest.raises(ArtifactError, match="give one with --tokenizer"):
        export_hf(tmp_path / "model", None, tmp_path / "out", tokenizer=None, dtype=None)
    with pytest.raises(ArtifactError, match="leave --step out"):
        export_hf(tmp_path / "model", 2, tmp_path / "out", tokenizer=None, dtype=None)
    assert not (tmp_path / "out").exists()
