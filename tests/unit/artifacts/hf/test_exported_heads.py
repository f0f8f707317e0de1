"""The files of prediction heads in an export, there and back; `tests/parity/test_drafted_generation.py` runs them."""

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.byte_level_tokenizer import write_byte_level
from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.exported_heads import VERSION
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.meta_checkpoint import read_tensors, write_params
from wmtp_ray.cli import main
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import HF_HEADS, HF_HEADS_SPEC

SHAPE = {"dim": 16, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 400, "multiple_of": 8, "max_seq_len": 64}
MODELS = {
    "llama": ModelSpec(n_layers=5, n_future_tokens=3, **SHAPE),
    "qwen3": ModelSpec(
        n_layers=5, n_future_tokens=3, family="qwen3", attention_head_dim=6, query_key_norm="head", **SHAPE
    ),
    "smollm3": ModelSpec(n_layers=6, n_future_tokens=3, family="smollm3", blocks_without_rope=(3, 4, 5), **SHAPE),
    "olmo2": ModelSpec(n_layers=4, n_future_tokens=2, family="olmo2", query_key_norm="width", norm_after=True, **SHAPE),
}
ADDED = {"mtp_heads.json", "mtp_heads.safetensors", "custom_generate", "README.md", "model.safetensors.index.json"}


def random_tensors(args: ModelSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in Transformer(args).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_level(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Path) -> Path:
    """The llama, exported with its two heads."""
    args = MODELS["llama"]
    export_model(args, random_tensors(args), tokenizer, tmp_path / "hf", with_heads=True)
    return tmp_path / "hf"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_imported_again_bit_by_bit(name: str, tmp_path: Path, tokenizer: Path) -> None:
    args = MODELS[name]
    tensors = random_tensors(args)
    export_model(args, tensors, tokenizer, tmp_path / "hf", with_heads=True)
    imported = import_model(tmp_path / "hf", tmp_path / "back")
    assert same(read_tensors(tmp_path / "back" / "model.safetensors"), tensors)
    back = ModelSpec.read(tmp_path / "back")
    assert (back.n_layers, back.n_future_tokens) == (args.n_layers, args.n_future_tokens)
    assert (back.blocks_without_rope, back.family) == (args.blocks_without_rope, args.family)
    num_heads = args.n_future_tokens - 1
    assert f"{num_heads} of {num_heads} heads behind horizon 1 were read from mtp_heads.safetensors" in imported.notes


def test_without_heads_an_export_is_the_same_files_and_with_them_these_and_more(
    directory: Path, tokenizer: Path
) -> None:
    args, without = MODELS["llama"], directory.parent / "without"
    export_model(args, random_tensors(args), tokenizer, without)
    plain, more = files_of(without), files_of(directory)
    assert {name: more[name] for name in plain} == plain
    assert {name.split("/")[0] for name in more.keys() - plain.keys()} == ADDED
    assert not ADDED & {path.name for path in without.iterdir()}


def test_the_index_places_the_model_alone(directory: Path) -> None:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    stored = load_file(directory / "model.safetensors")
    assert index["weight_map"] == dict.fromkeys(sorted(stored), "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())


def test_heads_bear_the_names_of_a_decoder_layer_and_its_rows(directory: Path) -> None:
    heads = load_file(directory / "mtp_heads.safetensors")
    layer = {
        name.removeprefix("model.layers.2.")
        for name in load_file(directory / "model.safetensors")
        if name.startswith("model.layers.2.")
    }
    assert heads.keys() == {f"heads.{head}.{name}" for head in range(2) for name in layer}
    ours = random_tensors(MODELS["llama"])["extra_heads.1.attention.wq.weight"]  # rows of a head: r0 i0 r1 i1
    expected = torch.cat([ours[4 * head :][[0, 2, 1, 3]] for head in range(4)])  # r0 r1 i0 i1
    assert torch.equal(heads["heads.1.self_attn.q_proj.weight"], expected)
    spec = json.loads((directory / "mtp_heads.json").read_text())
    assert (spec["num_heads"], spec["horizons"], spec["model_type"]) == (2, [2, 3], "llama")


def test_generate_py_needs_nothing_of_this_project(directory: Path) -> None:
    tree = ast.parse((directory / "custom_generate" / "generate.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    outside = {str(module).split(".")[0] for module in modules} - sys.stdlib_module_names
    assert outside == {"torch", "safetensors", "transformers"}
    names = next(
        node for node in tree.body if isinstance(node, ast.Assign) and "WEIGHTS" in ast.unparse(node.targets[0])
    )
    assert ast.literal_eval(names.value) == (HF_HEADS_SPEC, HF_HEADS, VERSION)
    assert "- custom_generate" in (directory / "README.md").read_text().split("---")[1]


@pytest.mark.parametrize("num_horizons", [1, 2, 3, 5])
def test_heads_asked_for_are_the_nearest_and_those_that_lack_are_copies(directory: Path, num_horizons: int) -> None:
    imported = import_model(directory, directory.parent / "back", num_horizons=num_horizons)
    found, tensors = read_tensors(directory.parent / "back" / "model.safetensors"), random_tensors(MODELS["llama"])
    for head in range(num_horizons - 1):
        origin = f"extra_heads.{head}" if head < 2 else "layers.2"
        for name in (name for name in tensors if name.startswith(f"{origin}.")):
            assert torch.equal(found[f"extra_heads.{head}{name.removeprefix(origin)}"], tensors[name])
    assert imported.args.n_future_tokens == num_horizons
    assert f"{min(2, num_horizons - 1)} of 2 heads" in imported.render()
    assert ("2 more start as copies of the last block" in imported.render()) == (num_horizons == 5)


def test_a_dtype_asked_for_is_that_of_the_heads_there_and_back(tmp_path: Path, tokenizer: Path) -> None:
    args = MODELS["llama"]
    export_model(args, random_tensors(args), tokenizer, tmp_path / "hf", dtype=torch.bfloat16, with_heads=True)
    assert {tensor.dtype for tensor in load_file(tmp_path / "hf" / "mtp_heads.safetensors").values()} == {
        torch.bfloat16
    }
    assert import_model(tmp_path / "hf", tmp_path / "back", dtype=torch.float32).dtypes == ("float32",)


def test_a_model_whose_heads_cannot_go_out_is_refused_before_a_file_is_written(tmp_path: Path, tokenizer: Path) -> None:
    one = ModelSpec(n_layers=3, n_future_tokens=1, **SHAPE)
    mixed = replace(MODELS["smollm3"], blocks_without_rope=(3, 5))
    for args, message in ((one, "found a model of one horizon"), (mixed, "heads with and without rotary positions")):
        with pytest.raises(ArtifactError, match=message):
            export_model(args, random_tensors(args), tokenizer, tmp_path / "hf", with_heads=True)
        assert not (tmp_path / "hf").exists()


def test_files_of_heads_that_do_not_belong_together_are_refused(directory: Path) -> None:
    spec, weights = directory / "mtp_heads.json", directory / "mtp_heads.safetensors"
    told, stored = json.loads(spec.read_text()), load_file(weights)

    def refused(message: str) -> None:
        with pytest.raises(ArtifactError, match=message):
            import_model(directory, directory.parent / "back")

    for change in ({"version": 2}, {"num_heads": 0}, {"num_heads": True}, {"model_type": "qwen3"}):
        spec.write_text(json.dumps(told | change))
        refused("give the files of one export")
    spec.write_text(json.dumps(told | {"num_heads": 3}))
    refused(r"missing: heads\.2\.self_attn\.q_proj\.weight")
    spec.write_text(json.dumps(told))
    save_file(stored | {"heads.0.self_attn.q_proj.bias": torch.ones(16)}, weights)
    refused("unexpected: heads.0.self_attn.q_proj.bias")
    save_file(stored | {"heads.1.mlp.up_proj.weight": torch.ones(2, 2)}, weights)
    refused("heads.1.mlp.up_proj.weight")
    save_file(stored | {"heads.1.mlp.up_proj.weight": stored["heads.1.mlp.up_proj.weight"].to(torch.int8)}, weights)
    refused("heads.1.mlp.up_proj.weight is of torch.int8")
    weights.unlink()
    refused("found one of mtp_heads.safetensors and mtp_heads.json")


def test_the_command_exports_heads_on_request_alone(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, ours = MODELS["llama"], tmp_path / "ours"
    ours.mkdir()
    write_params(ours, args)
    save_file(random_tensors(args), ours / "model.safetensors")
    (ours / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (ours / "tokenizer_config.json").write_bytes((tokenizer.parent / "tokenizer_config.json").read_bytes())
    assert main(["export", str(ours), "--format", "hf", "--with-heads", "--out", str(tmp_path / "hf")]) == 0
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "back")]) == 0
    assert "2 of 2 heads behind horizon 1 were read" in capsys.readouterr().out
    assert main(["export", str(ours), "--with-heads", "--out", str(tmp_path / "meta")]) != 0
    assert "found --with-heads without --format hf" in capsys.readouterr().err
