"""The vendored model against logits that Meta's own definition gave for a tiny random model (shared data)."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vendor.meta_llama import KVCache, ModelArgs, Transformer
from wmtp_ray.artifacts.meta_checkpoint import load_transformer

DIRECTORY = Path(__file__).parents[3] / "shared" / "data" / "golden_mtp"
pytestmark = pytest.mark.skipif(not DIRECTORY.exists(), reason="the golden model is not part of the repository")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with torch.serialization.safe_globals([torch.torch_version.TorchVersion]):
        return torch.load(DIRECTORY / "golden.pt", weights_only=True)


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ModelArgs(**json.loads((DIRECTORY / "params.json").read_text())))
    model.load_state_dict(torch.load(DIRECTORY / "consolidated.pth", weights_only=True))
    return model.requires_grad_(False)


def test_all_heads_trunk_and_normed_heads_equal_metas(model: Transformer, golden: dict[str, Tensor]) -> None:
    tokens_BT = golden["tokens"]
    torch.testing.assert_close(model(tokens_BT, return_all_heads=True), golden["logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(model.trunk(tokens_BT), golden["trunk"], rtol=0, atol=1e-4)
    for horizon in range(1, 5):
        hidden_BTD = model.head_hidden(model.trunk(tokens_BT), horizon)
        torch.testing.assert_close(hidden_BTD, model.norm(golden["heads"][:, :, horizon - 1]), rtol=0, atol=1e-4)


def test_cached_decoding_equals_metas(model: Transformer, golden: dict[str, Tensor]) -> None:
    tokens_BT = golden["tokens"]
    num_sequences, num_positions = tokens_BT.shape
    cache = KVCache(model.args, batch_size=num_sequences, max_length=num_positions)
    steps = [model(tokens_BT[:, t : t + 1], start_pos=t, cache=cache)[:, :, 0] for t in range(num_positions)]
    torch.testing.assert_close(torch.cat(steps, dim=1), golden["inc_logits"], rtol=0, atol=1e-4)


def test_the_loader_reads_metas_files(golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        logits_BTHV = load_transformer(DIRECTORY)(golden["tokens"], return_all_heads=True)
    torch.testing.assert_close(logits_BTHV, golden["logits"], rtol=0, atol=1e-4)
