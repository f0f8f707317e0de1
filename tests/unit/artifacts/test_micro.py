from pathlib import Path

import torch

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.artifacts.micro import make_micro_model

SMALL = ModelArgs(dim=16, n_layers=4, n_heads=2, vocab_size=11, n_future_tokens=2, multiple_of=8)


def test_the_micro_of_the_objective_is_under_50_megabytes(tmp_path: Path) -> None:
    args = ModelArgs(dim=256, n_layers=7, n_heads=4, vocab_size=32000, n_future_tokens=4)
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
