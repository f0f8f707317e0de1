"""Meta's golden checkpoint, converted: the same tensors and the logits of Meta's own definition (shared data)."""

from datetime import datetime
from pathlib import Path

import pytest
import torch

from wmtp_ray.artifacts.convert_checkpoint import open_checkpoint
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.artifacts.model_directory import write_model

DIRECTORY = Path(__file__).parents[3] / "shared" / "data" / "golden_mtp"


@pytest.mark.skipif(not DIRECTORY.exists(), reason="the golden model is not part of the repository")
def test_the_converted_checkpoint_gives_metas_logits(tmp_path: Path) -> None:
    with torch.serialization.safe_globals([torch.torch_version.TorchVersion]):
        golden = torch.load(DIRECTORY / "golden.pt", weights_only=True)
    checkpoint = open_checkpoint(DIRECTORY, tokenizer=None, version=None)
    write_model(tmp_path / "golden", checkpoint, datetime(2026, 1, 1), print, dry_run=False)
    assert not (tmp_path / "golden" / "consolidated.pth").exists()
    with torch.no_grad():
        logits_BTHV = load_transformer(tmp_path / "golden")(golden["tokens"], return_all_heads=True)
        original_BTHV = load_transformer(DIRECTORY)(golden["tokens"], return_all_heads=True)
    assert torch.equal(logits_BTHV, original_BTHV)
    torch.testing.assert_close(logits_BTHV, golden["logits"], rtol=0, atol=1e-4)
