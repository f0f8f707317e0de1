"""Every family against transformers: logits, gradients, and the way there and back.

The sequences are longer than the original context of `llama3` scaling and than the window.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.byte_level_tokenizer import write_byte_level
from tests.parity.families import FAMILIES, LLAMA3, WINDOW, random_model
from vendor.meta_llama import KVCache
from wmtp_ray.artifacts.hf.config_file import is_tied, params_from_config
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.import_model import import_model
from wmtp_ray.artifacts.hf.layout import block_names, meta_name, to_meta_rows
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, read_tensors
from wmtp_ray.model.spec import ModelSpec

transformers = pytest.importorskip("transformers")

LENGTH = 40
TOKENS_BT = torch.randint(352, (2, LENGTH), generator=torch.Generator().manual_seed(2))
assert max(WINDOW, int(LLAMA3["original_max_position_embeddings"])) < LENGTH


@pytest.fixture(params=FAMILIES)
def theirs(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param)


@pytest.fixture
def ours(theirs: Any, tmp_path: Path) -> Path:
    """The model imported with three heads."""
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    import_model(tmp_path / "theirs", tmp_path / "ours", num_horizons=3)
    return tmp_path / "ours"


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() > 1.0


@torch.no_grad()
def test_every_horizon_of_an_import_starts_with_the_logits_of_transformers(theirs: Any, ours: Path) -> None:
    expected = theirs(TOKENS_BT).logits
    logits_BTHV = load_transformer(ours)(TOKENS_BT, return_all_heads=True)
    for horizon in range(3):
        assert_equal(logits_BTHV[:, :, horizon], expected)


def test_an_export_is_what_was_imported_and_loads_as_it(theirs: Any, ours: Path, tmp_path: Path) -> None:
    tensors = read_tensors(ours / "model.safetensors")
    export_model(ModelSpec.read(ours), tensors, write_byte_level(tmp_path / "tokenizer"), tmp_path / "back")
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values())
    assert (type(back), back.config.model_type) == (type(theirs), theirs.config.model_type)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    with torch.no_grad():
        assert torch.equal(back(TOKENS_BT).logits, theirs(TOKENS_BT).logits)
    import_model(tmp_path / "back", tmp_path / "again", num_horizons=3)
    assert ModelSpec.read(tmp_path / "again") == ModelSpec.read(ours)


@torch.no_grad()
def test_cached_decoding_has_the_logits_of_transformers_on_the_whole_text(theirs: Any, ours: Path) -> None:
    model = load_transformer(ours)
    cache = KVCache(model.args, batch_size=2, max_length=LENGTH, num_horizons=3)
    parts = [model(part, cache.lengths[0], True, cache) for part in TOKENS_BT.split([13, *([1] * 20), 3, 4], dim=1)]
    for horizon in range(3):
        assert_equal(torch.cat(parts, dim=1)[:, :, horizon], theirs(TOKENS_BT).logits)


def test_gradients_of_horizon_1_are_those_of_autograd_through_transformers(theirs: Any, ours: Path) -> None:
    model = load_transformer(ours)
    documents = [LENGTH, LENGTH]
    flat_BT = TOKENS_BT.reshape(1, -1)
    hidden_BTD = model.head_hidden(model.trunk(flat_BT, document_lengths=documents), 1, document_lengths=documents)
    next_token_loss(model.output(hidden_BTD).reshape(2, LENGTH, -1)).backward()
    next_token_loss(theirs(TOKENS_BT).logits).backward()
    args, found = model.args, {name: parameter.grad for name, parameter in model.named_parameters()}
    spec = ModelSpec.of(args)
    for name, parameter in theirs.named_parameters():
        ours_name = meta_name(name, block_names(spec))
        assert ours_name is not None
        gradient = found[ours_name]
        assert gradient is not None, ours_name
        if name == "model.embed_tokens.weight" and theirs.config.tie_word_embeddings:
            gradient = gradient + model.output.weight.grad
        torch.testing.assert_close(gradient, to_meta_rows(ours_name, parameter.grad, spec), rtol=1e-5, atol=1e-5)
        # Without rotary positions a bias on the keys adds the same to all scores of a query, which changes nothing.
        assert parameter.grad.abs().max() > 1e-4 or (args.blocks_without_rope and name.endswith("k_proj.bias")), name


def next_token_loss(logits_BTV: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), TOKENS_BT[:, 1:].flatten())


@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in FAMILIES.values()}))
def test_what_config_json_leaves_out_is_what_the_config_class_takes(model_type: str) -> None:
    """A config.json of the sizes alone, and the same with all that the class fills in."""
    whole = transformers.AutoConfig.for_model(model_type).to_dict()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    silent = {key: whole[key] for key in ("model_type", *sizes)}
    found, expected = (params_from_config(config) for config in (silent, whole))
    resolved = [(args.num_kv_heads, args.head_dim) for args in (found, expected)]
    assert resolved[0] == resolved[1]
    assert replace(found, n_kv_heads=1) == replace(expected, n_kv_heads=1)
    assert is_tied(silent) == is_tied(whole)
