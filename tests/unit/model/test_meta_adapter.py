"""meta_adapter.yaml beside params.json: the two describe one model, or the key that differs is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

PARAMS = {"dim": 16, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 32, "n_future_tokens": 2}
PARAMS |= {"multiple_of": 8, "norm_eps": 1e-5, "rope_theta": 10000.0}
AGREEING: dict[str, Any] = {
    "nothing of it": {"version": 3, "dtype": "float16", "weights": "safetensors/model.safetensors"},
    "the keys of params.json": PARAMS,
    "sections": {"model": PARAMS, "attention": {"head_dim": 4, "n_kv_heads": 2}, "rope": {"theta": 10000}},
    "what follows": {"hidden_dim": 48, "trunk_blocks": 2, "head_dim": 4, "num_horizons": 2},
    "names of Hugging Face": {"hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 48},
    "a number that YAML reads as text": {"norm_eps": "1e-5"},
    "left open": {"n_kv_heads": None, "ffn_dim_multiplier": None, "max_seq_len": 4096},
}
DIFFERING: dict[str, tuple[dict[str, Any], str]] = {
    "a key": ({"n_future_tokens": 4}, r"found n_future_tokens 4 in the one, expected 2"),
    "in a section": ({"model": {"heads": {"n_heads": 8}}}, r"found model\.heads\.n_heads 8 .* expected 4"),
    "of the rotary positions": ({"rope": {"theta": 500000.0}}, r"found rope\.theta 500000\.0 .* expected 10000\.0"),
    "what follows": ({"trunk_blocks": 3}, r"found trunk_blocks 3 .* expected 2"),
    "a name of Hugging Face": ({"hidden_size": 64}, r"found hidden_size 64 .* expected 16"),
    "text": ({"dim": "wide"}, r"found dim 'wide' .* expected 16"),
}


def write(directory: Path, adapter: str, *, in_parts: bool) -> Path:
    folder = directory / "configs" if in_parts else directory
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "meta_adapter.yaml").write_text(adapter)
    return directory


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("adapter", AGREEING.values(), ids=AGREEING)
def test_two_files_that_agree_are_read(tmp_path, adapter, in_parts):
    assert ModelSpec.read(write(tmp_path, yaml.safe_dump(adapter), in_parts=in_parts)) == ModelSpec(**PARAMS)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(("adapter", "message"), DIFFERING.values(), ids=DIFFERING)
def test_the_key_that_differs_is_named(tmp_path, adapter, message, in_parts):
    with pytest.raises(ArtifactError, match=message):
        ModelSpec.read(write(tmp_path, yaml.safe_dump(adapter), in_parts=in_parts))


@pytest.mark.parametrize(("adapter", "message"), [("a: [", "cannot be read"), ("- dim", "expected keys with values")])
def test_a_file_of_another_form_is_refused(tmp_path, adapter, message):
    with pytest.raises(ArtifactError, match=rf"meta_adapter\.yaml .*{message}"):
        ModelSpec.read(write(tmp_path, adapter, in_parts=True))


def test_without_the_file_params_alone_say_what_the_model_is(tmp_path):
    (write(tmp_path, "", in_parts=True) / "configs" / "meta_adapter.yaml").unlink()
    assert ModelSpec.read(tmp_path) == ModelSpec(**PARAMS)
