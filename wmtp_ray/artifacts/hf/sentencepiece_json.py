"""A SentencePiece BPE written as the tokenizer.json of the tokenizers package, for engines that read no other form.

SentencePiece joins the neighbours whose joined piece has the highest score, the leftmost of equals; a tokenizer.json
lists pairs in the order in which they are joined. So each way to split a piece into two others is a pair, and pairs
stand in the order of the joined pieces' scores. A text comes out as the same ids. What engines expect differs in two
things: BOS is put in front, and a control token written in a text is that token. A blank right behind a control token
is one too many here in a model that puts a blank before a text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wmtp_ray.errors import ArtifactError

BLANK = "\u2581"  # SentencePiece's mark
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # SentencePiece's types of pieces


def sentencepiece_as_json(
    content: bytes,
    path: Path,
    *,
    blank_behind_special: bool = False,
    stripping: Mapping[str, tuple[bool, bool]] = MappingProxyType({}),
) -> bytes:
    """Return the tokenizer.json of a tokenizer.model; ArtifactError where it is no BPE or changes the text it is given.

    `path` is where the content comes from, for messages. `blank_behind_special`: the blank that the model puts before
    a text stands behind each special token, too. `stripping` tells the control tokens that swallow white space to
    their left and right.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    model = proto.ModelProto.FromString(content)  # type: ignore[attr-defined]  # generated
    _require_convertible(model, path)
    has_prefix = model.normalizer_spec.add_dummy_prefix
    where = "never" if not has_prefix else "always" if blank_behind_special else "first"
    taken_away = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer = Tokenizer(_bpe(model))
    if has_prefix:  # Metaspace puts no blank before one; SentencePiece does
        tokenizer.normalizer = normalizers.Replace(Regex(r"\A "), "  ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme=where, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *taken_away]
    )
    tokenizer.add_tokens(_added_tokens(model, stripping))
    tokenizer.post_processor = _begin_in_front(model)
    written: str = tokenizer.to_str()
    return written.encode()


def sentencepiece_end_tokens(content: bytes) -> dict[str, str]:
    """Return the begin, end and unknown token of a tokenizer.model as a tokenizer_config.json names them."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto.FromString(content)  # type: ignore[attr-defined]  # generated
    trainer = model.trainer_spec
    ids = {"bos_token": trainer.bos_id, "eos_token": trainer.eos_id, "unk_token": trainer.unk_id}
    return {key: model.pieces[index].piece for key, index in ids.items()}


def _require_convertible(model: Any, path: Path) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    problems = {
        "no BPE": trainer.model_type != trainer.BPE,
        "no byte fallback": not trainer.byte_fallback,
        "blanks behind words": trainer.treat_whitespace_as_suffix,
        "folding of characters": normalizer.precompiled_charsmap,
        "folding of blanks": normalizer.remove_extra_whitespaces,
    }
    if found := [text for text, wrong in problems.items() if wrong]:
        raise ArtifactError(
            f"{path}: found a SentencePiece model with {', '.join(found)}, expected a BPE that keeps every text as it "
            "is, as LLaMA's: this one cannot be written as a tokenizer.json"
        )


def _bpe(model: Any) -> Any:
    from tokenizers import models

    vocabulary = {_written(piece): index for index, piece in enumerate(model.pieces)}
    unknown = next(piece.piece for piece in model.pieces if piece.type == _UNKNOWN)
    return models.BPE(
        vocab=vocabulary, merges=_merges(model.pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )


def _merges(pieces: Sequence[Any]) -> list[tuple[str, str]]:
    """Return all pairs of pieces that join to a piece: best score first, for one piece the longest left part first.

    A run of equal pieces pairs off from its left, so what is left over stands on the right.
    """
    normal = {piece.piece for piece in pieces if piece.type == _NORMAL}
    merges: list[tuple[str, str]] = []
    for piece in sorted((piece for piece in pieces if piece.type == _NORMAL), key=lambda piece: -piece.score):
        splits = ((piece.piece[:cut], piece.piece[cut:]) for cut in range(len(piece.piece) - 1, 0, -1))
        merges += [(left, right) for left, right in splits if left in normal and right in normal]
    return merges


def _added_tokens(model: Any, stripping: Mapping[str, tuple[bool, bool]]) -> list[Any]:
    """Return the tokens that are matched before any merge: control tokens, and user-defined symbols (text)."""
    from tokenizers import AddedToken

    return [
        AddedToken(
            _written(piece),
            special=piece.type in (_CONTROL, _UNKNOWN),
            normalized=False,
            **dict(zip(("lstrip", "rstrip"), stripping.get(piece.piece, (False, False)), strict=True)),
        )
        for piece in model.pieces
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _written(piece: Any) -> str:
    """Return a piece as it is matched: a user-defined symbol in the raw text, any other after blanks became marks."""
    text: str = piece.piece
    return text.replace(BLANK, " ") if piece.type == _USER_DEFINED else text


def _begin_in_front(model: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    begin = model.pieces[model.trainer_spec.bos_id].piece
    return TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, model.trainer_spec.bos_id)]
    )
