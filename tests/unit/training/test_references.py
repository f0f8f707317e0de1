"""Reference losses by one or two models, as the actor and the token evidence ask for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.contracts import TokenBatch
from wmtp_ray.training.references import References

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    args = ModelArgs(dim=32, n_layers=4, n_heads=2, vocab_size=24, n_future_tokens=2, multiple_of=16)
    for name, seed in (("plus", 0), ("minus", 9)):
        make_micro_model(root / name, args, seed=seed)
    return [root / "plus", root / "minus"]


def naive_losses(directory: Path, batch: TokenBatch) -> np.ndarray:
    """Each document by itself, from whole logits; 0 at its first token."""
    model, found = load_transformer(directory).eval(), []
    for document, length in zip(np.cumsum(batch.document_lengths_M), batch.document_lengths_M, strict=True):
        tokens_T = torch.from_numpy(batch.tokens_BT[0, document - length : document])
        with torch.no_grad():
            logits_TV = model(tokens_T[None])[0].reshape(int(length), -1)
        losses_T = -logits_TV.log_softmax(dim=-1)[torch.arange(int(length) - 1), tokens_T[1:]]
        found.append(np.concatenate([[0.0], losses_T.numpy()]))
    return np.concatenate(found)


def test_each_reference_gives_its_own_losses_that_of_correct_rows_first(nano, models):
    batch = nano.scored_batch(nano.rows(5)).batch
    scores = References(models, CPU, "float32").scores(batch, version=3)
    assert scores.version == 3
    assert scores.values_BT is None
    np.testing.assert_allclose(scores.losses_BT[0], naive_losses(models[0], batch), atol=1e-4)
    np.testing.assert_allclose(scores.incorrect_losses_BT[0], naive_losses(models[1], batch), atol=1e-4)
    assert np.abs(scores.losses_BT - scores.incorrect_losses_BT).max() > 0.1


def test_one_reference_leaves_the_other_out(nano, models):
    batch = nano.scored_batch(nano.rows(5)).batch
    scores = References(models[:1], CPU, "float32").scores(batch)
    assert scores.incorrect_losses_BT is None
    np.testing.assert_allclose(scores.losses_BT[0], naive_losses(models[0], batch), atol=1e-4)
