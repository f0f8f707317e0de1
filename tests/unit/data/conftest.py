"""Tiny SentencePiece models and row makers: nothing outside the repository is needed."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.tokenizer import CodeTokenizer

CORPUS = [
    "### Instruction:\nAdd two numbers and print the sum.\n\n### Response:\n",
    "### Instruction:\nCount the words of a line.\n\n### Input:\nInput: a b\nOutput: 2\n\n### Response:\n",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))",
    "for i in range(int(input())):\n    words = input().split()\n    print(len(words))",
    "    if x == 1:\n        x = 2\n    else:\n\t\tx = 3",
    "while True:\n    try:\n        n = n - 1\n    except ValueError:\n        break",
]


def train(path: Path, vocab_size: int, symbols: tuple[str, ...] = (), **options: object) -> Path:
    """Train a byte-fallback BPE like LLaMA's, single-threaded, and write it to `path`."""
    model = io.BytesIO()
    settings: dict[str, object] = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        vocab_size=vocab_size,
        user_defined_symbols=list(symbols),
        **(settings | options),
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def train_tokenizer() -> Callable[..., Path]:
    return train


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", vocab_size=400)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> CodeTokenizer:
    return CodeTokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def straddling_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    """Has the pieces "\\nd" and ":\\n ": with it the template's last newline merges into the response."""
    directory = tmp_path_factory.mktemp("straddling")
    return CodeTokenizer(train(directory / "tokenizer.model", 420, symbols=("\nd", ":\n▁")))


def make_record(**changes: object) -> dict[str, object]:
    """A valid record; keyword arguments replace keys, `metadata` is merged."""
    metadata = {"source": "made_up", "difficulty": 7, "has_tests": True, "language": 3, "cf_rating": 800}
    record: dict[str, object] = {
        "instruction": "Add two numbers.",
        "input": "Input: 1 2\nOutput: 3",
        "output": "a, b = map(int, input().split())\nprint(a + b)",
        "task_id": "1060_A. Phone Numbers_correct_0",
        "is_correct": True,
        "metadata": metadata,
    }
    extra = changes.pop("metadata", {})
    assert isinstance(extra, dict)
    return record | changes | {"metadata": metadata | extra}


@pytest.fixture(scope="session")
def record() -> Callable[..., dict[str, object]]:
    return make_record


@pytest.fixture(scope="session")
def line() -> Callable[..., bytes]:
    """The record as one line of UTF-8 without its line end."""
    return lambda **changes: json.dumps(make_record(**changes), ensure_ascii=False).encode("utf-8")


@pytest.fixture
def jsonl(tmp_path: Path, line: Callable[..., bytes]) -> Path:
    """Three valid rows of two problems."""
    solutions = enumerate([("b", "correct"), ("a b.c", "incorrect"), ("b", "incorrect")])
    lines = [
        line(task_id=f"{name}_{label}_{n}", is_correct=label == "correct", output=f"print({n})\n" * (n + 1))
        for n, (name, label) in solutions
    ]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def assert_same_index() -> Callable[[RowIndex, RowIndex], None]:
    return compare_indexes


def compare_indexes(one: RowIndex, other: RowIndex) -> None:
    for name in RowIndex.__dataclass_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, name)
        else:
            assert left == right, name
