from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.meta_checkpoint import (
    load_policy,
    load_transformer,
    load_value_head,
    load_value_path,
    open_value_path,
    read_tensors,
    save_policy,
    save_transformer,
)
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec

ARGS = ModelSpec(dim=16, n_layers=4, n_heads=2, n_kv_heads=1, vocab_size=11, n_future_tokens=2, multiple_of=8)
SPEC = ValueSpec("mlp", 0.67, "surprisal")


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Transformer]:
    transformer = Transformer(ARGS)
    save_transformer(tmp_path / "model", transformer)
    return tmp_path / "model", transformer


def test_a_saved_model_loads_with_its_tensors_and_arguments(saved: tuple[Path, Transformer]) -> None:
    directory, transformer = saved
    loaded = load_transformer(directory)
    assert loaded.args == ARGS == ModelSpec.read(directory)
    assert _same(loaded.state_dict(), transformer.state_dict())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())
    assert {path.name for path in directory.iterdir()} == {"params.json", "model.safetensors"}


def test_dtype_is_converted_on_the_way_in_and_out(saved: tuple[Path, Transformer]) -> None:
    directory, transformer = saved
    assert load_transformer(directory, dtype=torch.bfloat16).output.weight.dtype == torch.bfloat16
    save_transformer(directory, transformer, dtype=torch.float16)
    loaded = load_transformer(directory)
    assert torch.equal(loaded.output.weight, transformer.output.weight.half().float())


@pytest.mark.parametrize("zipped", [True, False])
def test_metas_consolidated_file_loads_and_safetensors_go_first(saved: tuple[Path, Transformer], zipped: bool) -> None:
    directory, transformer = saved
    doubled = {name: 2 * tensor for name, tensor in transformer.state_dict().items()}
    torch.save(doubled, directory / "consolidated.pth", _use_new_zipfile_serialization=zipped)
    assert _same(load_transformer(directory).state_dict(), transformer.state_dict())
    (directory / "model.safetensors").unlink()
    assert _same(load_transformer(directory).state_dict(), doubled)


def test_training_a_loaded_model_leaves_its_file_alone(saved: tuple[Path, Transformer]) -> None:
    directory, transformer = saved
    loaded = load_transformer(directory)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    assert _same(load_transformer(directory).state_dict(), transformer.state_dict())


def test_saving_keeps_other_files_of_the_directory(saved: tuple[Path, Transformer]) -> None:
    directory, transformer = saved
    (directory / "tokenizer.model").write_bytes(b"pieces")
    save_transformer(directory, transformer)
    assert (directory / "tokenizer.model").read_bytes() == b"pieces"


def _without_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "norm.weight"}


def _with_rope(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"rope.freqs": torch.zeros(4)}


def _with_small_output(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"output.weight": torch.zeros(7, 16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_norm, "missing: norm.weight"),
        (_with_rope, "unexpected: rope.freqs"),
        (_with_small_output, r"of another shape: output.weight \(7, 16\) instead of \(11, 16\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    saved: tuple[Path, Transformer], change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    path = saved[0] / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ArtifactError, match=message):
        load_transformer(saved[0])


@pytest.mark.parametrize("name", ["model.safetensors", "consolidated.pth"])
def test_a_torn_weights_file_is_an_artifact_error(saved: tuple[Path, Transformer], name: str) -> None:
    directory, transformer = saved
    torch.save(transformer.state_dict(), directory / "consolidated.pth")
    whole = (directory / name).read_bytes()
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="cannot be read as tensors"):
        load_transformer(directory)


def test_a_pickle_that_would_run_code_is_refused(saved: tuple[Path, Transformer]) -> None:
    directory, transformer = saved
    (directory / "model.safetensors").unlink()
    torch.save(transformer, directory / "consolidated.pth")
    with pytest.raises(ArtifactError, match="cannot be read as tensors"):
        load_transformer(directory)


def test_a_model_of_unusable_params_is_not_loaded(saved: tuple[Path, Transformer]) -> None:
    (saved[0] / "params.json").write_text('{"dim": 16}')
    with pytest.raises(ArtifactError, match=r"params\.json describes no model: found n_layers=None"):
        load_transformer(saved[0])


def test_missing_files_are_named(saved: tuple[Path, Transformer]) -> None:
    directory = saved[0]
    (directory / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"neither model\.safetensors nor consolidated\.pth"):
        load_transformer(directory)
    with pytest.raises(ArtifactError, match=r"params\.json is missing"):
        load_transformer(directory / "elsewhere")


def test_a_policy_comes_back_with_its_head_and_specification(tmp_path: Path) -> None:
    policy = Policy(Transformer(ARGS), SPEC)
    with torch.no_grad():
        policy.value_head.output.weight.normal_()
    save_policy(tmp_path, policy)
    for spec in (None, SPEC):
        loaded = load_policy(tmp_path, spec=spec)
        assert loaded.spec == SPEC
        assert _same(loaded.state_dict(), policy.state_dict())


def test_the_value_head_stays_float32_in_a_half_precision_policy(tmp_path: Path) -> None:
    policy = Policy(Transformer(ARGS), SPEC)
    with torch.no_grad():
        policy.value_head.output.bias.fill_(1 / 3)
    save_policy(tmp_path, policy, dtype=torch.bfloat16)
    loaded = load_policy(tmp_path, dtype=torch.bfloat16)
    assert loaded.transformer.output.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.value_head.output.bias, policy.value_head.output.bias)


def test_a_fresh_head_values_everything_at_zero_and_is_the_callers_draw(saved: tuple[Path, Transformer]) -> None:
    draws = [load_policy(saved[0], spec=SPEC, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert _same(draws[0].state_dict(), draws[1].state_dict())
    assert draws[0].value_head.output.weight.eq(0).all()
    with pytest.raises(ArtifactError, match="has no value head"):
        load_policy(saved[0])


def test_another_head_than_the_stored_one_is_refused(tmp_path: Path) -> None:
    save_policy(tmp_path, Policy(Transformer(ARGS), SPEC))
    with pytest.raises(ArtifactError, match=r"head mlp, value_layer 0.67.*wants .*head linear, value_layer 1.0"):
        load_policy(tmp_path, spec=ValueSpec("linear", 1.0, "none"))


def test_head_and_value_path_are_those_of_the_stored_policy_and_refuse_as_it_does(tmp_path: Path) -> None:
    policy = Policy(Transformer(ARGS), SPEC)
    with torch.no_grad():
        policy.value_head.output.weight.normal_()
    save_policy(tmp_path, policy)
    assert _same(load_value_head(tmp_path, SPEC).state_dict(), policy.value_head.state_dict())
    assert _same(load_value_path(tmp_path, SPEC).state_dict(), value_path_state(policy))
    forms, read = open_value_path(tmp_path, SPEC)
    assert _same({name: read(name) for name in forms}, value_path_state(policy))
    assert {name: form.shape for name, form in forms.items()} == {n: tuple(read(n).shape) for n in forms}
    for load in (load_value_head, load_value_path, open_value_path):
        with pytest.raises(ArtifactError, match=r"wants .*head linear, value_layer 1.0"):
            load(tmp_path, ValueSpec("linear", 1.0, "none"))


def _ensemble(trunks: str) -> Policy:
    policy = Policy(Transformer(ARGS), replace(SPEC, members=3, trunks=trunks))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in policy.value_head.parameters():
            parameter.normal_()
    return policy


@pytest.mark.parametrize("trunks", ["shared", "own"])
def test_an_ensemble_comes_back_whole_whichever_trunks_are_asked_for(tmp_path: Path, trunks: str) -> None:
    policy = _ensemble(trunks)
    save_policy(tmp_path, policy)
    assert _same(load_policy(tmp_path).state_dict(), policy.state_dict())
    for asked in (replace(SPEC, members=3), replace(SPEC, members=3, trunks="own")):
        critic = load_value_path(tmp_path, asked)
        assert critic.spec == policy.spec
        assert _same(critic.state_dict(), value_path_state(policy))
        forms, read = open_value_path(tmp_path, asked)
        assert _same({name: read(name) for name in forms}, value_path_state(policy))
    names = set(read_tensors(tmp_path / "value_head.safetensors"))
    assert {name.split(".")[1] for name in names} == {"0", "1", "2"}
    assert any("layers" in name for name in names) == (trunks == "own")
    assert _same(read_tensors(tmp_path / "model.safetensors"), policy.transformer.state_dict())


@pytest.mark.parametrize(("stored", "asked"), [(1, 3), (3, 1), (3, 2)])
def test_an_ensemble_of_another_size_is_refused(tmp_path: Path, stored: int, asked: int) -> None:
    save_policy(tmp_path, _ensemble("shared") if stored == 3 else Policy(Transformer(ARGS), SPEC))
    for load in (load_value_head, load_value_path, open_value_path):
        with pytest.raises(ArtifactError, match=rf"Set critic\.ensemble={stored}, or train a critic of {asked} "):
            load(tmp_path, replace(SPEC, members=asked))


def test_the_record_of_one_critic_says_nothing_of_ensembles(tmp_path: Path) -> None:
    save_policy(tmp_path, Policy(Transformer(ARGS), SPEC))
    fields = ['"head": "mlp"', '"value_layer": 0.67', '"features": "surprisal"', '"output": "value"', '"num_bins": 0']
    assert (tmp_path / "value_head.json").read_text() == "{\n  " + ",\n  ".join(fields) + "\n}\n"
    save_policy(tmp_path, _ensemble("own"))
    fields += ['"members": 3', '"trunks": "own"']
    assert (tmp_path / "value_head.json").read_text() == "{\n  " + ",\n  ".join(fields) + "\n}\n"


def test_half_a_value_head_is_refused(tmp_path: Path) -> None:
    save_policy(tmp_path, Policy(Transformer(ARGS), SPEC))
    (tmp_path / "value_head.safetensors").unlink()
    with pytest.raises(ArtifactError, match="belong together"):
        load_policy(tmp_path, spec=SPEC)


def test_a_damaged_value_specification_is_refused(tmp_path: Path) -> None:
    save_policy(tmp_path, Policy(Transformer(ARGS), SPEC))
    (tmp_path / "value_head.json").write_text('{"head": "cubic", "value_layer": 1.0, "features": "none"}')
    with pytest.raises(ArtifactError, match=r"value_head\.json: .*field head"):
        load_policy(tmp_path)
