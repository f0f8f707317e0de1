"""Byte-level tokenizers in the shapes that published families have, trained on a few lines of text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Split

from tests.byte_level_tokenizer import write_byte_level

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Shape:
    """How a family cuts and writes text before its merges; `ignore_merges`: a word that is a piece is one token."""

    normalizer: normalizers.Normalizer | None
    cuts: Callable[[], list[pre_tokenizers.PreTokenizer]]
    ignore_merges: bool = False


def _by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return Split(Regex(pattern), behavior="isolated")


def _bytes(*, use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=use_regex)


SHAPES = {
    "qwen": Shape(normalizers.NFC(), lambda: [_by(_WORDS + r"|\p{N}" + _REST), _bytes(use_regex=False)]),
    "llama 3": Shape(None, lambda: [_by(_WORDS + r"|\p{N}{1,3}" + _REST), _bytes(use_regex=False)], ignore_merges=True),
    "smollm": Shape(None, lambda: [Digits(individual_digits=True), _bytes(use_regex=True)]),
    "deepseek coder": Shape(
        normalizers.Sequence([]),
        lambda: [
            _by(r"[\r\n]"),
            _by(r"\s?\p{L}+"),
            _by(r"\s?\p{P}+"),
            _by(r"[\x{4e00}-\x{9fa5}]+"),
            Digits(individual_digits=True),
            _bytes(use_regex=False),
        ],
    ),
}


def write_shape(directory: Path, name: str, **settings: object) -> Path:
    """Write a tokenizer.json of a shape and its tokenizer_config.json; `settings` are more keys of the latter."""
    path, shape = write_byte_level(directory, **settings), SHAPES[name]  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(path))
    if shape.normalizer is not None:
        tokenizer.normalizer = shape.normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(shape.cuts())
    assert isinstance(tokenizer.model, models.BPE)
    tokenizer.model.ignore_merges = shape.ignore_merges
    tokenizer.save(str(path))
    return path
