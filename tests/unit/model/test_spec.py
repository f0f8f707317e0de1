"""What params.json may say, what it must not, and the sizes of the model that it describes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from tests.unit.model.shapes import model_specs
from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec, params_bytes

SMALL = {"dim": 16, "n_layers": 4, "n_heads": 2, "vocab_size": 11}


def read_params(directory: Path, params: Any) -> ModelSpec:
    (directory / "params.json").write_text(params if isinstance(params, str) else json.dumps(params))
    return ModelSpec.read(directory)


def test_a_description_has_the_fields_and_defaults_of_the_arguments_and_no_others(tmp_path: Path) -> None:
    assert [(field.name, field.default) for field in dataclasses.fields(ModelSpec)] == [
        (field.name, field.default) for field in dataclasses.fields(ModelArgs)
    ]
    assert vars(read_params(tmp_path, SMALL)) == vars(ModelArgs(**SMALL))


@given(model_specs())
def test_what_is_written_is_read_back_by_the_description_and_by_the_arguments(spec: ModelSpec) -> None:
    params = json.loads(params_bytes(spec))
    assert None not in params.values()
    assert ModelSpec.from_params(params, Path("params.json")) == spec == ModelSpec.of(ModelArgs(**params))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{", r"params\.json is not JSON: .*published with the weights"),
        ("<!doctype html>", "is not JSON: found a web page"),
        ("[1]", "holds list, expected an object; give the params.json that was published with the weights"),
        (
            {"dim": 16},
            "found n_layers=None, n_heads=None, vocab_size=None, expected whole numbers.*wmtp import",
        ),
        (SMALL | {"dim": "16"}, "found dim='16', expected whole numbers above 0"),
        (SMALL | {"dim": True}, "found dim=True, expected whole numbers above 0"),
        (SMALL | {"n_heads": 0}, "found n_heads=0, expected whole"),
        (SMALL | {"n_kv_heads": 0}, "found n_kv_heads=0, expected whole"),
        (SMALL | {"multiple_of": 0}, "found multiple_of=0, expected whole"),
        (SMALL | {"n_future_tokens": None}, "found n_future_tokens=None, expected whole"),
        (SMALL | {"rope_theta": "1e4"}, "found rope_theta='1e4', expected numbers above 0"),
        (SMALL | {"norm_eps": 0}, "found norm_eps=0, expected numbers above 0"),
        (SMALL | {"vocab_size": -1}, "found vocab_size=-1, expected whole .*write the tokenizer's size"),
        (SMALL | {"n_heads": 3}, "n_heads 3 does not divide dim 16.*correct the file"),
        (SMALL | {"n_future_tokens": 5}, r"n_future_tokens 5 is not in 1\.\.n_layers \(4\)"),
        (SMALL | {"use_scaled_rope": True}, r"scaled rotary positions of LLaMA 3\.1.*choose a model without them"),
        (SMALL | {"head_dim": 128}, r"found head_dim = 128\. Known keys: dim"),
        (
            SMALL | {"sliding_window": 4096, "moe": {"num_experts": 8}},
            r"found sliding_window = 4096; moe = \{'num_experts': 8\}",
        ),
    ],
)
def test_params_that_describe_no_model_say_what_is_wrong(tmp_path: Path, params: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_params(tmp_path, params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"family": "gemma"}, "family 'gemma' is none of llama, qwen2"),
        ({"family": 3}, "found family=3, expected a name"),
        ({"qkv_bias": 1}, "found qkv_bias=1, expected true or false"),
        ({"norm_after": None}, "found norm_after=None, expected true or false"),
        ({"attention_head_dim": 7}, "the head dimension 7 is odd"),
        ({"attention_window": 0}, "found attention_window=0, expected whole numbers above 0"),
        ({"query_key_norm": "layer"}, "query_key_norm 'layer' is none of head, width"),
        ({"blocks_without_rope": [0, 4]}, r"blocks_without_rope \[4\] are not in 0\.\.3"),
        ({"blocks_without_rope": [-1]}, r"found blocks_without_rope=\[-1\], expected a list of whole numbers"),
        ({"blocks_without_rope": 3}, "found blocks_without_rope=3, expected a list of whole numbers"),
        ({"rope_scaling_factor": 0}, "found rope_scaling_factor=0, expected numbers above 0"),
        ({"rope_low_freq_factor": 1.0}, "belong together"),
        (
            {"rope_low_freq_factor": 4.0, "rope_high_freq_factor": 4.0, "rope_original_seq_len": 8},
            r"rope_high_freq_factor 4\.0 is not above rope_low_freq_factor 4\.0",
        ),
    ],
)
def test_keys_of_other_families_are_checked_as_strictly(tmp_path: Path, params: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_params(tmp_path, SMALL | params)


def test_a_params_json_holds_what_other_families_need_only_where_a_model_needs_it() -> None:
    plain = ModelSpec(dim=16, n_layers=4, n_heads=2, vocab_size=11)
    assert json.loads(params_bytes(plain)) == SMALL | {
        "n_future_tokens": 1,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "multiple_of": 256,
    }
    needing = dataclasses.replace(plain, family="smollm3", blocks_without_rope=(1, 3), mlp_bias=True)
    added = {"family": "smollm3", "blocks_without_rope": [1, 3], "mlp_bias": True}
    assert json.loads(params_bytes(needing)) == json.loads(params_bytes(plain)) | added


def test_missing_params_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"params\.json is missing"):
        ModelSpec.read(tmp_path)


def test_keys_without_effect_are_read_over(tmp_path: Path) -> None:
    plain = {"use_scaled_rope": False, "sliding_window": None, "max_seq_len": -1, "rope_theta": 500000}
    assert read_params(tmp_path, SMALL | plain).rope_theta == 500000


@given(model_specs())
@settings(max_examples=25, deadline=None)
def test_parameters_are_those_of_the_model_without_storage(spec: ModelSpec) -> None:
    with torch.device("meta"):
        model = Transformer(spec)
    assert spec.parameters == sum(parameter.numel() for parameter in model.parameters())
    shapes = {name: tuple(weight.shape[::-1]) for name, weight in model.layers[0].named_parameters()}
    assert spec.matrices() == {name.split(".")[1]: shape for name, shape in shapes.items() if len(shape) == 2}
    assert set(spec.biased()) == {name.split(".")[1] for name in shapes if name.endswith(".bias")}


def test_the_real_snapshot_has_its_published_size() -> None:
    spec = ModelSpec(dim=4096, n_layers=32, n_heads=32, n_future_tokens=4, vocab_size=32000)
    assert (spec.parameters, spec.hidden_dim, spec.num_horizons) == (6_738_415_616, 11008, 4)
