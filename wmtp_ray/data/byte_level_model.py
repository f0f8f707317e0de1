"""Byte-level BPE behind `CodeTokenizer`: a tokenizer.json, as LLaMA 3 and SmolLM2 have. Needs the package tokenizers.

tokenizer.json does not say which of its tokens begin and end a text; the tokenizer_config.json beside it does. A model
without a begin token was trained on texts that follow one another with an end token between them: there the end token
begins a text, too.

A piece is a run of bytes, written with a visible character for each (GPT-2's alphabet: "Ġ" is the blank). So offsets
and decoding count bytes, and no piece is empty: an "é" in two pieces has the spans (0, 1), (1, 2).
"""

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wmtp_ray.contracts import Int32
from wmtp_ray.data.byte_level_settings import EXPECTED, form_of, require_unchanged_text
from wmtp_ray.data.sentencepiece_model import Span
from wmtp_ray.data.special_split import SpecialToken, SpecialTokens
from wmtp_ray.data.text_normaliser import TextNormaliser
from wmtp_ray.data.tokenizer_settings import named_tokens, read_object
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import TokenizerFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are their own character
_HIDDEN = [byte for byte in range(0x100) if byte not in _VISIBLE]  # these have characters from U+0100 on
ALPHABET = {chr(byte): byte for byte in _VISIBLE} | {chr(0x100 + n): byte for n, byte in enumerate(_HIDDEN)}
# Some vocabularies lack these, and no program misses them: control characters, lead bytes of no assigned character.
_DISPENSABLE = {*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)} - set(b"\t\n\r")


class ByteLevelModel:
    """A tokenizer.json's pieces. ArtifactError for a file that is no byte-level BPE or changes the text it is given.

    Where it normalises, a text that it would change has ids and no offsets.

    A special token written in a text is text. Bytes that the vocabulary lacks leave no piece, as in transformers; a
    vocabulary that lacks one that programs need is refused.
    """

    newline_ends_pieces = False  # blanks and newlines are cut off together before any merge: "\n   " can be one piece

    def __init__(self, model: bytes, path: Path) -> None:
        content = read_object(model, path)
        require_unchanged_text(content, path)
        self._tokenizer = _load_tokenizer(model, path)
        normalizer = self._tokenizer.normalizer
        self._normaliser = TextNormaliser(form_of(content), str if normalizer is None else normalizer.normalize_str)
        _require_unchanged_tokens(content, self._normaliser, path)
        self._special = SpecialTokens(
            {
                each["content"]: SpecialToken(int(each["id"]), each["lstrip"], each["rstrip"], each["single_word"])
                for each in content["added_tokens"]
                if each["special"]
            }
        )
        self.vocab_size: int = max(self._tokenizer.get_vocab().values()) + 1
        begin, end = read_end_tokens(path)
        self.bos_id, self.eos_id = self._id_of(begin, path), self._id_of(end, path)
        self._bytes_V = self._bytes_of_pieces()
        self._require_bytes(path)

    def encode(self, text: str) -> Int32:
        """Ids of the text's pieces, of its normal form where the model normalises.

        Nothing is added, and no piece of the text is a special token.
        """
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and the UTF-8 bytes [begin, end) that each stands for; bytes without a piece count to the piece before.

        Where there is none before, they count to the first. Raises ChangedText where the model normalises and the text
        is not in its form.
        """
        self._normaliser.require_unchanged(text)
        ids_T = self.encode(text)
        if not len(ids_T):
            return [], []
        encoded = np.frombuffer(text.encode(), dtype=np.uint8)
        spelled = np.append(np.flatnonzero(self._has_piece[encoded]), len(encoded))
        ends_T = spelled[np.cumsum(self._num_bytes_V[ids_T])]
        return ids_T.tolist(), list(pairwise([0, *ends_T.tolist()]))

    @property
    def special(self) -> SpecialTokens:
        """The tokens that chats are made of."""
        return self._special

    def encode_part(self, text: str, *, begins_text: bool) -> tuple[list[int], list[Span]]:
        """Do what `encode_with_offsets` does: a text between special tokens is like any other."""
        return self.encode_with_offsets(text)

    def encode_normalised(self, text: str, *, begins_text: bool) -> Int32:
        """Do what `encode` does."""
        return self.encode(text)

    def encode_with_special_tokens(self, text: str) -> Int32:
        """Ids of a text in which the text of a special token stands for that token."""
        return self._special.encode(text, lambda part, _: self.encode(part))

    def decode(self, ids: list[int]) -> str:
        """Text of whole sequences, special tokens left out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self._bytes_V[i] for i in ids]).decode(errors="replace")

    @cached_property
    def _num_bytes_V(self) -> Int32:
        return np.array([len(spelled) for spelled in self._bytes_V], dtype=np.int32)

    @cached_property
    def _has_piece(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """[256] Whether a byte can be spelled."""
        vocabulary = self._tokenizer.get_vocab()
        characters = sorted(ALPHABET, key=ALPHABET.__getitem__)
        return np.array([character in vocabulary for character in characters])

    def _id_of(self, token: str, path: Path) -> int:
        if token not in self._special.by_text:
            raise ArtifactError(
                f"{TokenizerFolder.of(path).config} names {token!r}, which is no special token of {path.name}; give "
                "the two files of one model"
            )
        return self._special.by_text[token].index

    def _bytes_of_pieces(self) -> list[bytes]:
        """[V] What each id spells; special tokens and unused ids spell nothing."""
        spelled = [b""] * self.vocab_size
        for piece, index in self._tokenizer.get_vocab(with_added_tokens=False).items():
            spelled[index] = bytes(ALPHABET[character] for character in piece if character in ALPHABET)
        for index, token in self._tokenizer.get_added_tokens_decoder().items():
            spelled[index] = b"" if token.special else token.content.encode()
        return spelled

    def _require_bytes(self, path: Path) -> None:
        missing = set(np.flatnonzero(~self._has_piece).tolist()) - _DISPENSABLE
        if missing:
            listed = ", ".join(f"0x{byte:02X}" for byte in sorted(missing)[:5])
            raise ArtifactError(
                f"{path}: found no piece for {len(missing)} bytes that text needs ({listed}); {EXPECTED}"
            )


def read_end_tokens(path: Path) -> tuple[str, str]:
    """Return the tokens that begin and end a text, from the tokenizer_config.json beside `path`."""
    settings_path = TokenizerFolder.of(path).config
    if not settings_path.exists():
        raise ArtifactError(
            f"{settings_path} is missing, expected it beside {path.name}: it names the begin and end tokens; copy both "
            "files of the model"
        )
    named = named_tokens(path.parent)
    begin, end = named.get("bos_token"), named.get("eos_token")
    if end is None:
        raise ArtifactError(f"{settings_path} names no eos_token, expected one: a program must end; add it")
    return (end if begin is None else begin), end


def _load_tokenizer(model: bytes, path: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ArtifactError(
            f"{path}: found no package tokenizers, expected it for a tokenizer.json; run pip install 'wmtp_ray[hf]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_buffer(model)
    except Exception as error:  # its Rust side raises nothing narrower
        raise ArtifactError(f"{path}: found a file that tokenizers refuses ({error}); {EXPECTED}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _require_unchanged_tokens(content: dict[str, Any], normaliser: TextNormaliser, path: Path) -> None:
    """Refuse an added token that is looked for in another spelling than its own: its id would stand for other bytes."""
    changed = [
        each["content"]
        for each in content.get("added_tokens", [])
        if each.get("normalized") and normaliser.changes(each["content"])
    ]
    if changed:
        raise ArtifactError(
            f"{path}: found the added tokens {', '.join(map(repr, changed[:3]))}, which its normaliser "
            f"({normaliser.form}) writes otherwise, expected tokens in that form, or with normalized: false; correct "
            "them in tokenizer.json"
        )
