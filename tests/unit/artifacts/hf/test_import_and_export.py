"""Directories in the form that transformers writes, made by hand; `test_hf_parity.py` uses transformers itself."""

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.byte_level_tokenizer import write_byte_level
from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, read_tensors
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

PLAIN = ModelSpec(
    dim=16, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=400, multiple_of=8, rope_theta=5e5, max_seq_len=64
)


def random_tensors(args: ModelSpec, *, tied: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in Transformer(args).state_dict().items()
    }
    return tensors | ({"output.weight": tensors["tok_embeddings.weight"]} if tied else {})


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_level(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def directory(tmp_path: Path, tokenizer_path: Path) -> Path:
    """A LLaMA of three blocks with random weights, in Hugging Face's layout."""
    export_model(PLAIN, random_tensors(PLAIN), tokenizer_path, tmp_path / "plain")
    return tmp_path / "plain"


def stored(directory: Path) -> dict[str, Tensor]:
    return read_tensors(directory / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_last_block_becomes_every_head_and_the_others_the_trunk(directory: Path, tmp_path: Path) -> None:
    imported = import_model(directory, tmp_path / "out", num_horizons=4)
    plain = random_tensors(PLAIN)
    last = {name.removeprefix("layers.2."): tensor for name, tensor in plain.items() if name.startswith("layers.2.")}
    heads = {f"extra_heads.{head}.{name}": tensor for head in range(3) for name, tensor in last.items()}
    assert same(stored(tmp_path / "out"), plain | heads)
    args = ModelSpec.read(tmp_path / "out")
    assert (args.n_layers, args.n_future_tokens, args.num_trunk_blocks, args.max_seq_len) == (6, 4, 2, 64)
    assert imported.args == args
    assert imported.num_parameters == sum(tensor.numel() for tensor in stored(tmp_path / "out").values())


def test_every_horizon_starts_as_the_next_token(directory: Path, tmp_path: Path) -> None:
    import_model(directory, tmp_path / "out", num_horizons=3)
    tokens_BT = torch.arange(7)[None]
    with torch.no_grad():
        logits_BTHV = load_transformer(tmp_path / "out")(tokens_BT, return_all_heads=True)
    assert torch.equal(logits_BTHV[:, :, 1], logits_BTHV[:, :, 0])
    assert torch.equal(logits_BTHV[:, :, 2], logits_BTHV[:, :, 0])


@pytest.mark.parametrize("num_horizons", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_exported_is_imported_bit_by_bit(
    tmp_path: Path, tokenizer_path: Path, num_horizons: int, tied: bool
) -> None:
    tensors = random_tensors(PLAIN, tied=tied)
    export_model(PLAIN, tensors, tokenizer_path, tmp_path / "one")
    import_model(tmp_path / "one", tmp_path / "two", num_horizons=num_horizons)
    two = stored(tmp_path / "two")
    export_model(ModelSpec.read(tmp_path / "two"), two, tmp_path / "two" / "tokenizer.json", tmp_path / "three")
    assert ("lm_head.weight" in stored(tmp_path / "one")) is not tied
    for name in ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert same({name: tensor for name, tensor in two.items() if not name.startswith("extra_")}, tensors)


def test_each_tensor_keeps_its_dtype_unless_one_is_asked_for(directory: Path, tmp_path: Path) -> None:
    mixed = {
        name: tensor.to(torch.float32 if "norm" in name else torch.bfloat16)
        for name, tensor in stored(directory).items()
    }
    save_file(mixed, directory / "model.safetensors", metadata={"format": "pt"})
    kept = import_model(directory, tmp_path / "kept", num_horizons=2)
    converted = import_model(directory, tmp_path / "half", num_horizons=2, dtype=torch.float16)
    assert kept.dtypes == ("bfloat16", "float32")
    assert converted.dtypes == ("float16",)
    assert stored(tmp_path / "kept")["extra_heads.0.attention.wq.weight"].dtype == torch.bfloat16
    expected = stored(tmp_path / "kept")["norm.weight"].half()
    assert torch.equal(stored(tmp_path / "half")["norm.weight"], expected)


def _change_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_output_matrix_in_the_file_is_kept_whatever_the_config_ties(
    directory: Path, tmp_path: Path, in_parts: bool
) -> None:
    _change_config(directory, tie_word_embeddings=True)
    if in_parts:
        sharded(directory, "safetensors")
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))
    assert "differs: it was kept" in imported.render()


@pytest.mark.parametrize("left_out", ["lm_head.weight", "model.embed_tokens.weight"])
def test_one_of_two_tied_matrices_stands_for_both_and_untied_it_is_refused(
    directory: Path, tmp_path: Path, left_out: str
) -> None:
    tensors = stored(directory)
    save_file({name: tensor for name, tensor in tensors.items() if name != left_out}, directory / WEIGHTS)
    with pytest.raises(ArtifactError, match=f'found no {left_out} in the weights.*"tie_word_embeddings": true'):
        import_model(directory, tmp_path / "out", num_horizons=1)
    _change_config(directory, tie_word_embeddings=True)
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    kept = tensors["model.embed_tokens.weight" if left_out == "lm_head.weight" else "lm_head.weight"]
    assert all(torch.equal(stored(tmp_path / "out")[name], kept) for name in ("output.weight", "tok_embeddings.weight"))
    assert imported.notes == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_the_prefix_of_a_wrapper_is_taken_off_and_told(directory: Path, tmp_path: Path, prefix: str) -> None:
    save_file({prefix + name: tensor for name, tensor in stored(directory).items()}, directory / WEIGHTS)
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))
    assert "was taken off the names of tensors" in imported.render()


def test_the_prefix_of_a_wrapper_around_a_block_is_taken_off(directory: Path, tmp_path: Path) -> None:
    tensors = {
        name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."): tensor
        for name, tensor in stored(directory).items()
    }
    save_file(tensors, directory / WEIGHTS)
    import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))


@pytest.mark.parametrize(
    ("changes", "native", "told"),
    [
        ({}, ["mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight"], "layers: 2 tensors, mtp.fc.weight among them"),
        ({}, ["model.mtp_layers.0.input_proj.weight"], "1 tensors, model.mtp_layers.0.input_proj.weight"),
        (
            {"num_nextn_predict_layers": 1},
            ["model.layers.3.eh_proj.weight", "model.layers.3.self_attn.q_proj.weight"],
            "(config.json: num_nextn_predict_layers = 1): 2 tensors, model.layers.3.eh_proj.weight",
        ),
        ({"num_nextn_predict_layers": 2}, [], "which the weights do not hold either"),
        ({"mtp_num_hidden_layers": 1}, ["mtp.norm.weight"], "(config.json: mtp_num_hidden_layers = 1): 1 tensors"),
    ],
)
def test_native_multi_token_layers_are_left_out_and_told(
    directory: Path, tmp_path: Path, changes: dict[str, object], native: list[str], told: str
) -> None:
    _change_config(directory, **changes)
    save_file(stored(directory) | {name: torch.ones(2, 2) for name in native}, directory / WEIGHTS)
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))
    assert "note: left out: native multi-token layers" in imported.render()
    assert told in imported.render()


def test_a_block_too_many_is_no_native_head_where_config_json_counts_none(directory: Path, tmp_path: Path) -> None:
    name = "model.layers.3.self_attn.q_proj.weight"
    save_file(stored(directory) | {name: torch.ones(16, 16)}, directory / WEIGHTS)
    for changes in ({"num_nextn_predict_layers": 0}, {}):
        _change_config(directory, **changes)
        with pytest.raises(ArtifactError, match=r"unexpected: layers\.3\.attention\.wq\.weight"):
            import_model(directory, tmp_path / "out", num_horizons=1)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("", r"without the prefix 'model\.' \(embed_tokens\.weight\)"),
        ("model.language_model.", r"that begin with 'model\.language_model\.'"),
        ("base_model.model.model.", r"that begin with 'base_model\.model\.model\.'"),
    ],
)
def test_a_prefix_of_another_model_is_refused_by_its_name(
    directory: Path, tmp_path: Path, theirs: str, message: str
) -> None:
    tensors = {name.replace("model.", theirs, 1): tensor for name, tensor in stored(directory).items()}
    save_file(tensors, directory / WEIGHTS)
    with pytest.raises(ArtifactError, match=message):
        import_model(directory, tmp_path / "out", num_horizons=1)


def test_the_content_of_a_file_of_weights_decides_and_not_its_name(directory: Path, tmp_path: Path) -> None:
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))


def test_a_number_too_large_for_the_dtype_asked_for_is_refused(directory: Path, tmp_path: Path) -> None:
    tensors = stored(directory)
    save_file(tensors | {"model.norm.weight": torch.full((16,), 1e6)}, directory / "model.safetensors")
    with pytest.raises(ArtifactError, match="wider dtype"):
        import_model(directory, tmp_path / "out", num_horizons=1, dtype=torch.float16)
    assert not (tmp_path / "out").exists()


def sharded(directory: Path, suffix: str) -> None:
    """Cut the weights into two parts with an index, as transformers does for large models."""
    tensors = {name: tensor.clone() for name, tensor in stored(directory).items()}
    (directory / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    parts = {name: f"{stem}-{number % 2 + 1:05d}-of-00002.{suffix}" for number, name in enumerate(tensors)}
    for part in set(parts.values()):
        content = {name: tensors[name] for name in tensors if parts[name] == part}
        save_file(content, directory / part) if suffix == "safetensors" else torch.save(content, directory / part)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))


def pickled(directory: Path) -> None:
    torch.save(stored(directory), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize("form", [lambda d: sharded(d, "safetensors"), lambda d: sharded(d, "bin"), pickled])
def test_weights_may_lie_in_parts_and_in_plain_pickles(
    directory: Path, tmp_path: Path, form: Callable[[Path], None]
) -> None:
    form(directory)
    import_model(directory, tmp_path / "out", num_horizons=1)
    assert same(stored(tmp_path / "out"), random_tensors(PLAIN))


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return warnings.warn, ("the pickle ran",)


def _malicious(directory: Path) -> None:
    pickled(directory)
    torch.save({"model.norm.weight": Malicious()}, directory / "pytorch_model.bin")


def _without_norm(directory: Path) -> None:
    tensors = {name: tensor for name, tensor in stored(directory).items() if name != "model.norm.weight"}
    save_file(tensors, directory / "model.safetensors")


def _with_bias(directory: Path) -> None:
    save_file(stored(directory) | {"model.layers.0.mlp.up_proj.bias": torch.zeros(3)}, directory / "model.safetensors")


def _integers(directory: Path) -> None:
    save_file(stored(directory) | {"model.norm.weight": torch.zeros(16, dtype=torch.int8)}, directory / WEIGHTS)


def _lost_part(directory: Path) -> None:
    sharded(directory, "safetensors")
    (directory / "model-00002-of-00002.safetensors").unlink()


def _empty_index(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model.safetensors.index.json")
    (directory / "model.safetensors.index.json").write_text("{}")


def _torn(directory: Path) -> None:
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-100])


def _no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _small_vocabulary(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    tensors = stored(directory)
    cut = {name: tensors[name][:300].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(tensors | cut, directory / "model.safetensors")


def _changed_index(directory: Path, part_of: Callable[[str, str], object]) -> None:
    sharded(directory, "safetensors")
    index = directory / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {name: part_of(name, part) for name, part in weight_map.items()}}))


def _another_part(directory: Path) -> None:
    one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    _changed_index(directory, lambda name, part: (two if part == one else one) if "norm" in name else part)


def _part_outside(directory: Path) -> None:
    _changed_index(directory, lambda _name, part: f"../{directory.name}/{part}")


def _part_without_a_name(directory: Path) -> None:
    _changed_index(directory, lambda _name, _part: 3)


def _two_of_one_name(directory: Path) -> None:
    sharded(directory, "safetensors")
    part = directory / "model-00002-of-00002.safetensors"
    other = read_tensors(directory / "model-00001-of-00002.safetensors")
    name = next(iter(other))
    save_file(read_tensors(part) | {name: other[name] + 1}, part)


def _another_name(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "adapter_model.safetensors")


def _pointer(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def _page(directory: Path) -> None:
    (directory / "config.json").write_bytes(b"<!DOCTYPE html><html><title>Sign in</title></html>")


def _gzipped(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(gzip.compress((directory / WEIGHTS).read_bytes()))


def _in_a_dictionary(directory: Path) -> None:
    torch.save({"state_dict": stored(directory), "epoch": 3}, directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def _float8(directory: Path) -> None:
    save_file(stored(directory) | {"model.norm.weight": torch.zeros(16).to(torch.float8_e4m3fn)}, directory / WEIGHTS)


WEIGHTS = "model.safetensors"


@pytest.mark.filterwarnings("error:the pickle ran")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_malicious, "cannot be read as tensors.*could run code"),
        (_without_norm, "missing: norm.weight.*fetch every part"),
        (_two_of_one_name, "another .* than a part before it"),
        (_another_name, "found adapter_model.safetensors, which has"),
        (_pointer, "a Git LFS pointer.*git lfs pull"),
        (_page, r"config\.json is not JSON: found a web page"),
        (_gzipped, "a gzip archive.*unpack it"),
        (_in_a_dictionary, "no plain mapping of names to tensors, but state_dict, epoch"),
        (_float8, "of torch.float8_e4m3fn"),
        (_with_bias, r"found the tensor model\.layers\.0\.mlp\.up_proj\.bias"),
        (_integers, r"norm.weight \(Meta's name\) of torch.int8"),
        (_lost_part, "model-00002-of-00002.safetensors is not beside it"),
        (_empty_index, "names no parts"),
        (_another_part, r"places \d+ of 30 tensors in another part.*found model\..*norm.*expected it in model-0000"),
        (_part_outside, r"names '\.\./plain/model-0000.*the name of a file beside it"),
        (_part_without_a_name, "names 3 as a part"),
        (_torn, "cannot be read as tensors.*cut short"),
        (_no_weights, "neither model.safetensors nor pytorch_model.bin"),
        (_small_vocabulary, "found 340 ids for a model of 300"),
    ],
)
def test_a_directory_that_holds_no_whole_llama_is_refused_and_nothing_written(
    directory: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(directory)
    with pytest.raises(ArtifactError, match=message):
        import_model(directory, tmp_path / "out", num_horizons=2)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_place_that_is_taken_is_left_alone(directory: Path, tmp_path: Path, tokenizer_path: Path) -> None:
    for write in (
        lambda: import_model(directory, directory, num_horizons=2),
        lambda: export_model(PLAIN, random_tensors(PLAIN), tokenizer_path, directory),
    ):
        with pytest.raises(ArtifactError, match="exists already"):
            write()


def test_something_else_than_a_model_says_what_is_expected(tmp_path: Path) -> None:
    for name, file in {"adapter": "adapter_config.json", "meta": "params.json", "ggufs": "model.gguf"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pointer.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "nothing.gguf").touch()
    save_file({"model.norm.weight": torch.zeros(2)}, tmp_path / "lone.safetensors")
    for source, message in (
        (tmp_path / "absent", "expected a Hugging Face directory"),
        (tmp_path / "empty", r"config\.json is missing"),
        (tmp_path / "adapter", "an adapter .* without the model.*merge_and_unload"),
        (tmp_path / "meta", r"a model in Meta's layout.*setup_models\.py policy"),
        (tmp_path / "ggufs", r"give the file: .*ggufs/model\.gguf"),
        (tmp_path / "pointer.gguf", "found a Git LFS pointer"),
        (tmp_path / "nothing.gguf", "found an empty file"),
        (tmp_path / "lone.safetensors", "give the directory that it lies in"),
    ):
        with pytest.raises(ArtifactError, match=message):
            import_model(source, tmp_path / "out", num_horizons=1)


def test_a_model_has_at_least_the_head_of_the_next_token(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found 0 heads"):
        import_model(directory, tmp_path / "out", num_horizons=0)


def test_the_tokenizer_of_the_source_comes_along(directory: Path, tmp_path: Path, tokenizer_path: Path) -> None:
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    assert imported.tokenizer == tmp_path / "out" / "tokenizer.json"
    ours, theirs = CodeTokenizer(imported.tokenizer), CodeTokenizer(tokenizer_path)
    assert ours.encode("def add(a, b):\n\treturn 12") == theirs.encode("def add(a, b):\n\treturn 12")
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (theirs.bos_id, theirs.eos_id, theirs.vocab_size)


def test_a_sentencepiece_tokenizer_is_preferred_and_travels_there_and_back(tmp_path: Path) -> None:
    train_tokenizer(["def f(x):\n    return x"], tmp_path / "tokenizer.model", 275)
    export_model(PLAIN, random_tensors(PLAIN), tmp_path / "tokenizer.model", tmp_path / "plain")
    imported = import_model(tmp_path / "plain", tmp_path / "out", num_horizons=1)
    assert (tmp_path / "plain" / "tokenizer.json").exists()
    assert imported.tokenizer == tmp_path / "out" / "tokenizer.model"
    assert imported.tokenizer.read_bytes() == (tmp_path / "tokenizer.model").read_bytes()


def test_another_format_by_the_name_of_a_sentencepiece_model_is_passed_over(directory: Path, tmp_path: Path) -> None:
    (directory / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    imported = import_model(directory, tmp_path / "out", num_horizons=1)
    assert imported.tokenizer == tmp_path / "out" / "tokenizer.json"


def test_a_model_without_a_tokenizer_is_imported_alone(directory: Path, tmp_path: Path) -> None:
    (directory / "tokenizer.json").unlink()
    assert import_model(directory, tmp_path / "out", num_horizons=1).tokenizer is None
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == random_tensors(PLAIN).keys()
