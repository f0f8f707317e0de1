"""How a model directory comes to be: whole or absent, once, never in the place of another model."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.model_directory import ModelToWrite, keep_place, narrowed, say_how_to_run, write_model
from wmtp_ray.artifacts.model_record import read_model_record
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.artifacts.tokenizer_description import described_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

PARAMS, WEIGHTS = "configs/params.json", "safetensors/model.safetensors"
ARGS = ModelSpec(dim=16, n_layers=3, n_heads=2, vocab_size=304, n_future_tokens=2, multiple_of=8)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return dict(Transformer(ARGS).state_dict())


@pytest.fixture
def model(tensors: dict[str, Tensor], tokenizer: Path) -> ModelToWrite:
    forms = {name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    source = {"tokenizer.model": tokenizer}
    return ModelToWrite("micro", "v1", ARGS, forms, tensors.__getitem__, tokenizer, source, {"seed": 1})


@pytest.fixture
def write(model: ModelToWrite, said: list[str], now: datetime, tmp_path: Path) -> Callable[..., Path]:
    def write(changed: ModelToWrite = model, *, dry_run: bool = False) -> Path:
        write_model(tmp_path / "models" / "micro", changed, now, said.append, dry_run=dry_run)
        return tmp_path / "models" / "micro"

    return write


def content(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): file_sha256(path) for path in directory.rglob("*") if path.is_file()}


def failing_at(tensors: dict[str, Tensor], name: str) -> Callable[[str], Tensor]:
    def read(asked: str) -> Tensor:
        if asked == name:
            raise KeyboardInterrupt
        return tensors[asked]

    return read


def test_a_whole_directory_of_the_same_source_is_left_alone(write, said):
    before = content(write())
    inode = (write() / WEIGHTS).stat().st_ino
    assert "nothing to do" in said[-1]
    assert content(write()) == before
    assert (write() / WEIGHTS).stat().st_ino == inode


def test_another_model_is_never_overwritten(write, model, tokenizer):
    out = write()
    before = content(out)
    other_source = {"tokenizer.model": tokenizer, "params.json": out / PARAMS}
    for other in ({"settings": {"seed": 2}}, {"kind": "policy"}, {"source": other_source}):
        with pytest.raises(ArtifactError, match=r"another model \(micro v1\), which is never overwritten"):
            write(replace(model, **other))
    (out / "metadata.json").unlink()
    with pytest.raises(ArtifactError, match="something else, which is never overwritten"):
        write()
    assert content(out) == {name: sha256 for name, sha256 in before.items() if name != "metadata.json"}


def test_damaged_files_are_written_anew(write, said):
    out = write()
    before = content(out)
    (out / PARAMS).unlink()
    (out / WEIGHTS).write_bytes(b"torn")
    write()
    assert f"written anew, damaged: {PARAMS}, {WEIGHTS}" in "\n".join(said)
    assert content(out) == before


def test_a_writer_that_was_stopped_leaves_nothing_that_looks_like_a_model(write, model, tensors, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(replace(model, read=failing_at(tensors, "norm.weight")))
    assert list((tmp_path / "models").iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_nothing_else(write, tmp_path):
    models = tmp_path / "models"
    kept = [".micro", ".micro.old", f".micro2.{'0' * 32}", "micro2"]
    for name in (f".micro.{'0' * 32}", *kept):
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").touch()
    write()
    assert {path.name for path in models.iterdir()} == {*kept, "micro"}


def test_a_dry_run_checks_and_writes_nothing(write, model, said, tmp_path):
    write(dry_run=True)
    assert "dim 16, 2 heads of 8" in said[0]
    assert "1 trunk blocks, 2 prediction heads, 304 tokens" in said[0]
    assert not (tmp_path / "models").exists()
    with pytest.raises(ArtifactError, match="missing: norm"):
        write(replace(model, forms={k: f for k, f in model.forms.items() if k != "norm.weight"}), dry_run=True)


def test_values_that_change_between_two_readings_are_found(write, model, tensors):
    """NaN equals itself here, and 0.0 differs from -0.0: bits are compared."""
    tensors["norm.weight"] = torch.full((16,), float("nan"))
    out = write(replace(model, read=tensors.__getitem__))
    assert read_model_record(out) is not None
    readings = iter([torch.zeros(16), -torch.zeros(16)])
    other = replace(model, settings={}, read=lambda name: next(readings) if name == "norm.weight" else tensors[name])
    with pytest.raises(ArtifactError, match=r"does not hold what was written: norm\.weight"):
        write_model(out.parent / "other", other, datetime(2026, 1, 1), print, dry_run=False)
    assert not (out.parent / "other").exists()


def test_a_disk_that_is_too_small_is_refused_at_once(write, model):
    huge = ModelSpec(dim=1 << 16, n_layers=4, n_heads=2, vocab_size=1 << 22, multiple_of=1 << 20)
    with torch.device("meta"):
        state = Transformer(huge).state_dict()
    forms = {name: TensorForm(torch.float64, tuple(tensor.shape)) for name, tensor in state.items()}
    with pytest.raises(ArtifactError, match="GB free, the model takes"):
        write(replace(model, args=huge, forms=forms))


def test_a_place_for_a_reward_model_is_optional_and_takes_no_models_place(write, said, now, tmp_path):
    keep_place(tmp_path / "reward", now, said.append, dry_run=True)
    assert not (tmp_path / "reward").exists()
    keep_place(tmp_path / "reward", now, said.append, dry_run=False)
    record = read_model_record(tmp_path / "reward")
    assert record is not None
    assert (record.kind, record.status, record.files) == ("reward", "optional", {})
    keep_place(tmp_path / "reward", now, said.append, dry_run=False)
    assert "nothing to do" in said[-1]
    with pytest.raises(ArtifactError, match="never overwritten"):
        keep_place(write(), now, said.append, dry_run=False)


def test_who_wrote_a_model_is_told_how_to_run_it(write, model, said, tmp_path):
    out = write()
    said.clear()
    say_how_to_run(out, said.append)
    assert said == [f"run it with model.path={out} tokenizer.path={out}/tokenizer/tokenizer.model"]
    bare = tmp_path / "bare"
    write_model(bare, replace(model, tokenizer=None), datetime(2026, 1, 1), print, dry_run=False)
    say_how_to_run(bare, said.append)
    assert said[-1] == f"run it with model.path={bare}"


def test_the_files_of_a_model_lie_in_parts_and_metadata_says_what_they_are(write, model, tokenizer, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama"}')
    out = write(replace(model, hf_config=config, target_device="cpu"))
    assert set(content(out)) == {
        *("safetensors/model.safetensors", "configs/params.json", "configs/meta_adapter.yaml", "configs/config.json"),
        *("tokenizer/tokenizer.model", "tokenizer/tokenizer_config.json", "metadata.json"),
    }
    assert (out / "configs" / "config.json").read_bytes() == config.read_bytes()
    metadata = json.loads((out / "metadata.json").read_bytes())
    assert (metadata["version"], metadata["dtype"], metadata["date"]) == ("v1", "float32", "2026-01-02T03:04:05")
    assert metadata["sha256"] == file_sha256(out / "safetensors" / "model.safetensors")
    assert (metadata["status"], metadata["target_device"]) == ("ready", "cpu")
    adapter = yaml.safe_load((out / "configs" / "meta_adapter.yaml").read_text())
    assert (adapter["arguments"], adapter["weights"]) == ("configs/params.json", "safetensors/model.safetensors")
    assert (adapter["n_layers"], adapter["n_future_tokens"]) == (3, 2)


def test_a_sentencepiece_model_gets_the_description_that_it_lacks_and_keeps_the_one_that_it_has(write, tokenizer):
    out = write()
    described = json.loads((out / "tokenizer" / "tokenizer_config.json").read_bytes())
    assert (described["bos_token"], described["eos_token"]) == ("<s>", "</s>")
    ours, theirs = CodeTokenizer(out / "tokenizer" / "tokenizer.model"), CodeTokenizer(tokenizer)
    assert (ours.sha256, ours.encode("a  b\n")) == (theirs.sha256, theirs.encode("a  b\n"))
    own = out.parent / "own"
    own.mkdir()
    (own / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    (own / "tokenizer_config.json").write_text('{"chat_template": "{{ 1 }}"}')
    files = described_tokenizer(own / "tokenizer.model")
    assert files["tokenizer_config.json"] == b'{"chat_template": "{{ 1 }}"}'


def test_a_flat_directory_of_the_same_source_is_left_as_it_is(write, said):
    """What an earlier version wrote: all files side by side, a record of format 1."""
    out = write()
    record = json.loads((out / "metadata.json").read_bytes())
    for name in list(record["files"]):
        (out / name).rename(out / Path(name).name)
    record["files"] = {Path(name).name: digest for name, digest in record["files"].items()}
    record |= {"created": record.pop("date"), "format": 1}
    for younger in ("sha256", "target_device"):
        del record[younger]
    (out / "metadata.json").write_text(json.dumps(record))
    for folder in ("configs", "safetensors", "tokenizer"):
        (out / folder).rmdir()
    before = content(out)
    write()
    assert "nothing to do" in said[-1]
    assert content(out) == before


def test_narrowing_refuses_to_make_numbers_infinite():
    wide = torch.tensor([1.0, -7e4, float("inf")])
    with pytest.raises(ArtifactError, match=r"w holds 70000, more than torch\.float16 can"):
        narrowed("w", wide, torch.float16)
    assert torch.equal(narrowed("w", wide, torch.bfloat16), wide.to(torch.bfloat16))


def test_a_record_of_another_form_is_refused(write):
    out = write()
    (out / "metadata.json").write_text('{"version": 3}')
    with pytest.raises(
        ArtifactError,
        match=r"metadata\.json: found a whole number in the field version, expected text; remove the file",
    ):
        write()
