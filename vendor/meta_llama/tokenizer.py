"""SentencePiece behind Meta's `Tokenizer` interface. Our own definition, not Meta's code. No prompt template."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece


class Tokenizer:
    """Text to ids and back. `pad_id` is -1 where the model has no padding piece, as in LLaMA."""

    def __init__(self, model_path: str | Path):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
        self.n_words: int = self.processor.vocab_size()
        self.bos_id: int = self.processor.bos_id()
        self.eos_id: int = self.processor.eos_id()
        self.pad_id: int = self.processor.pad_id()

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """Encode a text, with the begin and end ids where asked for."""
        ids: list[int] = self.processor.encode(s)
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to a text; begin and end ids leave no trace.

        The first piece loses its leading blank: decode prompt and continuation together, then cut.
        """
        text: str = self.processor.decode(list(ids))
        return text
