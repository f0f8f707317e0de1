"""SentencePiece behind `CodeTokenizer`: a tokenizer.model, as LLaMA 1 and 2 and all models trained here have."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp_ray.contracts import Int32
from wmtp_ray.data.file_kind import HEAD_BYTES, found_instead, remedy_for
from wmtp_ray.errors import ArtifactError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

Span = tuple[int, int]


class SentencePieceModel:
    """A tokenizer.model's pieces. ArtifactError for bytes that are none, and for a model without BOS or EOS."""

    def __init__(self, model: bytes, path: Path) -> None:
        self._processor = _load_processor(model, path)
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise ArtifactError(
                f"{path}: found bos_id {self.bos_id} and eos_id {self.eos_id}, expected both to exist; train the "
                "tokenizer with BOS and EOS"
            )

    def encode(self, text: str) -> Int32:
        """Ids of the text's pieces; nothing is added, and no piece of the text is a control id."""
        ids_T: Int32 = self._processor.encode(text, return_type="numpy")
        return ids_T

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and the UTF-8 bytes [begin, end) that each stands for."""
        mapping = self._processor.encode(text, return_type="offset_mapping", return_bytes=True)
        return mapping["ids"], mapping["offsets"]

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
        from sentencepiece import sentencepiece_model_pb2 as proto

        model = proto.ModelProto.FromString(self._processor.serialized_model_proto())  # type: ignore[attr-defined]
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        return (
            trainer.model_type == trainer.BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and not any("\n" in each.piece[:-1] for each in model.pieces)
        )


def _load_processor(model: bytes, path: Path) -> "SentencePieceProcessor":
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
