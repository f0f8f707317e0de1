"""From Meta's checkpoint to a model directory: what is kept, what is checked, what is refused."""

import json
import pickle
import shutil
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.byte_level_tokenizer import write_byte_level
from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.convert_checkpoint import check_rotary_frequencies, open_checkpoint
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.artifacts.model_directory import write_model
from wmtp_ray.artifacts.model_record import read_model_record
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import ModelFolder

ARGS = ModelSpec(
    dim=16, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=304, n_future_tokens=2, multiple_of=8, rope_theta=5e5
)
Source = tuple[Path, dict[str, Tensor]]


def rope_of(args: ModelSpec) -> Tensor:
    return torch.tensor([args.rope_theta ** (-2 * i / args.head_dim) for i in range(args.head_dim // 2)])


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A checkpoint in bfloat16 but for its norms, with rope.freqs and a params.json that leaves the vocabulary open."""
    directory = tmp_path / "7B_1T_4"
    directory.mkdir()
    state = Transformer(ARGS).state_dict()
    tensors = {name: t if name.endswith("norm.weight") else t.to(torch.bfloat16) for name, t in state.items()}
    torch.save(tensors | {"rope.freqs": rope_of(ARGS).to(torch.bfloat16)}, directory / "consolidated.pth")
    params = {key: value for key, value in asdict(ARGS).items() if value is not None} | {"vocab_size": 304}
    (directory / "params.json").write_text(json.dumps(params))
    return directory, tensors


def convert(directory: Path, out: Path, tokenizer: Path | None, said: list[str], *, dry_run: bool = False) -> None:
    model = open_checkpoint(directory, tokenizer=tokenizer, version=None)
    write_model(out, model, datetime(2026, 1, 2), said.append, dry_run=dry_run)


def change_tensors(directory: Path, **changes: Tensor | None) -> None:
    path = directory / "consolidated.pth"
    tensors = torch.load(path, weights_only=True) | {name.replace("__", "."): t for name, t in changes.items()}
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def change_params(directory: Path, **changes: object) -> None:
    params = json.loads((directory / "params.json").read_text()) | changes
    (directory / "params.json").write_text(json.dumps({k: v for k, v in params.items() if v is not None}))


def test_tensors_keep_their_values_and_their_own_dtypes(source, tmp_path, tokenizer, said):
    directory, tensors = source
    convert(directory, tmp_path / "out", tokenizer, said)
    written = load_file(tmp_path / "out" / "safetensors" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor)
    assert any(f"{len(tensors)} tensors compared with their source, all equal" in line for line in said)


def test_the_directory_loads_strictly_and_describes_itself(source, tmp_path, tokenizer, said):
    out = tmp_path / "out"
    convert(source[0], out, tokenizer, said)
    assert ModelSpec.read(out) == ARGS
    assert load_transformer(out).args == ARGS
    adapter = yaml.safe_load((out / "configs" / "meta_adapter.yaml").read_text())
    assert adapter["prediction_heads"] == {1: "layers.2", 2: "extra_heads.0"}
    assert adapter["attention"] == {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4}
    assert adapter["rope"]["theta"] == 5e5
    record = read_model_record(out)
    assert record is not None
    assert (record.kind, record.version, record.dtype) == ("policy", "7B_1T_4", "bfloat16+float32")
    assert record.date == "2026-01-02T00:00:00"
    assert record.num_parameters == sum(parameter.numel() for parameter in Transformer(ARGS).parameters())
    assert record.source["consolidated.pth"].sha256 == file_sha256(source[0] / "consolidated.pth")
    assert {name: digest.sha256 for name, digest in record.files.items()} == {
        path.relative_to(out).as_posix(): file_sha256(path)
        for path in out.rglob("*")
        if path.is_file() and path.name != "metadata.json"
    }


def test_a_vocabulary_that_params_leave_open_is_the_tokenizers(source, tmp_path, tokenizer, said):
    change_params(source[0], vocab_size=-1)
    with pytest.raises(ArtifactError, match=r"tok_embeddings\.weight \(304, 16\) instead of \(300, 16\)"):
        convert(source[0], tmp_path / "out", tokenizer, said)
    rows = torch.zeros(300, 16)
    change_tensors(source[0], tok_embeddings__weight=rows, output__weight=rows)
    convert(source[0], tmp_path / "out", tokenizer, said)
    assert ModelSpec.read(tmp_path / "out").vocab_size == 300


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(source, tmp_path, tokenizer, said, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = source[0] / "consolidated.pth"
    content = {"output.weight": torch.zeros(2), "evil": RunsCode()}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"evil": RunsCode()}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ArtifactError, match=r"holds more than tensors.*could run code") as caught:
        convert(source[0], tmp_path / "out", tokenizer, said)
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickle.dumps(RunsCode()))
    assert (tmp_path / "unpickled").exists(), "the pickle was harmless: this test proved nothing"


def test_a_torn_checkpoint_is_refused(source, tmp_path, tokenizer, said):
    path = source[0] / "consolidated.pth"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ArtifactError, match="cannot be read as tensors"):
        convert(source[0], tmp_path / "out", tokenizer, said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 32}, r"rope\.freqs has the shape \(2,\), expected \(4,\).*dim 32"),
        ({"n_layers": 5}, r"missing: layers\.3\."),
        ({"n_future_tokens": 1}, r"unexpected: extra_heads\.0"),
        ({"n_kv_heads": 4}, r"attention\.wk\.weight \(8, 16\) instead of \(16, 16\)"),
        ({"multiple_of": 256}, "feed_forward"),
        ({"n_heads": 2}, r"rope\.freqs has the shape \(2,\), expected \(4,\).*n_heads 2"),
        ({"rope_theta": 10000.0}, r"rope theta of about 5\.\d+e\+05, params\.json says 10000"),
        ({"unknown": 1}, r"describes no model .*unknown"),
        ({"n_heads": 3}, "does not divide dim"),
    ],
)
def test_params_that_deny_the_tensors_are_refused_before_anything_is_written(
    source, tmp_path, tokenizer, said, changes, message
):
    change_params(source[0], **changes)
    with pytest.raises(ArtifactError, match=message):
        convert(source[0], tmp_path / "out", tokenizer, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("args", [ARGS, ModelSpec(dim=256, n_layers=2, n_heads=2, vocab_size=9, rope_theta=1e6)])
def test_frequencies_are_compared_as_exactly_as_their_dtype_can(args, dtype):
    check_rotary_frequencies(rope_of(args).to(dtype), args)
    other = ModelSpec(**(asdict(args) | {"rope_theta": args.rope_theta * 1.2}))
    with pytest.raises(ArtifactError, match="belongs to a rope theta"):
        check_rotary_frequencies(rope_of(other).to(dtype), args)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(source, tmp_path, tokenizer, said):
    change_params(source[0], vocab_size=299)
    rows = torch.zeros(299, 16)
    change_tensors(source[0], tok_embeddings__weight=rows, output__weight=rows)
    with pytest.raises(ArtifactError, match="has 300 tokens, the model has rows for 299"):
        convert(source[0], tmp_path / "out", tokenizer, said)
    convert(source[0], tmp_path / "out", None, said)
    assert not (tmp_path / "out" / "tokenizer").exists()


def test_tensors_that_are_no_floats_are_refused(source, tmp_path, tokenizer, said):
    change_tensors(source[0], norm__weight=torch.zeros(16, dtype=torch.int8))
    with pytest.raises(ArtifactError, match=r"norm\.weight.*int8"):
        convert(source[0], tmp_path / "out", tokenizer, said)


def test_missing_and_divided_checkpoints_are_told(source, tmp_path, tokenizer, said):
    weights = source[0] / "consolidated.pth"
    shutil.copy(weights, source[0] / "consolidated.00.pth")
    weights.rename(source[0] / "consolidated.01.pth")
    with pytest.raises(ArtifactError, match="cut for 2 devices"):
        convert(source[0], tmp_path / "out", tokenizer, said)
    (source[0] / "consolidated.01.pth").unlink()
    convert(source[0], tmp_path / "out", tokenizer, said)
    (source[0] / "consolidated.00.pth").unlink()
    with pytest.raises(ArtifactError, match=r"consolidated\.pth is missing"):
        convert(source[0], tmp_path / "other", tokenizer, said)


def test_a_byte_level_tokenizer_keeps_its_name_and_brings_its_settings(source, tmp_path, said):
    path = write_byte_level(tmp_path / "byte_level", vocab_size=300)
    convert(source[0], tmp_path / "out", path, said)
    folder = ModelFolder(tmp_path / "out")
    assert not folder.tokenizer.model.exists()
    assert CodeTokenizer(folder.tokenizer.json).sha256 == CodeTokenizer(path).sha256
    assert yaml.safe_load(folder.meta_adapter.read_text())["tokenizer"] == "tokenizer/tokenizer.json"
    record = read_model_record(tmp_path / "out")
    assert record is not None
    assert {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"} <= record.files.keys()


def test_a_checkpoint_in_a_wrapper_or_of_another_library_says_so(source, tmp_path, tokenizer, said):
    directory, tensors = source
    for prefix, message in (("module.", "begin with 'module.', which a wrapper"), ("model.", "begin with 'model.'")):
        torch.save({prefix + name: tensor for name, tensor in tensors.items()}, directory / "consolidated.pth")
        with pytest.raises(ArtifactError, match=message):
            convert(directory, tmp_path / "out", tokenizer, said)
    theirs = {"model.embed_tokens.weight": torch.zeros(2), "lm_head.weight": torch.zeros(2)}
    torch.save(theirs, directory / "consolidated.pth")
    with pytest.raises(ArtifactError, match=r"names of a Hugging Face model.*wmtp import"):
        convert(directory, tmp_path / "out", tokenizer, said)
