"""A tokenizer of 300 pieces, and what is said while files are written."""

from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(["print(int(input()) + 1)\n", "### Instruction:\nSolve p.\n"] * 9, path, 300)
    return path


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def said() -> list[str]:
    return []
