"""SentencePiece behind `CodeTokenizer`: a tokenizer.model, as LLaMA 1 and 2 and all models trained here have.

SentencePiece writes U+2581 for a blank, and takes one that stands in a text for a blank as well. A program that holds
the character itself (a bar chart of blocks) would come back with a blank: it is cut out and spelled in its three bytes.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wmtp_ray.contracts import Int32
from wmtp_ray.data.file_kind import HEAD_BYTES, found_instead, remedy_for
from wmtp_ray.data.special_split import SpecialToken, SpecialTokens
from wmtp_ray.data.tokenizer_settings import named_tokens, stripping_tokens
from wmtp_ray.errors import ArtifactError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

Span = tuple[int, int]
BLANK_MARK = "\u2581"  # "lower one eighth block"


class SentencePieceModel:
    """A tokenizer.model's pieces. ArtifactError for bytes that are none, and for a model without BOS or EOS."""

    def __init__(self, model: bytes, path: Path) -> None:
        self._path = path
        self._processor = load_processor(model, path)
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        _require_named_ends(self._processor, path)
        if min(self.bos_id, self.eos_id) < 0:
            raise ArtifactError(
                f"{path}: found bos_id {self.bos_id} and eos_id {self.eos_id}, expected both to exist; train the "
                "tokenizer with BOS and EOS"
            )

    def encode(self, text: str) -> Int32:
        """Ids of the text's pieces; nothing is added, and no piece of the text is a control id."""
        if BLANK_MARK in text:
            return self._encode_around_marks(text)
        ids_T: Int32 = self._processor.encode(text, return_type="numpy")
        return ids_T

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and the UTF-8 bytes [begin, end) that each stands for."""
        return self.encode_part(text, begins_text=True)

    def encode_part(self, text: str, *, begins_text: bool) -> tuple[list[int], list[Span]]:
        """Do what `encode_with_offsets` does; the blank that a model puts before a text stands where one begins."""
        ids: list[int] = []
        spans: list[Span] = []
        start, mark = 0, [(0, 0)] * (len(self._mark_ids) - 1) + [(0, len(BLANK_MARK.encode()))]
        for number, part in enumerate(text.split(BLANK_MARK)):
            processor = self._processor if number == 0 and begins_text else self._without_prefix
            found = processor.encode(part, return_type="offset_mapping", return_bytes=True)
            if number > 0:
                found = {
                    "ids": [*self._mark_ids, *found["ids"]],
                    "offsets": [*mark, *_moved(found["offsets"], mark[-1][1])],
                }
            ids += found["ids"]
            spans += _moved(found["offsets"], start)
            start += len(part.encode()) + (mark[-1][1] if number else 0)
        return ids, spans

    def encode_normalised(self, text: str, *, begins_text: bool) -> Int32:
        """Return the ids of `encode_part`."""
        return self.encode(text) if begins_text else self._encode_around_marks(text, has_prefix=False)

    @property
    def special(self) -> SpecialTokens:
        """The tokens that chats are made of."""
        return self._special

    def encode_with_special_tokens(self, text: str, *, blank_behind_special: bool) -> Int32:
        """Ids of a text in which the text of a control token stands for that token.

        The blank that a model puts before a text stands before its first part; `blank_behind_special`: before all.
        """

        def encode_part(part: str, is_first: bool) -> Int32:
            return self.encode_normalised(part, begins_text=is_first or blank_behind_special)

        return self._special.encode(text, encode_part)

    def _encode_around_marks(self, text: str, *, has_prefix: bool = True) -> Int32:
        """As `encode`, for a text with the character that SentencePiece takes for a blank."""
        first, *others = text.split(BLANK_MARK)
        mark = np.array(self._mark_ids, dtype=np.int32)
        ids = [(self._processor if has_prefix else self._without_prefix).encode(first, return_type="numpy")]
        for part in others:
            ids += [mark, self._without_prefix.encode(part, return_type="numpy")]
        return np.concatenate(ids).astype(np.int32)

    @cached_property
    def _mark_ids(self) -> list[int]:
        """The three bytes of U+2581; the unknown piece in a model that does not spell in bytes."""
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in BLANK_MARK.encode()]

    @cached_property
    def _without_prefix(self) -> "SentencePieceProcessor":
        """Return the same model without the leading blank: for a text that continues another."""
        model = self._proto()
        model.normalizer_spec.add_dummy_prefix = False
        return load_processor(model.SerializeToString(), self._path)

    @cached_property
    def _special(self) -> SpecialTokens:
        ids = range(self.vocab_size)
        special = [i for i in ids if self._processor.is_control(i) or self._processor.is_unknown(i)]
        stripping = stripping_tokens(self._path.parent)
        tokens = {self._processor.id_to_piece(i): i for i in special}
        return SpecialTokens(
            {text: SpecialToken(i, *stripping.get(text, (False, False))) for text, i in tokens.items()}
        )

    def _proto(self) -> Any:
        from sentencepiece import sentencepiece_model_pb2 as proto

        return proto.ModelProto.FromString(self._processor.serialized_model_proto())  # type: ignore[attr-defined]

    def decode(self, ids: list[int]) -> str:
        """Text of whole sequences, control ids left out, without the blank that a model may put in front."""
        text: str = self._processor.decode(ids)
        return text

    @cached_property
    def newline_ends_pieces(self) -> bool:
        """Whether no piece goes on after a newline, in a BPE that takes the text as it is.

        A BPE joins two neighbours only if the joined text is a piece, so both sides of such a newline merge on their
        own. In a unigram model ties between whole segmentations could fall differently, and without byte fallback
        neighbours outside the vocabulary, the newline among them, become one unknown piece.
        """
        model = self._proto()
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        return (
            trainer.model_type == trainer.BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and not any("\n" in each.piece[:-1] for each in model.pieces)
        )


def _require_named_ends(processor: "SentencePieceProcessor", path: Path) -> None:
    """Refuse a tokenizer.model whose companions name other tokens: it lacks what was added to the model later."""
    named = named_tokens(path.parent)
    ids = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id()}
    for role, index in ids.items():
        piece = processor.id_to_piece(index) if index >= 0 else None
        if named.get(role, piece) != piece:
            raise ArtifactError(
                f"{path}: found {piece!r} as its {role}, the files beside it say {named[role]!r}, expected one; take "
                "the tokenizer.model that wmtp import writes for this model, or put this one into a folder of its own"
            )


def _moved(spans: list[Span], num_bytes: int) -> list[Span]:
    return [(begin + num_bytes, end + num_bytes) for begin, end in spans]


def load_processor(model: bytes, path: Path) -> "SentencePieceProcessor":
    """Load a tokenizer.model; ArtifactError for bytes that are none, which names what they are."""
    from sentencepiece import SentencePieceProcessor  # imported late: indexing without counting does not need it

    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)  # not the constructor, which lets empty bytes pass
    except (RuntimeError, ValueError, TypeError) as error:
        head = model[:HEAD_BYTES]
        damaged = "the file is cut short or damaged: compare its size with the published one and fetch the file again"
        raise ArtifactError(
            f"{path}: found {found_instead(head, len(model))}, no SentencePiece model, expected a tokenizer.model; "
            f"{remedy_for(head, damaged)}"
        ) from error
    return processor
