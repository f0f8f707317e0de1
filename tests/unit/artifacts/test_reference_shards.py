"""A reference of Rho-1: parts in Hugging Face's layout, joined to one float16 file with the policy's tokenizer."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.hf.config_file import config_from_params
from wmtp_ray.artifacts.hf.layout import hf_name, to_hf_rows
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, save_transformer
from wmtp_ray.artifacts.model_directory import write_model
from wmtp_ray.artifacts.model_record import SharedTokenizer, read_model_record
from wmtp_ray.artifacts.reference_shards import open_reference
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

ARGS = ModelSpec(dim=16, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=304, multiple_of=8, norm_eps=1e-6)


@pytest.fixture
def policy(tmp_path: Path, tokenizer: Path) -> Path:
    directory = tmp_path / "models" / "policy"
    save_transformer(directory, Transformer(ModelSpec(dim=8, n_layers=2, n_heads=2, vocab_size=304)))
    (directory / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    return directory


@pytest.fixture
def reference() -> Transformer:
    return Transformer(ARGS)


def write_shards(directory: Path, model: Transformer, tokenizer: Path, *, suffix: str) -> None:
    """Write the model as Hugging Face does, in two parts with an index."""
    directory.mkdir()
    state = model.state_dict()
    renamed = {hf_name(name): to_hf_rows(name, tensor, model.args).contiguous() for name, tensor in state.items()}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, weight_map = sorted(map(str, renamed)), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = directory / f"{stem}-{number:05}-of-00002.{suffix}"
        tensors: dict[str, Tensor] = {name: renamed[name] for name in part}
        save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
        weight_map |= dict.fromkeys(part, path.name)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = config_from_params(model.args, tied=False, max_positions=64)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.model").write_bytes(tokenizer.read_bytes())


def convert(source: Path, out: Path, policy: Path) -> None:
    model = open_reference(source, out, policy, source / "tokenizer.model", version="r1")
    write_model(out, model, datetime(2026, 1, 1), print, dry_run=False)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_parts_become_one_float16_file_in_metas_layout(reference, policy, tokenizer, tmp_path, suffix):
    source, out = tmp_path / "rho-1b", tmp_path / "models" / "rho"
    write_shards(source, reference, tokenizer, suffix=suffix)
    convert(source, out, policy)
    written = load_file(out / "safetensors" / "model.safetensors")
    assert (out / "configs" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    expected = reference.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in expected.items())
    tokens_BT = torch.arange(12).view(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(load_transformer(out)(tokens_BT), reference(tokens_BT), rtol=0, atol=1e-2)
    args = ModelSpec.read(out)
    assert (args.hidden_dim, args.num_kv_heads, args.norm_eps, args.n_future_tokens) == (ARGS.hidden_dim, 2, 1e-6, 1)


def test_the_record_names_the_policy_whose_tokenizer_it_shares(reference, policy, tokenizer, tmp_path):
    write_shards(tmp_path / "rho-1b", reference, tokenizer, suffix="safetensors")
    out = tmp_path / "models" / "rho"
    convert(tmp_path / "rho-1b", out, policy)
    record = read_model_record(out)
    assert record is not None
    assert (record.kind, record.version, record.dtype) == ("reference", "r1", "float16")
    assert record.tokenizer_shared_with == SharedTokenizer("../policy", file_sha256(tokenizer))
    assert set(record.source) == {
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    }


def test_another_tokenizer_than_the_policys_is_refused(reference, policy, tokenizer, tmp_path):
    write_shards(tmp_path / "rho-1b", reference, tokenizer, suffix="safetensors")
    train_tokenizer(["while True:\n    pass  # 12345\n"], tmp_path / "rho-1b" / "tokenizer.model", 280)
    with pytest.raises(ArtifactError, match=r"is another than the policy's .*policy/tokenizer\.model"):
        convert(tmp_path / "rho-1b", tmp_path / "rho", policy)
    (policy / "tokenizer.model").unlink()
    with pytest.raises(ArtifactError, match=r"policy/tokenizer\.model is missing"):
        convert(tmp_path / "rho-1b", tmp_path / "rho", policy)


def test_another_vocabulary_than_the_policys_is_refused(policy, tokenizer, tmp_path):
    other = Transformer(ModelSpec(dim=16, n_layers=2, n_heads=4, vocab_size=312, multiple_of=8))
    write_shards(tmp_path / "rho-1b", other, tokenizer, suffix="safetensors")
    with pytest.raises(ArtifactError, match=r"has 312 tokens, the policy in .* has 304"):
        convert(tmp_path / "rho-1b", tmp_path / "rho", policy)


def test_weights_beyond_float16_are_refused(reference, policy, tokenizer, tmp_path):
    with torch.no_grad():
        reference.layers[1].feed_forward.w2.weight[3, 2] = 1e5
    write_shards(tmp_path / "rho-1b", reference, tokenizer, suffix="bin")
    with pytest.raises(ArtifactError, match=r"layers\.1\.feed_forward\.w2\.weight holds 100000"):
        convert(tmp_path / "rho-1b", tmp_path / "rho", policy)
    assert not (tmp_path / "rho").exists()
