"""Train a small SentencePiece tokenizer from texts, of the same kind as LLaMA's.

BPE with byte fallback; ids unk 0, bos 1, eos 2, no padding piece. Unlike SentencePiece's defaults nothing is
normalised and no blank is put in front, so decoding gives back every text exactly, indentation and newlines included.
Knows neither rows nor templates: the caller passes texts as the model will see them.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from wmtp_ray.data.sentencepiece_model import BLANK_MARK
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import DataError

MAX_TEXT_BYTES = 1 << 24  # longer texts would be dropped in silence
TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
TOO_LARGE = re.compile(r"too high \(\d+\)\. Please set it to a value <= (\d+)")


def train_tokenizer(
    texts: Iterable[str], model_path: Path, vocab_size: int, *, user_defined_symbols: Sequence[str] = ()
) -> None:
    """Train on all texts and write the model to `model_path`.

    `vocab_size` counts everything: 3 control pieces, 256 bytes, the symbols, one piece for each distinct character,
    and the merges. A user defined symbol is always one piece and never part of another: a template's headers cost one
    token each and no merge. The same texts in the same order give the same bytes. Raises DataError when there is no
    text, one is too long, or the texts cannot give exactly `vocab_size` pieces.
    """
    corpus = list(texts)
    require_trainable(corpus)
    model = io.BytesIO()  # a file's name would be stored in the model and change its bytes
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=[symbol.replace(" ", BLANK_MARK) for symbol in user_defined_symbols],
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            max_sentence_length=MAX_TEXT_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise explain(error, vocab_size, len(corpus)) from error
    atomic_write(model_path, model.getvalue())


def require_trainable(corpus: Sequence[str]) -> None:
    """Refuse texts that SentencePiece would drop silently."""
    if not any(corpus):
        raise DataError(
            f"tokenizer training found no text in {len(corpus)} rows, expected at least one: check the training file"
        )
    longest_bytes = max(len(text.encode()) for text in corpus)
    if longest_bytes >= MAX_TEXT_BYTES:
        raise DataError(
            f"a text for tokenizer training has {longest_bytes} bytes, expected fewer than {MAX_TEXT_BYTES}: split it"
        )


def explain(error: RuntimeError, vocab_size: int, num_texts: int) -> Exception:
    """Translate SentencePiece's error about the vocabulary's size; return any other error unchanged."""
    found = f"a tokenizer of {vocab_size} pieces was asked for, but the {num_texts} texts"
    if match := TOO_SMALL.search(str(error)):
        return DataError(f"{found} need at least {match[1]} (control, bytes, symbols, characters): raise vocab_size")
    if match := TOO_LARGE.search(str(error)):
        return DataError(f"{found} give at most {match[1]}: lower vocab_size or train on more text")
    return error
