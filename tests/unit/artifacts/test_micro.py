import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vendor.meta_llama import Transformer
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, save_transformer
from wmtp_ray.artifacts.micro import MicroShape, make_micro_model, micro_args, open_random, open_slice
from wmtp_ray.artifacts.model_directory import write_model
from wmtp_ray.artifacts.model_record import read_model_record
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import ModelFolder

SMALL = ModelSpec(dim=16, n_layers=4, n_heads=2, vocab_size=11, n_future_tokens=2, multiple_of=8)


def test_the_micro_of_the_objective_is_under_50_megabytes(tmp_path: Path) -> None:
    args = ModelSpec(dim=256, n_layers=7, n_heads=4, vocab_size=32000, n_future_tokens=4)
    make_micro_model(tmp_path, args, seed=0)
    assert 40e6 < (tmp_path / "model.safetensors").stat().st_size < 50e6


def test_the_seed_alone_decides_the_bytes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        make_micro_model(tmp_path / name, SMALL, seed=seed)
    one, same, other = (file_sha256(tmp_path / name / "model.safetensors") for name in ("one", "same", "other"))
    assert one == same != other


def test_a_micro_model_predicts_nearly_uniformly_at_first(tmp_path: Path) -> None:
    make_micro_model(tmp_path, SMALL, seed=0)
    with torch.no_grad():
        logits_BTHV = load_transformer(tmp_path)(torch.arange(11)[None], return_all_heads=True)
    assert logits_BTHV.isfinite().all()
    losses = -logits_BTHV.log_softmax(-1)
    torch.testing.assert_close(losses, torch.full_like(losses, 2.398), rtol=0, atol=0.5)


BASE = ModelSpec(
    dim=32, n_layers=6, n_heads=8, n_kv_heads=4, vocab_size=310, n_future_tokens=3, multiple_of=8, rope_theta=5e5
)


@pytest.fixture
def base(tmp_path: Path, tokenizer: Path) -> tuple[Path, dict[str, Tensor]]:
    transformer = Transformer(BASE)
    save_transformer(tmp_path / "base", transformer)
    shutil.copy(tokenizer, tmp_path / "base" / "tokenizer.model")
    return tmp_path / "base", transformer.state_dict()


def shape(**changes: int) -> MicroShape:
    sizes = {"n_layers": 4, "dim": 8, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 20, "vocab_size": 301}
    return MicroShape(**{"n_future_tokens": 2} | sizes | changes)


def cut(base: Path, out: Path, asked: MicroShape) -> dict[str, Tensor]:
    model = open_slice(base, micro_args(asked, ModelSpec.read(base)), None)
    write_model(out, model, datetime(2026, 1, 1), print, dry_run=False)
    load_transformer(out)
    return load_file(out / "safetensors" / "model.safetensors")


def test_every_tensor_of_a_slice_is_the_part_of_its_role_in_the_base(base, tmp_path):
    """Of 8 query heads, 2 for each of 4 key heads, and 4 channels a head: heads 0 to 3, which have keys 0 and 1."""
    written = cut(base[0], tmp_path / "out", shape())
    blocks = {"layers.0": "layers.0", "layers.1": "layers.1", "layers.2": "layers.3", "extra_heads.0": "extra_heads.0"}
    channels = [head * 4 + channel for head in range(4) for channel in range(2)]
    keys = [head * 4 + channel for head in range(2) for channel in range(2)]
    expected = {"norm.weight": base[1]["norm.weight"][:8]}
    for name in ("tok_embeddings.weight", "output.weight"):
        expected[name] = base[1][name][:301, :8]
    for ours, theirs in blocks.items():
        for name, (rows, columns) in {
            "attention.wq": (channels, range(8)),
            "attention.wk": (keys, range(8)),
            "attention.wv": (keys, range(8)),
            "attention.wo": (range(8), channels),
            "feed_forward.w1": (range(20), range(8)),
            "feed_forward.w2": (range(8), range(20)),
            "feed_forward.w3": (range(20), range(8)),
        }.items():
            whole = base[1][f"{theirs}.{name}.weight"]
            expected[f"{ours}.{name}.weight"] = torch.stack([whole[row][list(columns)] for row in rows])
        for name in ("attention_norm", "ffn_norm"):
            expected[f"{ours}.{name}.weight"] = base[1][f"{theirs}.{name}.weight"][:8]
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in expected.items())


def test_grouped_queries_stay_with_their_keys(base, tmp_path):
    written = cut(base[0], tmp_path / "out", shape(dim=16, n_heads=4, n_kv_heads=4))
    heads = base[1]["layers.0.attention.wq.weight"].unflatten(0, (8, 4))
    expected = torch.cat([heads[head, :, :16] for head in (0, 2, 4, 6)])
    assert torch.equal(written["layers.0.attention.wq.weight"], expected.half())


def test_what_is_not_asked_for_is_the_bases():
    args = micro_args(MicroShape(5, 16, 4, None, None, None, None), BASE)
    assert (args.num_kv_heads, args.vocab_size, args.n_future_tokens, args.rope_theta) == (2, 310, 3, 5e5)


def test_a_slice_of_everything_is_the_base(base, tmp_path):
    whole = MicroShape(6, 32, 8, 4, BASE.hidden_dim, 310, 3)
    written = cut(base[0], tmp_path / "out", whole)
    assert ModelSpec.read(tmp_path / "out").hidden_dim == BASE.hidden_dim
    assert written.keys() == base[1].keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in base[1].items())


OTHER = replace(
    BASE,
    family="smollm3",
    attention_head_dim=6,
    qkv_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    query_key_norm="head",
    attention_window=9,
    blocks_without_rope=(1, 3, 4),
)


@pytest.mark.parametrize("norm", ["head", "width"])
def test_a_slice_keeps_what_another_family_adds(tmp_path, tokenizer, norm):
    base, transformer = replace(OTHER, query_key_norm=norm), Transformer(replace(OTHER, query_key_norm=norm))
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    save_transformer(tmp_path / "base", transformer)
    shutil.copy(tokenizer, tmp_path / "base" / "tokenizer.model")
    written, whole = cut(tmp_path / "base", tmp_path / "out", shape(dim=16)), transformer.state_dict()
    args = ModelSpec.read(tmp_path / "out")
    # 4 heads of a width of 16 where the base has 8 of 32: a head keeps all of its 6 channels.
    assert (args.head_dim, args.query_key_norm, args.attention_window, args.family) == (6, norm, 9, "smollm3")
    # Trunk blocks 0 and 1 of 3, then the heads of horizons 1 and 2, which are blocks 3 and 4 of the base.
    assert args.blocks_without_rope == (1, 2, 3)
    heads = {"q_norm": 24, "k_norm": 12} if norm == "width" else {"q_norm": 6, "k_norm": 6}
    for ours, theirs in {"layers.0": "layers.0", "layers.2": "layers.3", "extra_heads.0": "extra_heads.0"}.items():
        for name, size in {"wq": 24, "wk": 12, "wv": 12, "wo": 16}.items():
            expected = whole[f"{theirs}.attention.{name}.bias"][:size]
            assert torch.equal(written[f"{ours}.attention.{name}.bias"], expected.half())
        for name, size in heads.items():
            assert torch.equal(
                written[f"{ours}.attention.{name}.weight"], whole[f"{theirs}.attention.{name}.weight"][:size].half()
            )
        assert torch.equal(written[f"{ours}.feed_forward.w2.bias"], whole[f"{theirs}.feed_forward.w2.bias"][:16].half())
    again = cut(tmp_path / "base", tmp_path / "all", MicroShape(6, 32, 8, 4, base.hidden_dim, 310, 3))
    assert replace(ModelSpec.read(tmp_path / "all"), multiple_of=8, ffn_dim_multiplier=None) == base
    assert all(torch.equal(again[name], tensor.half()) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 64, "n_heads": 8, "n_kv_heads": 4}, "64 width of 32; 8 channels a head of 4"),
        ({"n_layers": 7}, "5 trunk blocks of 3"),
        ({"n_layers": 6, "n_future_tokens": 4}, "4 prediction heads of 3"),
        ({"dim": 16, "n_heads": 8, "n_kv_heads": 8}, "8 heads with keys of 4"),
        ({"dim": 16, "n_heads": 8, "n_kv_heads": 2}, "4 heads for each of them of 2"),
        ({"hidden_dim": 400}, "400 feed-forward units of 88"),
        ({"vocab_size": 311}, "311 tokens of 310"),
        ({"vocab_size": 299}, "has 300 tokens, the model has rows for 299"),
        ({"n_layers": 2}, "have no trunk"),
        ({"n_layers": 1}, r"n_future_tokens 2 is not in 1\.\.n_layers"),
        ({"n_heads": 3}, "does not divide dim"),
        ({"n_heads": 8}, "head dimension 1 is odd"),
        ({"dim": 0}, "found dim 0"),
        ({"n_heads": -1}, "found n_heads -1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(base, tmp_path, changes, message):
    with pytest.raises(ArtifactError, match=message):
        cut(base[0], tmp_path / "out", shape(**changes))
    assert not (tmp_path / "out").exists()


def test_a_miniature_of_50_megabytes_is_none(tokenizer):
    args = ModelSpec(dim=512, n_layers=7, n_heads=4, vocab_size=32000, n_future_tokens=4)
    with pytest.raises(ArtifactError, match=r"takes 113\.3 MB, expected less than 50 MB"):
        open_random(args, 1, tokenizer)


def test_a_random_miniature_is_the_seeds_and_records_it(tmp_path, tokenizer):
    args = micro_args(MicroShape(4, 16, 2, None, None, 300, 2), SMALL)
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_model(tmp_path / name, open_random(args, seed, tokenizer), datetime(2026, 1, 1), print, dry_run=False)
    one, same, other = (file_sha256(ModelFolder(tmp_path / name).weights) for name in ("one", "same", "other"))
    assert one == same != other
    record = read_model_record(tmp_path / "one")
    assert record is not None
    assert (record.dtype, record.settings["seed"], record.settings["n_layers"]) == ("float16", 3, 4)
    assert (record.target_device, record.sha256) == ("cpu", one)
