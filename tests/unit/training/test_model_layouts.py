"""A model is trained from and exported whatever its layout is: in parts, flat, or as Meta ships it.

The directories are written here with json, yaml, torch, safetensors and sentencepiece, and nothing of ours: names of
tensors, shapes and files are spelled out.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from wmtp_ray import cli
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, load_value_path, save_policy
from wmtp_ray.config.load import check_files, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import WmtpError
from wmtp_ray.flows.run.prepare import check_model_fits
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.tracking.training_record import write_start
from wmtp_ray.training.stages import policy_stage

DIM, INNER, VOCAB, LAYERS, HORIZONS = 32, 88, 304, 5, 3
PARAMS = {"dim": DIM, "n_layers": LAYERS, "n_heads": 4, "vocab_size": VOCAB, "n_future_tokens": HORIZONS}
PARAMS |= {"multiple_of": 8, "norm_eps": 1e-05, "rope_theta": 10000.0}
TEXTS = ["def add(a, b):\n    return a + b\n", "### Instruction:\nAdd.\n\n### Response:\n", "print(int(input()))\n"]
NOW = datetime(2026, 1, 1)


def tensors() -> dict[str, Tensor]:
    """Meta's names: two trunk blocks and three heads, of which the first is the last of `layers`."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"tok_embeddings.weight": (VOCAB, DIM), "norm.weight": (DIM,), "output.weight": (VOCAB, DIM)}
    for block in ("layers.0", "layers.1", "layers.2", "extra_heads.0", "extra_heads.1"):
        shapes |= {f"{block}.attention.{name}.weight": (DIM, DIM) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"{block}.feed_forward.{name}.weight": (INNER, DIM) for name in ("w1", "w3")}
        shapes |= {f"{block}.feed_forward.w2.weight": (DIM, INNER)}
        shapes |= {f"{block}.{name}.weight": (DIM,) for name in ("attention_norm", "ffn_norm")}
    return {
        name: (torch.ones(shape) if len(shape) == 1 else 0.1 * torch.randn(shape, generator=generator)).half()
        for name, shape in shapes.items()
    }


def tokenizer_bytes(place: Path) -> bytes:
    (place / "texts.txt").write_text("\n".join(TEXTS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(place / "texts.txt"),
        model_prefix=str(place / "sp"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return (place / "sp.model").read_bytes()


def write_in_parts(directory: Path, tokenizer: bytes) -> None:
    for folder in ("safetensors", "configs", "tokenizer"):
        (directory / folder).mkdir(parents=True)
    weights = directory / "safetensors" / "model.safetensors"
    save_file(tensors(), weights)
    (directory / "configs" / "params.json").write_text(json.dumps(PARAMS))
    adapter = {
        "model": {key: PARAMS[key] for key in ("dim", "n_layers", "n_heads", "n_future_tokens")},
        "trunk_blocks": 2,
    }
    (directory / "configs" / "meta_adapter.yaml").write_text(yaml.safe_dump(adapter))
    (directory / "tokenizer" / "tokenizer.model").write_bytes(tokenizer)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (directory / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    facts = {"version": "7B_1T_4", "dtype": "float16", "sha256": sha256, "date": "2026-01-01"}
    (directory / "metadata.json").write_text(json.dumps(facts))


def write_flat(directory: Path, tokenizer: bytes) -> None:
    directory.mkdir()
    save_file(tensors(), directory / "model.safetensors")
    (directory / "params.json").write_text(json.dumps(PARAMS))
    (directory / "tokenizer.model").write_bytes(tokenizer)


def write_as_meta_ships_it(directory: Path, tokenizer: bytes) -> None:
    directory.mkdir()
    torch.save(tensors(), directory / "consolidated.pth")
    (directory / "params.json").write_text(json.dumps(PARAMS))
    (directory / "tokenizer.model").write_bytes(tokenizer)


@dataclass(frozen=True)
class Layout:
    write: Callable[[Path, bytes], None]
    weights: str
    tokenizer: str


LAYOUTS = {
    "in parts": Layout(write_in_parts, "safetensors/model.safetensors", "tokenizer/tokenizer.model"),
    "flat": Layout(write_flat, "model.safetensors", "tokenizer.model"),
    "as Meta ships it": Layout(write_as_meta_ships_it, "consolidated.pth", "tokenizer.model"),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture
def config(layout: Layout, tmp_path: Path) -> RunConfig:
    """A run from a model of the layout."""
    layout.write(tmp_path / "model", tokenizer_bytes(tmp_path))
    return configured(tmp_path, layout)


def configured(place: Path, layout: Layout, *words: str) -> RunConfig:
    model = place / "model"
    paths = (f"model.path={model}", f"tokenizer.path={model / layout.tokenizer}", f"storage_root={place / 'storage'}")
    return load_config(parse_arguments(["recipe=verifiable", "stages=[2]", "run_name=r", *paths, *words]), now=NOW)


def test_the_model_is_trained_a_step(nano, config: RunConfig) -> None:
    check_model_fits(config, CodeTokenizer(config.tokenizer.path))
    policy = policy_stage(config).build_policy(config)
    for name, tensor in tensors().items():
        assert torch.equal(policy.transformer.state_dict()[name], tensor.float()), name
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    training = nano.training(config, policy, torch.optim.SGD(policy.parameters(), lr=0.0))
    metrics = training.run([nano.micro_batch(nano.rows(6))], 1e-2)
    assert 0 < metrics["loss/policy"] < 20
    moved = [
        name
        for name, tensor in policy.transformer.named_parameters()
        if not torch.equal(tensor, before[f"transformer.{name}"])
    ]
    assert len(moved) == len(tensors())


def test_the_model_is_exported_and_imported_again(layout: Layout, config: RunConfig, tmp_path: Path) -> None:
    out, back = tmp_path / "hf", tmp_path / "back"
    assert cli.main(["export", str(config.model.path), "--format", "hf", "--out", str(out)], now=NOW) == 0
    assert cli.main(["import", str(out), "--out", str(back), "--heads", "1"], now=NOW) == 0
    ours, theirs = tensors(), load_file(back / "model.safetensors")
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert CodeTokenizer(back / "tokenizer.model").encode(TEXTS[0]) == CodeTokenizer(config.tokenizer.path).encode(
        TEXTS[0]
    )


def test_a_run_records_the_hash_of_the_file_of_weights(layout: Layout, config: RunConfig) -> None:
    config.run_dir.mkdir(parents=True)
    write_start(config)
    recorded = json.loads(config.folder.start.read_text())["start"]["weights_sha256"]
    assert recorded == hashlib.sha256((config.model.path / layout.weights).read_bytes()).hexdigest()


def test_what_a_directory_lacks_is_named_with_its_place(layout: Layout, config: RunConfig) -> None:
    (config.model.path / layout.weights).unlink()
    with pytest.raises(WmtpError, match=layout.weights.replace(".", r"\.")):
        check_files(config)
    with pytest.raises(WmtpError, match=r"expected the weights of .*params\.json"):
        load_transformer(config.model.path)


def test_a_critic_in_the_same_directory_is_read(layout: Layout, config: RunConfig) -> None:
    """A policy that is saved over a model keeps the model's layout."""
    policy = policy_stage(config).build_policy(config)
    with torch.no_grad():
        policy.value_head.output.bias.fill_(0.25)
    save_policy(config.model.path, policy)
    critic = load_value_path(config.model.path, ValueSpec.of(config))
    assert critic.value_head.output.bias.tolist() == [0.25]
    assert torch.equal(critic.layers[1].attention.wq.weight, policy.transformer.layers[1].attention.wq.weight)
